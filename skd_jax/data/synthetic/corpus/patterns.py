"""All sentence patterns with their weights, and the draw of one pair."""

import functools
import itertools
import random
import re

from skd_jax.data.synthetic.corpus import (
  actions,
  captions,
  compounds,
  describe,
  slots,
  templates_daily,
  templates_travel,
)

Pair = tuple[str, str]

_PATTERNS = (
  (actions.statement, 12),
  (actions.modal_statement, 6),
  (actions.frequency_statement, 4),
  (actions.commented_statement, 5),
  (actions.negated_statement, 5),
  (actions.question, 8),
  (actions.none_statement, 3),
  (actions.accident, 4),
  (actions.request, 3),
  (actions.infinitive_statement, 4),
  (compounds.because, 6),
  (compounds.prevented, 6),
  (compounds.conditional, 4),
  (compounds.unreal, 3),
  (compounds.sequence, 6),
  (compounds.meanwhile, 5),
  (compounds.reported, 7),
  (compounds.purpose, 4),
  (captions.caption, 9),
  (describe.comparison, 7),
  (describe.relative, 6),
  (describe.relative_person, 4),
  (describe.passive, 5),
  (describe.arithmetic, 2),
  (describe.command, 3),
)
_TEMPLATE_WEIGHT = 45
_MAX_WORDS = 26
_MIN_WORDS = 4


@functools.cache
def templates() -> list[Pair]:
  """Returns the templates, German and English."""
  text = "\n".join((templates_daily.TEXT, templates_travel.TEXT))
  blocks = [block for block in re.split(r"\n\n+", text.strip()) if block]
  pairs = [block.strip().split("\n") for block in blocks]
  return [(german, english) for german, english in pairs]


def from_template(rng: random.Random) -> Pair:
  """Fills a template."""
  german, english = rng.choice(templates())
  keys = dict.fromkeys(slots.keys_of(german) + slots.keys_of(english))
  drawn = {key: slots.draw(rng, key) for key in keys}
  source = slots.fill_german(german, drawn)
  target = slots.fill_english(english, drawn)
  return source[0].upper() + source[1:], target[0].upper() + target[1:]


@functools.cache
def _table() -> tuple[list, list[int]]:
  functions, weights = zip(*_PATTERNS, strict=True)
  return [*functions, from_template], [*weights, _TEMPLATE_WEIGHT]


def _is_proper(text: str) -> bool:
  words = text.rstrip(".?!").split()
  if not _MIN_WORDS <= len(words) <= _MAX_WORDS:
    return False
  # `meinem Bruder meines Bruders`, `city to the same city`: no word of some
  # length stands twice.
  if any(a == b for a, b in itertools.pairwise(words)):
    return False
  longer = [word.strip(",.") for word in words if len(word) > 6]
  return len(longer) == len(set(longer))


def draw_pair(rng: random.Random) -> Pair:
  """Draws patterns until one gives a pair of a proper length."""
  functions, weights = _table()
  while True:
    source, target = rng.choices(functions, weights)[0](rng)
    if _is_proper(source) and _is_proper(target):
      return source, target
