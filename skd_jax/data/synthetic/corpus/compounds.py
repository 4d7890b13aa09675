"""Sentences of two clauses: reasons, conditions, order in time, reports."""

import random

from skd_jax.data.synthetic.corpus import (
  activities,
  adverbials,
  clauses,
  phrases,
)
from skd_jax.data.synthetic.corpus.actions import (
  TOPICS,
  Pair,
  draw_action,
  draw_tense,
  final,
)
from skd_jax.data.synthetic.corpus.clauses import INVERTED, Action, Tense
from skd_jax.data.synthetic.corpus.phrases import Subject


def _with_topic(rng: random.Random, subject: Subject) -> tuple[str, Action]:
  topic = rng.choice(TOPICS)
  return topic, draw_action(rng, subject, topic)


def because(rng: random.Random) -> Pair:
  """`Ich kaufe heute ein Kleid, weil ich bald heirate.`"""
  subject = phrases.draw_subject(rng)
  topic, action = _with_topic(rng, subject)
  tense, time = draw_tense(
    rng, clauses.MUST, clauses.WOULD_LIKE, clauses.SOON, clauses.WANT
  )
  follower = subject.as_pronoun()
  reason = clauses.act(rng, adverbials.motive(rng, topic), follower)
  inner = final(reason, follower, clauses.HABIT)
  inner_en = clauses.english_clause(reason, follower, clauses.HABIT)
  english = clauses.english_clause(action, subject, tense, tail=time.english)
  if rng.random() < 0.3:
    # The subordinate clause first: the main clause then starts with its verb.
    reason_first = final(reason, subject, clauses.HABIT)
    reason_en = clauses.english_clause(reason, subject, clauses.HABIT)
    main = clauses.german_clause(
      action, follower, tense, INVERTED, time=time.german
    )
    main_en = clauses.english_clause(action, follower, tense, tail=time.english)
    return (
      clauses.sentence(f"da {reason_first}, {main}"),
      clauses.sentence(f"since {reason_en}, {main_en}"),
    )
  german = clauses.german_clause(action, subject, tense, time=time.german)
  return (
    clauses.sentence(f"{german}, weil {inner}"),
    clauses.sentence(f"{english} because {inner_en}"),
  )


def prevented(rng: random.Random) -> Pair:
  """`Er konnte nicht kommen, weil er krank war.` or `..., obwohl ...`"""
  subject = phrases.draw_subject(rng)
  action = draw_action(rng, subject)
  while action.has_ein:
    action = draw_action(rng, subject)
  follower = subject.as_pronoun()
  is_past = rng.random() < 0.6
  state = Tense("preterite", "past") if is_past else clauses.HABIT
  if rng.random() < 0.65 or action.topic not in ("travel", "sport", "shop"):
    reason = clauses.act(rng, adverbials.hindrance(rng), follower)
    inner = final(reason, follower, state)
    inner_en = clauses.english_clause(reason, follower, state)
  else:
    chosen = adverbials.circumstance(rng, is_past)
    inner, inner_en = chosen.german, chosen.english
  time = adverbials.past(rng) if is_past else adverbials.future(rng)
  if rng.random() < 0.5:
    tense = clauses.COULD if is_past else clauses.CAN
    german = clauses.german_clause(
      action, subject, tense, time=time.german, negation="nicht"
    )
    english = clauses.english_clause(
      action, subject, tense, tail=time.english, negated=True
    )
    link, link_en = "weil", "because"
  else:
    tense = clauses.PAST if is_past else clauses.MUST
    german = clauses.german_clause(action, subject, tense, time=time.german)
    english = clauses.english_clause(action, subject, tense, tail=time.english)
    link, link_en = "obwohl", "although"
  return (
    clauses.sentence(f"{german}, {link} {inner}"),
    clauses.sentence(f"{english} {link_en} {inner_en}"),
  )


def conditional(rng: random.Random) -> Pair:
  """`Wenn das Wetter schön ist, gehen wir ...`"""
  subject = phrases.draw_subject(rng, True)
  action = draw_action(rng, subject)
  chosen = adverbials.condition(rng)
  tense = rng.choice((clauses.SOON, clauses.CAN, clauses.MUST, clauses.SHOULD))
  main = clauses.german_clause(action, subject, tense, INVERTED)
  main_en = clauses.english_clause(action, subject, tense)
  return (
    clauses.sentence(f"wenn {chosen.german}, {main}"),
    clauses.sentence(f"if {chosen.english}, {main_en}"),
  )


def unreal(rng: random.Random) -> Pair:
  """`Wenn ich mehr Zeit hätte, würde ich ein Buch schreiben.`"""
  subject = phrases.draw_subject(rng, True)
  follower = subject.as_pronoun()
  line, line_en = rng.choice(_UNREAL)
  head, _, verb = line.rpartition(" ")
  form = clauses.german.Verb(verb).subjunctive(
    subject.person, subject.is_plural
  )
  action = draw_action(rng, follower)
  main = clauses.german_clause(action, follower, clauses.WOULD, INVERTED)
  main_en = clauses.english_clause(action, follower, clauses.WOULD)
  return (
    clauses.sentence(f"wenn {subject.german} {head} {form}, {main}"),
    clauses.sentence(f"if {subject.english} {line_en}, {main_en}"),
  )


_UNREAL = (
  ("mehr Zeit haben", "had more time"),
  ("mehr Geld haben", "had more money"),
  ("einen freien Tag haben", "had a day off"),
  ("reich sein", "were rich"),
  ("nicht so müde sein", "were not so tired"),
  ("weniger Arbeit haben", "had less work"),
  ("nicht krank sein", "were not sick"),
  ("jünger sein", "were younger"),
  ("älter sein", "were older"),
  ("noch in Berlin sein", "were still in Berlin"),
)


def sequence(rng: random.Random) -> Pair:
  """`Bevor er ins Bett geht, ...`, `Nachdem sie gegessen hatte, ...`"""
  subject = phrases.draw_subject(rng, True)
  follower = subject.as_pronoun()
  topic = rng.choice(TOPICS)
  first, second = rng.sample(activities.by_topic()[topic], 2)
  if rng.random() < 0.5:
    inner = clauses.act(rng, first, subject)
    outer = clauses.act(rng, second, follower)
    text = final(inner, subject, clauses.PLUPERFECT)
    text_en = clauses.english_clause(inner, subject, clauses.PLUPERFECT)
    main = clauses.german_clause(outer, follower, clauses.PAST, INVERTED)
    main_en = clauses.english_clause(outer, follower, clauses.PAST)
    return (
      clauses.sentence(f"nachdem {text}, {main}"),
      clauses.sentence(f"after {text_en}, {main_en}"),
    )
  tense, verb_tense = rng.choice(
    ((clauses.MUST, clauses.HABIT), (clauses.PAST, clauses.PAST))
  )
  inner = clauses.act(rng, first, subject)
  outer = clauses.act(rng, second, follower)
  text = final(inner, subject, verb_tense)
  text_en = clauses.english_clause(inner, subject, verb_tense)
  main = clauses.german_clause(outer, follower, tense, INVERTED)
  main_en = clauses.english_clause(outer, follower, tense)
  return (
    clauses.sentence(f"bevor {text}, {main}"),
    clauses.sentence(f"before {text_en}, {main_en}"),
  )


def meanwhile(rng: random.Random) -> Pair:
  """`Während ich las, ...` with two subjects, or `und` between them."""
  first, second = phrases.draw_subject(rng), phrases.draw_subject(rng)
  while second.english in (first.english, first.as_pronoun().english):
    second = phrases.draw_subject(rng)
  topic = rng.choice(TOPICS)
  left, right = rng.sample(activities.by_topic()[topic], 2)
  one, two = clauses.act(rng, left, first), clauses.act(rng, right, second)
  if rng.random() < 0.5 and not (one.is_state or two.is_state):
    text = final(one, first, clauses.NARRATIVE)
    past = Tense("preterite", "past_progressive")
    text_en = clauses.english_clause(one, first, past)
    main = clauses.german_clause(two, second, clauses.PAST, INVERTED)
    main_en = clauses.english_clause(two, second, clauses.PAST)
    return (
      clauses.sentence(f"während {text}, {main}"),
      clauses.sentence(f"while {text_en}, {main_en}"),
    )
  tense, time = draw_tense(rng, clauses.PAST, clauses.SOON, clauses.MUST)
  link, link_en = rng.choice((("und", "and"), (", aber", ", but")))
  german = clauses.german_clause(one, first, tense, time=time.german)
  english = clauses.english_clause(one, first, tense, tail=time.english)
  joint = " " if link == "und" else ""
  other = clauses.german_clause(two, second, tense)
  other_en = clauses.english_clause(two, second, tense)
  return (
    clauses.sentence(f"{german}{joint}{link} {other}"),
    clauses.sentence(f"{english}{joint}{link_en} {other_en}"),
  )


_REPORTS = (
  ("ich glaube", "I think"),
  ("ich hoffe", "I hope"),
  ("ich weiß", "I know"),
  ("wir haben gehört", "we have heard"),
  ("mein Bruder sagt", "my brother says"),
  ("es ist schade", "it is a pity"),
  ("ich bin sicher", "I am sure"),
  ("alle wissen", "everybody knows"),
  ("es ist möglich", "it is possible"),
  ("die Lehrerin hat gesagt", "the teacher said"),
  ("ich habe nicht gewusst", "I did not know"),
)
_DOUBTS = (
  ("ich weiß nicht", "I don't know", "."),
  ("wissen Sie", "do you know", "?"),
  ("ich bin nicht sicher", "I am not sure", "."),
  ("können Sie mir sagen", "can you tell me", "?"),
  ("meine Mutter fragt", "my mother is asking", "."),
  ("niemand weiß", "nobody knows", "."),
  ("ich frage mich", "I wonder", "."),
)


def reported(rng: random.Random) -> Pair:
  """`Ich glaube, dass ...`, `Ich weiß nicht, ob ...`, `..., wann ...`"""
  subject = phrases.draw_subject(rng, True)
  action = draw_action(rng, subject)
  tense, time = draw_tense(
    rng, clauses.PAST, clauses.FUTURE, clauses.MUST, clauses.WANT, clauses.HABIT
  )
  text = final(action, subject, tense, time=time.german)
  text_en = clauses.english_clause(action, subject, tense, tail=time.english)
  if rng.random() < 0.5:
    lead, lead_en = rng.choice(_REPORTS)
    return (
      clauses.sentence(f"{lead}, dass {text}"),
      clauses.sentence(f"{lead_en} that {text_en}"),
    )
  lead, lead_en, mark = rng.choice(_DOUBTS)
  word, word_en = rng.choice((("ob", "whether"), ("warum", "why")))
  return (
    clauses.sentence(f"{lead}, {word} {text}", mark),
    clauses.sentence(f"{lead_en} {word_en} {text_en}", mark),
  )


def purpose(rng: random.Random) -> Pair:
  """`Sie spart Geld, um nach Japan zu fliegen.`"""
  subject = phrases.draw_subject(rng)
  lead, lead_en, topic = rng.choice(_PURPOSES)
  start = clauses.act(
    rng, activities.parse_line(f"{lead} | {lead_en}", ""), subject
  )
  goal = draw_action(rng, subject, topic)
  tense, time = draw_tense(
    rng, clauses.PAST, clauses.MUST, clauses.SOON, clauses.WANT
  )
  german = clauses.german_clause(start, subject, tense, time=time.german)
  english = clauses.english_clause(start, subject, tense, tail=time.english)
  return (
    clauses.sentence(f"{german}, um {clauses.zu_clause(goal)}"),
    clauses.sentence(f"{english} to {clauses.infinitive(goal)}"),
  )


_PURPOSES = (
  ("nach {city} fahren", "go to {city}", "leisure"),
  ("in die Stadt fahren", "drive into town", "shop"),
  ("nach Hause gehen", "go home", "kitchen"),
  ("nach Hause gehen", "go home", "home"),
  ("in die Bibliothek gehen", "go to the library", "school"),
  ("zu Hause bleiben", "stay at home", "home"),
  ("nach {country} fliegen", "fly to {country}", "leisure"),
  ("nach {city} fahren", "go to {city}", "shop"),
  ("Urlaub nehmen", "take vacation", "sport"),
  ("Geld sparen", "save money", "travel"),
  ("ins Büro fahren", "drive to the office", "office"),
)
