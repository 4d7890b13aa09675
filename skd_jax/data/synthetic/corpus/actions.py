"""Sentences of one and two clauses about what people do."""

import dataclasses
import random
import re

from skd_jax.data.synthetic.corpus import (
  activities,
  adverbials,
  clauses,
  phrases,
)
from skd_jax.data.synthetic.corpus.clauses import (
  FINAL,
  INVERTED,
  Action,
  Adverbial,
  Tense,
)
from skd_jax.data.synthetic.corpus.phrases import Subject

Pair = tuple[str, str]
TOPICS = (
  "kitchen", "home", "shop", "travel", "office", "school", "sport", "leisure",
  "health",
)  # fmt: skip
# Topics of what one person asks of another.
ERRANDS = ("kitchen", "home", "office", "leisure")
_NOWHERE = Adverbial("", "")


def draw_action(
  rng: random.Random, subject: Subject, topic: str = ""
) -> Action:
  """Draws an activity (of a topic, or any) and fills it for the subject."""
  chosen = rng.choice(activities.by_topic()[topic or rng.choice(TOPICS)])
  return clauses.act(rng, chosen, subject)


def _draw_place(rng: random.Random, action: Action, share: float) -> Adverbial:
  if action.takes_place and rng.random() < share:
    return adverbials.place(rng, action.topic)
  return _NOWHERE


def _tail(*parts: Adverbial) -> str:
  return " ".join(part.english for part in parts if part.english)


def _front(adverbial: str) -> str:
  return adverbial + ("," if " " in adverbial else "")


def draw_tense(rng: random.Random, *tenses: Tense) -> tuple[Tense, Adverbial]:
  """Draws one of the tenses, and an adverbial of time that suits it."""
  tense = rng.choice(tenses)
  if tense.english in ("past", "could", "had to", "wanted to"):
    return tense, adverbials.past(rng)
  if tense == clauses.HABIT:
    return tense, adverbials.habit(rng)
  return tense, adverbials.future(rng)


def _timed(rng: random.Random, action: Action) -> tuple[Tense, Adverbial]:
  kind = rng.random()
  if kind < 0.36:
    return clauses.PAST, adverbials.past(rng)
  if kind < 0.62:
    return clauses.SOON, adverbials.future(rng)
  if kind < 0.82 or action.is_state:
    return clauses.HABIT, adverbials.habit(rng)
  return clauses.PROGRESSIVE, adverbials.now(rng)


def statement(rng: random.Random) -> Pair:
  """`Ich habe gestern im Park Fußball gespielt.`, or with the time first."""
  is_fronted = rng.random() < 0.4
  subject = phrases.draw_subject(rng, is_fronted)
  action = draw_action(rng, subject)
  tense, time = _timed(rng, action)
  place = _draw_place(rng, action, 0.45)
  # `Gerade habe ich` reads as `just now`, so it is never fronted.
  if is_fronted and time.english:
    german = clauses.german_clause(
      action, subject, tense, INVERTED, place=place.german
    )
    english = clauses.english_clause(action, subject, tense, tail=place.english)
    return (
      clauses.sentence(f"{time.german} {german}"),
      clauses.sentence(f"{_front(time.english)} {english}"),
    )
  if subject.german == "sie" and subject.is_plural:
    subject = phrases.PRONOUNS["wir"]
    action = draw_action(rng, subject)
    place = _draw_place(rng, action, 0.45)
    tense, time = clauses.PAST, adverbials.past(rng)
  return (
    clauses.sentence(
      clauses.german_clause(
        action, subject, tense, time=time.german, place=place.german
      )
    ),
    clauses.sentence(
      clauses.english_clause(action, subject, tense, tail=_tail(place, time))
    ),
  )


def modal_statement(rng: random.Random) -> Pair:
  """`Sie muss morgen im Büro die Rechnung bezahlen.`"""
  subject = phrases.draw_subject(rng)
  action = draw_action(rng, subject)
  modals = clauses.PRESENT_MODALS if rng.random() < 0.7 else clauses.PAST_MODALS
  tense, time = draw_tense(rng, *modals)
  place = _draw_place(rng, action, 0.3)
  german = clauses.german_clause(
    action, subject, tense, time=time.german, place=place.german
  )
  english = clauses.english_clause(
    action, subject, tense, tail=_tail(place, time)
  )
  return clauses.sentence(german), clauses.sentence(english)


def frequency_statement(rng: random.Random) -> Pair:
  """`Mein Vater trinkt morgens nie Kaffee.`"""
  subject = phrases.draw_subject(rng)
  action = draw_action(rng, subject)
  adverb = adverbials.frequency(rng)
  place = _draw_place(rng, action, 0.6)
  german = clauses.german_clause(
    action, subject, clauses.HABIT, place=place.german, time=adverb.german
  )
  english = clauses.english_clause(
    action, subject, clauses.HABIT, adverb.english, place.english
  )
  return clauses.sentence(german), clauses.sentence(english)


def commented_statement(rng: random.Random) -> Pair:
  """`Leider hat er den Zug verpasst.`"""
  subject = phrases.draw_subject(rng, True)
  action = draw_action(rng, subject)
  comment = adverbials.comment(rng)
  tense, time = draw_tense(rng, clauses.PAST, clauses.FUTURE, clauses.MUST)
  german = clauses.german_clause(
    action, subject, tense, INVERTED, time=time.german
  )
  english = clauses.english_clause(action, subject, tense, tail=time.english)
  lead = comment.english + ("" if comment.english == "maybe" else ",")
  return (
    clauses.sentence(f"{comment.german} {german}"),
    clauses.sentence(f"{lead} {english}"),
  )


def negated_statement(rng: random.Random) -> Pair:
  """`Ich habe den Brief noch nicht gelesen.`: a negation and its scope."""
  subject = phrases.draw_subject(rng)
  action = draw_action(rng, subject)
  while action.has_ein:
    action = draw_action(rng, subject)
  kind = rng.random()
  if kind < 0.3 and not action.is_state:
    german = clauses.german_clause(
      action, subject, clauses.PERFECT, negation="noch nicht"
    )
    english = clauses.english_clause(
      action, subject, clauses.PERFECT, tail="yet", negated=True
    )
  elif kind < 0.5 and not action.is_state:
    german = clauses.german_clause(
      action, subject, clauses.PERFECT, negation="noch nie"
    )
    english = clauses.english_clause(action, subject, clauses.PERFECT, "never")
  else:
    tense, time = draw_tense(
      rng, clauses.PAST, clauses.CAN, clauses.WANT, clauses.COULD
    )
    german = clauses.german_clause(
      action, subject, tense, time=time.german, negation="nicht"
    )
    english = clauses.english_clause(
      action, subject, tense, tail=time.english, negated=True
    )
  return clauses.sentence(german), clauses.sentence(english)


def question(rng: random.Random) -> Pair:
  """`Hast du gestern das Buch gelesen?`"""
  subject = phrases.draw_subject(rng, True)
  while subject.german == "ich":  # Few people ask what they do themselves.
    subject = phrases.draw_subject(rng, True)
  action = draw_action(rng, subject)
  kind = rng.random()
  if kind < 0.35:
    tense, time = clauses.PAST, adverbials.past(rng)
  elif kind < 0.7:
    tense, time = draw_tense(
      rng, clauses.CAN, clauses.MUST, clauses.WANT, clauses.SOON
    )
  else:
    tense, time = clauses.HABIT, adverbials.habit(rng)
  place = _draw_place(rng, action, 0.25)
  word, word_en = rng.choice(
    (("", ""),) * 5
    + (("warum ", "why "), ("mit wem ", "who "), ("wo ", "where "))
  )
  if word in ("wo ", "mit wem "):
    place = _NOWHERE
    usable = action.takes_place and "mit " not in action.late
    if word == "mit wem ":
      usable = usable and action.topic in ("leisure", "sport", "kitchen")
    word, word_en = (word, word_en) if usable else ("", "")
  german = clauses.german_clause(
    action, subject, tense, INVERTED, time.german, place.german
  )
  tail = "with " + time.english if word == "mit wem " else time.english
  english = clauses.english_clause(
    action,
    subject,
    tense,
    tail=" ".join(filter(None, (place.english, tail))),
    question=True,
  )
  return (
    clauses.sentence(word + german, "?"),
    clauses.sentence(word_en + english, "?"),
  )


def none_statement(rng: random.Random) -> Pair:
  """`Sie hat gestern keinen Kuchen gegessen.`: kein negates the indefinite."""
  subject = phrases.draw_subject(rng)
  action = draw_action(rng, subject)
  while not re.match(r"ein(e|en|em|er)? ", action.late):
    action = draw_action(rng, subject)
  action = dataclasses.replace(action, late="k" + action.late)
  tense, time = draw_tense(
    rng, clauses.PAST, clauses.WANT, clauses.CAN, clauses.COULD
  )
  german = clauses.german_clause(action, subject, tense, time=time.german)
  english = clauses.english_clause(
    action, subject, tense, tail=time.english, negated=True
  )
  return clauses.sentence(german), clauses.sentence(english)


def accident(rng: random.Random) -> Pair:
  """`Leider habe ich den Zug verpasst.`: what happens to people."""
  subject = phrases.draw_subject(rng)
  action = draw_action(rng, subject, "accident")
  time = adverbials.past(rng)
  if rng.random() < 0.6:
    german = clauses.german_clause(
      action, subject, clauses.PAST, time=time.german
    )
    english = clauses.english_clause(
      action, subject, clauses.PAST, tail=time.english
    )
    return clauses.sentence(german), clauses.sentence(english)
  lead, lead_en = rng.choice(_ACCIDENT_LEADS)
  german = clauses.german_clause(
    action, subject, clauses.PAST, clauses.FINAL, time=time.german
  )
  english = clauses.english_clause(
    action, subject, clauses.PAST, tail=time.english
  )
  return (
    clauses.sentence(f"{lead}, dass {german}"),
    clauses.sentence(f"{lead_en} that {english}"),
  )


_ACCIDENT_LEADS = (
  ("ich kann nicht glauben", "I can't believe"),
  ("in der Zeitung steht", "the newspaper says"),
  ("wir haben erst heute erfahren", "we only learned today"),
  ("niemand hat gemerkt", "nobody noticed"),
  ("es ist kein Wunder", "it is no wonder"),
)


def request(rng: random.Random) -> Pair:
  """`Können Sie mir bitte ...`, `Vergiss nicht, ... zu ...`, and their like."""
  subject = phrases.PRONOUNS[rng.choice(("du", "Sie"))]
  action = draw_action(rng, subject, rng.choice(ERRANDS))
  time = adverbials.future(rng)
  if rng.random() < 0.5:
    german = clauses.german_clause(
      action, subject, Tense("können", "can"), INVERTED, f"bitte {time.german}"
    )
    english = clauses.infinitive(action, time.english)
    return (
      clauses.sentence(german, "?"),
      clauses.sentence(f"can you please {english}", "?"),
    )
  lead = "vergiss" if subject.german == "du" else "vergessen Sie"
  return (
    clauses.sentence(f"{lead} nicht, {clauses.zu_clause(action, time.german)}"),
    clauses.sentence(
      f"don't forget to {clauses.infinitive(action, time.english)}"
    ),
  )


def infinitive_statement(rng: random.Random) -> Pair:
  """`Es macht Spaß, am Strand Volleyball zu spielen.`"""
  subject = phrases.PRONOUNS["ich"]
  german_lead, english_lead, is_gerund = rng.choice(_INFINITIVE_LEADS)
  action = draw_action(rng, subject)
  while "mein" in action.early + action.late or action.reflexive:
    action = draw_action(rng, subject)
  place = _draw_place(rng, action, 0.7)
  inner = clauses.zu_clause(action, place=place.german)
  build = clauses.gerund if is_gerund else clauses.infinitive
  return (
    clauses.sentence(f"{german_lead}, {inner}"),
    clauses.sentence(f"{english_lead} {build(action, place.english)}"),
  )


_INFINITIVE_LEADS = (
  ("es macht Spaß", "it is fun to", False),
  ("es ist nicht leicht", "it is not easy to", False),
  ("es ist verboten", "it is forbidden to", False),
  ("es ist wichtig", "it is important to", False),
  ("es ist langweilig", "it is boring to", False),
  ("es war schön", "it was nice to", False),
  ("ich habe keine Lust", "I don't feel like", True),
  ("ich habe vor", "I am planning to", False),
  ("wir haben beschlossen", "we have decided to", False),
  ("ich habe vergessen", "I have forgotten to", False),
  ("meine Schwester hat versucht", "my sister tried to", False),
  ("mein Bruder hat angefangen", "my brother started to", False),
  ("er hat versprochen", "he promised to", False),
  ("der Arzt hat mir geraten", "the doctor advised me to", False),
  ("niemand hat Zeit", "nobody has time to", False),
  ("ich freue mich darauf", "I am looking forward to", True),
)


def final(action: Action, subject: Subject, tense: Tense, **parts: str) -> str:
  """Returns a German clause with the verb at the end."""
  return clauses.german_clause(action, subject, tense, FINAL, **parts)
