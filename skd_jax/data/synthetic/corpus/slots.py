"""Fills the slots of templates: `{a:the+ fruit}`, `{city}`, `{it:the fruit}`.

A slot is an optional mark and a colon, then a key. The marks n, a, d, g choose
the German case; `it` puts the pronoun that stands for the key's phrase. The key
is a filler's name (city, time, person, ...), or a class of nouns after an
optional determiner, with `+` for an adjective and `s` after a dash for the
plural: `the+ fruit`, `my clothes`, `bare-s animal`. A trailing `#2` makes a
second draw of the same kind. Equal keys are one phrase in both languages.
"""

import random
import re

from skd_jax.data.synthetic.corpus import (
  english,
  german,
  nouns,
  phrases,
  quantities,
)
from skd_jax.data.synthetic.corpus.phrases import Phrase, Subject

_SLOT = re.compile(r"\{(?:(n|a|d|g|it):)?([^{}]+)\}")

_TOWNS = ("Altstadt", "Park", "Wald", "Garten", "Dorf")


def _invariant(pair: tuple[str, str]) -> Phrase:
  return Phrase(
    dict.fromkeys(phrases.CASES, pair[0]), pair[1], is_definite=False
  )


def draw(rng: random.Random, key: str, owner: Subject | None = None) -> Phrase:
  """Draws the phrase for a key; raises ValueError for an unknown one."""
  key = key.partition("#")[0]
  if key in quantities.FILLERS:
    return _invariant(quantities.FILLERS[key](rng))
  if key == "person":
    return phrases.person_phrase(rng, owner)
  if key == "name":
    is_woman = rng.random() < 0.5
    pool = phrases.WOMEN if is_woman else phrases.MEN
    return phrases.name_phrase(rng.choice(pool), is_woman)
  if key == "surname":
    name = rng.choice(phrases.SURNAMES)
    return _invariant((name, name))
  lexicon = nouns.lexicon()
  if key in ("sport", "instrument", "subject"):
    noun = rng.choice(lexicon[key])
    lead = "the " if key == "instrument" else ""
    return _invariant((noun.singular, lead + noun.english))
  if key in ("job", "job_woman"):
    name = "profession_man" if key == "job" else "profession_woman"
    noun = rng.choice(lexicon[name])
    return _invariant((noun.singular, english.article(noun.english)))
  determiner, _, name = key.rpartition(" ")
  if name not in lexicon and name not in phrases.UNIONS and name != "town":
    raise ValueError(f"slot {key!r} names no filler and no class of nouns")
  if not determiner:
    return phrases.object_phrase(rng, name, owner)
  return _with_determiner(rng, determiner, name, owner)


def _with_determiner(
  rng: random.Random, determiner: str, name: str, owner: Subject | None
) -> Phrase:
  if name == "town":
    pool = [n for n in nouns.lexicon()["sight"] if n.singular in _TOWNS]
    noun, noun_class = rng.choice(pool), "sight"
  else:
    noun, noun_class = phrases.choose_noun(rng, name)
  has_adjective = "+" in determiner
  is_plural = "-s" in determiner
  kind = determiner.replace("+", "").replace("-s", "")
  if kind == "own":
    # Body parts: German says the arm where English says his arm.
    the = phrases.noun_phrase(rng, noun, noun_class, "the")
    own = phrases.noun_phrase(rng, noun, noun_class, "my", owner=owner)
    return Phrase(the.forms, own.english, the.gender)
  return phrases.noun_phrase(
    rng, noun, noun_class, kind, has_adjective, is_plural, owner
  )


def keys_of(text: str) -> list[str]:
  """Returns the keys of the slots of a text, in order."""
  return [match.group(2) for match in _SLOT.finditer(text)]


def fill_german(text: str, drawn: dict[str, Phrase]) -> str:
  """Puts the German forms into a text; the case is n where none is named."""

  def replace(match: re.Match[str]) -> str:
    mark, phrase = match.group(1) or "n", drawn[match.group(2)]
    if mark == "it":
      return german.pronoun(phrase.gender, "n")
    return phrase.forms[mark]

  return german.contract(_SLOT.sub(replace, text))


def fill_english(text: str, drawn: dict[str, Phrase]) -> str:
  """Puts the English texts into a text."""

  def replace(match: re.Match[str]) -> str:
    phrase = drawn[match.group(2)]
    if match.group(1) == "it":
      return phrase.english_pronoun
    return phrase.english

  return _SLOT.sub(replace, text)
