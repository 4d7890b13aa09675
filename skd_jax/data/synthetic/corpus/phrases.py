"""Bilingual noun phrases and subjects."""

import dataclasses
import random
from collections.abc import Mapping

from skd_jax.data.synthetic.corpus import adjectives, english, german, nouns

CASES = "nadg"

# Larger classes, made of the classes of the lexicon.
UNIONS = {
  "food": ("fruit", "fruit", "snack", "grocery"),
  "meal": ("snack",),
  "goods": ("clothes", "furniture", "appliance", "device", "gift", "vehicle"),
  "family": ("man", "woman"),
  "acquaintance": ("acquaintance_man", "acquaintance_woman"),
  "profession": ("profession_man", "profession_woman"),
  "anyone": (
    *("profession_man", "profession_woman") * 2,
    *("visitor_man", "visitor_woman"),
  ),
  "work": ("document", "homework"),
  "portable": ("device", "belonging", "clothes", "reading"),
}

_WOMEN = (
  "Anna Maria Julia Lena Sophie Emma Laura Sarah Katharina Lisa Hannah Clara "
  "Eva Paula Nina Greta Ida Martha Helga Ingrid Charlotte Johanna Frieda Mia"
)
_MEN = (
  "Thomas Peter Paul Max Lukas Felix Jonas David Martin Stefan Michael Karl "
  "Otto Jakob Simon Oliver Daniel Moritz Emil Anton Georg Leon Tobias Ben"
)
_SURNAMES = (
  "Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann "
  "Koch Bauer Richter Klein Wolf Schröder Neumann Schwarz Braun Krüger"
)
WOMEN = _WOMEN.split()
MEN = _MEN.split()
SURNAMES = _SURNAMES.split()

_NUMBERS = (
  ("zwei", "two"),
  ("drei", "three"),
  ("vier", "four"),
  ("fünf", "five"),
  ("sechs", "six"),
)
_FEMININE = {
  "woman",
  "acquaintance_woman",
  "profession_woman",
  "visitor_woman",
}
_MASCULINE = {"man", "acquaintance_man", "profession_man", "visitor_man"}


@dataclasses.dataclass(frozen=True)
class Phrase:
  """A phrase in both languages.

  Attributes:
    forms: the German text by case letter.
    english: the English text.
    gender: m, f, n, or p for a plural.
    english_pronoun: he, she, it or they.
    is_definite: whether it stands early in the German sentence.
    has_ein: whether it is indefinite, so that it is negated by kein.
  """

  forms: Mapping[str, str]
  english: str
  gender: str = "n"
  english_pronoun: str = "it"
  is_definite: bool = True
  has_ein: bool = False


@dataclasses.dataclass(frozen=True)
class Subject:
  """A grammatical subject with everything that agrees with it."""

  german: str
  english: str
  person: int = 3
  is_plural: bool = False
  gender: str = "m"
  german_possessive: str = "sein"
  english_possessive: str = "his"
  is_pronoun: bool = False

  @property
  def english_is_plural(self) -> bool:
    """Returns whether English conjugates as for a plural: you does."""
    return self.is_plural or self.person == 2

  def as_pronoun(self) -> "Subject":
    """Returns the pronoun that refers back to this subject."""
    if self.is_pronoun:
      return self
    return PRONOUNS["they" if self.is_plural else self.gender]

  def reflexive(self, case: str) -> str:
    """Returns mich, dir, sich, ..., in case a or d."""
    forms = {"ich": "mich mir", "du": "dich dir", "wir": "uns uns"}
    forms["ihr"] = "euch euch"
    known = forms.get(self.german) if self.person < 3 else None
    return (known or "sich sich").split()["ad".index(case)]


def _pronoun(german_text: str, english_text: str, rest: str) -> Subject:
  possessive, english_possessive, person, number, gender = rest.split()
  return Subject(
    german_text,
    english_text,
    int(person),
    number == "p",
    gender,
    possessive,
    english_possessive,
    True,
  )


# The formal Sie conjugates as a third person plural and is `you` in English.
PRONOUNS = {
  "ich": _pronoun("ich", "I", "mein my 1 s m"),
  "du": _pronoun("du", "you", "dein your 2 s m"),
  "m": _pronoun("er", "he", "sein his 3 s m"),
  "f": _pronoun("sie", "she", "ihr her 3 s f"),
  "wir": _pronoun("wir", "we", "unser our 1 p m"),
  "ihr": _pronoun("ihr", "you", "euer your 2 p m"),
  "they": _pronoun("sie", "they", "ihr their 3 p m"),
  "Sie": _pronoun("Sie", "you", "Ihr your 3 p m"),
}


def name_phrase(name: str, is_woman: bool) -> Phrase:
  """Returns a proper name, the same in all cases but the genitive."""
  genitive = name + ("'" if name[-1] in "sxzß" else "s")
  forms = {"n": name, "a": name, "d": name, "g": genitive}
  pronoun = "she" if is_woman else "he"
  return Phrase(forms, name, "f" if is_woman else "m", pronoun)


def choose_noun(rng: random.Random, name: str) -> tuple[german.Noun, str]:
  """Draws a noun of a class or union; returns it with its own class."""
  if name in UNIONS:
    name = rng.choice(UNIONS[name])
  return rng.choice(nouns.lexicon()[name]), name


def noun_phrase(
  rng: random.Random,
  noun: german.Noun,
  noun_class: str,
  determiner: str,
  with_adjective: bool = False,
  is_plural: bool = False,
  owner: Subject | None = None,
) -> Phrase:
  """Builds a noun phrase in all cases.

  Args:
    rng: the source of random choices (adjective and number).
    noun: the head.
    noun_class: its class, for the adjective and the English pronoun.
    determiner: `the`, `a`, `no`, `my`, `this`, `which`, `every`, `bare` or
      `count`.
    with_adjective: whether an adjective is inserted, if the class has any.
    is_plural: singular or plural.
    owner: whom `my` refers to; None stands for the speaker.
  """
  is_plural = is_plural or noun.gender == "p" or determiner == "count"
  if not noun.plural and determiner in ("a", "count"):
    determiner, is_plural = "bare", False
  if determiner == "a" and is_plural:
    determiner = "bare"
  is_plural = is_plural and bool(noun.plural)
  gender = "p" if is_plural else noun.gender
  owner = owner or PRONOUNS["ich"]
  pool = adjectives.attributes().get(noun_class, [])
  chosen = rng.choice(pool) if with_adjective and pool else None
  number = rng.choice(_NUMBERS)
  forms: dict[str, str] = {}
  for case in CASES:
    words, declension = _german_determiner(determiner, gender, case, owner)
    if determiner == "count":
      words = [number[0]]
    if chosen:
      words.append(german.adjective(chosen.base, declension, gender, case))
    words.append(noun.decline(case, is_plural))
    forms[case] = " ".join(words)
  head = noun.english
  if is_plural and noun.gender != "p":
    head = english.plural(head)
  if chosen:
    head = f"{chosen.english} {head}"
  return Phrase(
    forms,
    _english_determiner(determiner, head, owner, number[1]),
    gender,
    _english_pronoun(noun_class, is_plural),
    determiner not in ("a", "no", "bare", "count"),
    determiner in ("a", "bare", "count"),
  )


def _english_pronoun(noun_class: str, is_plural: bool) -> str:
  if is_plural:
    return "they"
  if noun_class in _FEMININE:
    return "she"
  return "he" if noun_class in _MASCULINE else "it"


def _german_determiner(
  determiner: str, gender: str, case: str, owner: Subject
) -> tuple[list[str], str]:
  if determiner == "the":
    return [german.definite(gender, case)], "weak"
  stems = {"this": "dies", "which": "welch", "every": "jed"}
  if determiner in stems:
    return [german.der_word(stems[determiner], gender, case)], "weak"
  if determiner in ("bare", "count"):
    return [], "strong"
  stem = {"a": "ein", "no": "kein", "my": owner.german_possessive}[determiner]
  # The plural of kein and mein takes weak endings: keine neuen Autos.
  declension = "weak" if gender == "p" else "mixed"
  return [german.ein_word(stem, gender, case)], declension


def _english_determiner(
  determiner: str, head: str, owner: Subject, number: str
) -> str:
  if determiner == "a":
    return english.article(head)
  if determiner == "bare":
    return head
  words = {"my": owner.english_possessive, "count": number}
  return f"{words.get(determiner, determiner)} {head}"


def object_phrase(
  rng: random.Random, name: str, owner: Subject | None = None
) -> Phrase:
  """Draws a noun phrase of a class with a determiner that suits an object."""
  noun, noun_class = choose_noun(rng, name)
  if noun_class in _FEMININE | _MASCULINE:
    return person_phrase(rng, owner)
  if not noun.plural:
    determiner = rng.choice(("bare", "bare", "the"))
    return noun_phrase(rng, noun, noun_class, determiner, rng.random() < 0.25)
  determiner = rng.choices(
    ("a", "the", "my", "this", "bare", "count"), (40, 24, 14, 6, 6, 10)
  )[0]
  return noun_phrase(
    rng,
    noun,
    noun_class,
    determiner,
    rng.random() < (0.7 if determiner == "bare" else 0.4),
    determiner == "bare" or (determiner == "the" and rng.random() < 0.25),
    owner,
  )


def person_phrase(
  rng: random.Random, owner: Subject | None = None, with_genitive: bool = True
) -> Phrase:
  """Draws somebody: a name, my brother, the doctor, my neighbor's daughter."""
  kind = rng.random()
  if kind < 0.25:
    is_woman = rng.random() < 0.5
    return name_phrase(rng.choice(WOMEN if is_woman else MEN), is_woman)
  if kind < 0.65:
    noun, noun_class = choose_noun(rng, rng.choice(("family", "acquaintance")))
    return noun_phrase(
      rng, noun, noun_class, "my", rng.random() < 0.12, False, owner
    )
  if kind < 0.9 or not with_genitive:
    noun, noun_class = choose_noun(rng, "anyone")
    return noun_phrase(rng, noun, noun_class, "the", rng.random() < 0.25)
  noun, noun_class = choose_noun(rng, "family")
  whose, whose_class = choose_noun(rng, "acquaintance")
  person = noun_phrase(rng, noun, noun_class, "the")
  holder = noun_phrase(rng, whose, whose_class, "my", False, False, owner)
  return genitive_phrase(person, holder, noun.english)


def genitive_phrase(thing: Phrase, holder: Phrase, head: str) -> Phrase:
  """Returns `die Tochter meines Nachbarn`: `my neighbor's daughter`."""
  forms = {case: f"{thing.forms[case]} {holder.forms['g']}" for case in CASES}
  text = f"{english.possessive(holder.english)} {head}"
  return Phrase(forms, text, thing.gender, thing.english_pronoun)


def subject_of(phrase: Phrase) -> Subject:
  """Returns the phrase as a subject."""
  pronoun = PRONOUNS["they" if phrase.gender == "p" else "m"]
  if phrase.english_pronoun == "she":
    pronoun = PRONOUNS["f"]
  return dataclasses.replace(
    pronoun,
    german=phrase.forms["n"],
    english=phrase.english,
    is_pronoun=False,
  )


def draw_subject(rng: random.Random, allow_they: bool = False) -> Subject:
  """Draws a human subject.

  Args:
    rng: the source of random choices.
    allow_they: whether `sie` (they) may be drawn. It must not open a sentence:
      the capital letter would make it the same as the formal `Sie`.
  """
  kind = rng.random()
  if kind < 0.45:
    keys = ["ich", "ich", "du", "m", "f", "wir", "wir", "ihr", "Sie"]
    return PRONOUNS[rng.choice(keys + ["they"] * allow_they)]
  if kind < 0.55:
    noun = rng.choice(nouns.lexicon()["group"])
    determiner = rng.choice(("my", "the"))
    return subject_of(noun_phrase(rng, noun, "group", determiner))
  if kind < 0.59:
    first = name_phrase(rng.choice(WOMEN), True)
    second = name_phrase(rng.choice(MEN), False)
    return dataclasses.replace(
      PRONOUNS["they"],
      german=f"{first.english} und {second.english}",
      english=f"{first.english} and {second.english}",
      is_pronoun=False,
    )
  if kind < 0.64:
    title, is_woman = rng.choice((("Frau", True), ("Herr", False)))
    surname = rng.choice(SURNAMES)
    return dataclasses.replace(
      PRONOUNS["f" if is_woman else "m"],
      german=f"{title} {surname}",
      english=f"{'Ms.' if is_woman else 'Mr.'} {surname}",
      is_pronoun=False,
    )
  return subject_of(person_phrase(rng))
