"""Clauses: an activity with a subject, a tense and adverbials, in word order.

German puts the finite verb second in a main clause, first in a question and
last in a subordinate clause; everything non-finite stands at the end:

  main       Ich   habe  gestern das Buch gelesen
  inverted   habe  ich   das Buch gelesen          (after `Gestern`)
  final      ich   gestern das Buch gelesen habe   (after `weil`)
"""

import dataclasses
import random
import re

from skd_jax.data.synthetic.corpus import activities, english, german, slots
from skd_jax.data.synthetic.corpus.phrases import Subject

MAIN, INVERTED, FINAL = "main", "inverted", "final"


@dataclasses.dataclass(frozen=True)
class Tense:
  """How both languages build the verb group.

  Attributes:
    german: `present`, `preterite`, `perfect`, `pluperfect`, `future`, `would`,
      or a modal verb, `preterite MODAL` or `subjunctive MODAL`.
    english: a form of `english.verb_group`.
  """

  german: str
  english: str


HABIT = Tense("present", "present")
PROGRESSIVE = Tense("present", "progressive")
SOON = Tense("present", "will")
FUTURE = Tense("future", "will")
PAST = Tense("perfect", "past")
NARRATIVE = Tense("preterite", "past")
PERFECT = Tense("perfect", "perfect")
PLUPERFECT = Tense("pluperfect", "past_perfect")
WOULD = Tense("would", "would")
CAN = Tense("können", "can")
MUST = Tense("müssen", "have to")
WANT = Tense("wollen", "want to")
SHOULD = Tense("subjunctive sollen", "should")
WOULD_LIKE = Tense("subjunctive mögen", "would like to")
COULD = Tense("preterite können", "could")
HAD_TO = Tense("preterite müssen", "had to")
WANTED = Tense("preterite wollen", "wanted to")
PRESENT_MODALS = (CAN, MUST, WANT, SHOULD, WOULD_LIKE)
PAST_MODALS = (COULD, HAD_TO, WANTED)


@dataclasses.dataclass(frozen=True)
class Adverbial:
  """An adverbial in both languages."""

  german: str
  english: str


@dataclasses.dataclass(frozen=True)
class Action:
  """An activity whose slots are filled for one subject.

  The complements stand in three groups, for their places in the clause:
  `early` (reflexive pronoun, definite objects), and `late` (the others), with
  `not` and places between them. `english_verb` and `english_rest` are the head
  and the remainder of the English phrase.
  """

  reflexive: str
  early: str
  late: str
  has_ein: bool
  verb: german.Verb
  english_verb: str
  english_rest: str
  is_state: bool
  takes_place: bool
  topic: str


_TOKEN = re.compile(r"\{[^{}]+\}|\S+")
_PREPOSITIONS = {
  "auf", "mit", "zu", "nach", "in", "an", "von", "um", "für", "vor", "durch",
  "als", "bei", "am", "im", "ins", "ans", "zum", "zur", "vom", "über", "aus",
}  # fmt: skip


_ARTICLES = {"der", "die", "das", "den", "dem"}
_NEGATED_BY_KEIN = {
  "ein", "eine", "einen", "kein", "keine", "Geld", "Freunde", "Gewichte",
  "Überstunden", "Yoga", "Musik", "Karten",
}  # fmt: skip


def act(
  rng: random.Random, activity: activities.Activity, subject: Subject
) -> Action:
  """Fills the slots of an activity for a subject."""
  drawn = {
    key: slots.draw(rng, key, subject)
    for key in dict.fromkeys(slots.keys_of(activity.complements))
  }
  reflexive, early, late = "", [], []
  after_preposition = has_ein = False
  for token in _TOKEN.findall(activity.complements):
    if token in ("sich", "sich3"):
      reflexive = subject.reflexive("d" if token == "sich3" else "a")
      continue
    after_preposition = after_preposition or token in _PREPOSITIONS
    text = slots.fill_german(token, drawn)
    if token[0] == "{":
      phrase = drawn[slots.keys_of(token)[0]]
      is_definite, is_indefinite = phrase.is_definite, phrase.has_ein
    else:
      # die Vokabeln: the noun goes where its article has gone.
      previous_is_article = bool(early) and early[-1] in _ARTICLES
      is_definite = token in _ARTICLES or previous_is_article
      is_indefinite = token in _NEGATED_BY_KEIN
    if is_definite and not after_preposition:
      early.append(text)
    else:
      has_ein = has_ein or (is_indefinite and not after_preposition)
      late.append(text)
  text = activity.english.replace("{my}", subject.english_possessive)
  verb, _, rest = slots.fill_english(text, drawn).partition(" ")
  return Action(
    reflexive,
    german.contract(" ".join(early)),
    german.contract(" ".join(late)),
    has_ein,
    activity.verb,
    verb,
    rest,
    activity.is_state,
    activity.takes_place,
    activity.topic,
  )


def _verb_parts(
  verb: german.Verb, tense: str, subject: Subject
) -> tuple[str, str, bool]:
  """Returns the finite form, the rest, and whether the rest is a prefix."""
  who = (subject.person, subject.is_plural)
  simple = {"present": verb.present, "preterite": verb.preterite}
  if tense in simple:
    return simple[tense](*who), verb.prefix, bool(verb.prefix)
  if tense in ("perfect", "pluperfect"):
    auxiliary = german.Verb(verb.auxiliary)
    conjugate = auxiliary.present if tense == "perfect" else auxiliary.preterite
    return conjugate(*who), verb.participle, False
  if tense in ("future", "would"):
    werden = german.Verb("werden")
    form = werden.present if tense == "future" else werden.subjunctive
    return form(*who), verb.infinitive, False
  mood, _, modal = tense.rpartition(" ")
  word = german.Verb(modal)
  moods = {
    "": word.present,
    "preterite": word.preterite,
    "subjunctive": word.subjunctive,
  }
  return moods[mood](*who), verb.infinitive, False


def _join(*parts: str) -> str:
  return " ".join(part for part in parts if part)


def german_clause(
  action: Action,
  subject: Subject,
  tense: Tense,
  order: str = MAIN,
  time: str = "",
  place: str = "",
  negation: str = "",
) -> str:
  """Returns the German clause without capital letter and full stop.

  Args:
    action: what is done.
    subject: who does it.
    tense: the verb group.
    order: MAIN, INVERTED (also for questions) or FINAL.
    time: an adverbial of time in the middle field.
    place: an adverbial of place.
    negation: `nicht`, `noch nicht`, `nie`, ... before the late complements.
  """
  finite, rest, is_prefix = _verb_parts(action.verb, tense.german, subject)
  # Definite objects come before the place, others after it:
  #   den Brief im Büro (nicht) gelesen, im Büro einen Brief gelesen
  middle = _join(
    action.reflexive, time, action.early, place, negation, action.late
  )
  if order == MAIN:
    return _join(subject.german, finite, middle, rest)
  if order == INVERTED and action.reflexive and not subject.is_pronoun:
    # Gestern hat sich mein Bruder ausgeruht, but: hat er sich ausgeruht.
    middle = middle.removeprefix(action.reflexive).strip()
    return _join(finite, action.reflexive, subject.german, middle, rest)
  if order == INVERTED:
    return _join(finite, subject.german, middle, rest)
  last = rest + finite if is_prefix else _join(rest, finite)
  return _join(subject.german, middle, last)


def zu_clause(action: Action, time: str = "", place: str = "") -> str:
  """Returns an infinitive clause: `im Park Fußball zu spielen`."""
  return _join(
    action.reflexive,
    time,
    action.early,
    place,
    action.late,
    action.verb.zu_infinitive,
  )


def english_clause(
  action: Action,
  subject: Subject,
  tense: Tense,
  adverb: str = "",
  tail: str = "",
  negated: bool = False,
  question: bool = False,
) -> str:
  """Returns the English clause without capital letter and full stop.

  Args:
    action: what is done.
    subject: who does it.
    tense: the verb group.
    adverb: `often`, `already`, ... after the auxiliary, before the main verb.
    tail: place and time at the end.
    negated: adds n't to the auxiliary.
    question: puts the auxiliary before the subject.
  """
  group = english.verb_group(
    action.english_verb,
    tense.english,
    subject.person,
    subject.english_is_plural,
    negated or question,
  )
  auxiliary = english.negate(group.auxiliary) if negated else group.auxiliary
  lead = (
    (auxiliary, subject.english)
    if question
    else (
      subject.english,
      auxiliary,
    )
  )
  return _join(*lead, adverb, group.main, action.english_rest, tail)


def infinitive(action: Action, tail: str = "") -> str:
  """Returns the English base phrase: `read the book in the park`."""
  return _join(action.english_verb, action.english_rest, tail)


def gerund(action: Action, tail: str = "") -> str:
  """Returns the English phrase in -ing: `reading the book`."""
  return _join(english.gerund(action.english_verb), action.english_rest, tail)


def sentence(text: str, mark: str = ".") -> str:
  """Returns the text with a capital letter and a final mark."""
  return text[0].upper() + text[1:] + mark
