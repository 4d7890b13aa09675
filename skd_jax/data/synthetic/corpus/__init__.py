"""A German-English corpus made from a grammar, for demos without a download.

Sentences are composed from a bilingual lexicon, two grammars (german.py and
english.py), sentence patterns and templates, with the dates, numbers, units and
names of Babel (CLDR) and num2words.
"""

import functools
import hashlib
import random
import re

from skd_jax import structs
from skd_jax.data.synthetic.corpus import patterns

SPLITS = ("train", "validation", "test")
_HELD_OUT = 1_000
_MAX_TRIALS_PER_PAIR = 20


def _normalise(text: str) -> str:
  return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


@functools.cache
def _generate(num_pairs: int, seed: int) -> tuple[tuple[str, str], ...]:
  rng = random.Random(seed)
  sources: set[str] = set()
  targets: set[str] = set()
  pairs: list[tuple[str, str]] = []
  for _ in range(num_pairs * _MAX_TRIALS_PER_PAIR):
    if len(pairs) == num_pairs:
      break
    pair = patterns.draw_pair(rng)
    source, target = _normalise(pair[0]), _normalise(pair[1])
    # One to one, even without case and punctuation: no source has two
    # translations, and no side of a held-out pair can occur in train.
    if source in sources or target in targets:
      continue
    sources.add(source)
    targets.add(target)
    pairs.append(pair)
  else:
    raise ValueError(f"num_pairs = {num_pairs} is more than the grammar yields")
  return tuple(pairs)


def sentence_pairs(
  num_pairs: int = 60_000, seed: int = 0
) -> list[structs.Example]:
  """Returns distinct pairs of a German source and its English target.

  No two pairs share a source or a target, not even after lower-casing and
  without punctuation.

  Args:
    num_pairs: how many; at least 1.
    seed: the same seed gives the same pairs, on every machine.

  Raises:
    ValueError: if num_pairs is below 1, or more than the grammar yields.
  """
  if num_pairs < 1:
    raise ValueError(f"num_pairs = {num_pairs}: must be at least 1")
  return [
    {"source": source, "target": target}
    for source, target in _generate(num_pairs, seed)
  ]


def load_split(split: str) -> list[structs.Example]:
  """Returns a split of the default corpus of 60,000 pairs.

  `validation` and `test` hold 1,000 pairs each, `train` the others. A hash of
  the content decides, so that the splits do not depend on any order.

  Raises:
    ValueError: if split is none of train, validation and test.
  """
  if split not in SPLITS:
    raise ValueError(f"split = {split!r}: must be one of {', '.join(SPLITS)}")
  ranked = sorted(sentence_pairs(), key=_digest)
  bounds = {
    "test": slice(0, _HELD_OUT),
    "validation": slice(_HELD_OUT, 2 * _HELD_OUT),
    "train": slice(2 * _HELD_OUT, None),
  }
  return ranked[bounds[split]]


def _digest(example: structs.Example) -> bytes:
  text = f"{_normalise(example['source'])}\t{_normalise(example['target'])}"
  return hashlib.sha256(text.encode()).digest()
