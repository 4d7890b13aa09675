"""Chains of additions and subtractions with every step worked out.

  source   7+5-3+9-4
  target   7+5=12;12-3=9;9+9=18;18-4=14 #### 14

Made on the spot, of as many steps as wished, in 16 characters. A step starts
from the result before it, so that one wrong step makes all that follow wrong:
what a model does after its own errors can be counted step by step.
"""

import hashlib
import itertools
import random
from collections.abc import Sequence

from skd_jax import structs

SPLITS = {"train": 20_000, "validation": 1_000, "test": 2_000}
_HELD_OUT_PERCENT = {"validation": range(0, 5), "test": range(5, 15)}
_LARGEST = 99  # Of the start and of every result; the least is 0.
_OPERATIONS = [n for n in range(-9, 10) if n]  # What is added: -9 is "-9".
_ALLOWED = [
  [n for n in _OPERATIONS if 0 <= value + n <= _LARGEST]
  for value in range(_LARGEST + 1)
]


def load_split(
  split: str, num_steps: int | tuple[int, int], noise: float = 0.0
) -> list[structs.Example]:
  """Returns a split: train 20,000, validation 1,000 and test 2,000 problems.

  Numbers and results are in [0, 99], operands in [1, 9]. No problem is in two
  splits, whatever `num_steps` they are loaded with, and none is twice in one.

  Args:
    split: which.
    num_steps: H, the steps of each chain; or (least, most), then each length
      is drawn equally often, but there are only 1,710 problems of one step and
      29,730 of two: a length that is used up leaves its place to the others.
    noise: the share of steps of the training references that have a wrong
      result. The next step goes on from it, so that the chain reads well and
      is wrong; all results stay in [0, 99]. (In long chains this may leave only
      the right result, which then stays.) Held-out references are right always.

  Returns:
    The examples; the targets end in `#### ` and the last result. The sources
    do not depend on `noise`.

  Raises:
    ValueError: an argument is out of range, or there are too few problems.
  """
  if split not in SPLITS:
    raise ValueError(f"split = {split!r}: must be one of {', '.join(SPLITS)}")
  if not 0 <= noise <= 1:
    raise ValueError(f"noise = {noise}: must be in [0, 1]")
  least, most = _lengths(num_steps)
  rng = random.Random(f"chains {split} {least} {most}")
  problems: dict[str, tuple[int, ...]] = {}
  while len(problems) < SPLITS[split]:
    numbers = _draw_problem(rng, rng.randint(least, most))
    source = str(numbers[0]) + "".join(f"{n:+d}" for n in numbers[1:])
    if _split_of(source) == split:
      problems[source] = numbers
  noise = noise if split == "train" else 0.0
  return [
    {
      "source": source,
      "target": _work_out(numbers, noise, random.Random(f"noise {source}")),
    }
    for source, numbers in problems.items()
  ]


def _lengths(num_steps: int | tuple[int, int]) -> tuple[int, int]:
  """The least and the most steps."""
  least, most = (
    (num_steps, num_steps) if isinstance(num_steps, int) else num_steps
  )
  if not 1 <= least <= most:
    raise ValueError(
      f"num_steps = {num_steps}: must be 1 or above, of a pair the smaller "
      "number first"
    )
  if most == 1:
    raise ValueError(
      f"num_steps = {most}: must be 2 or above, as the 1,710 problems of one "
      "step do not fill the splits"
    )
  return least, most


def _draw_problem(rng: random.Random, num_steps: int) -> tuple[int, ...]:
  """The start and what is added to it, step by step."""
  value = rng.randint(0, _LARGEST)
  numbers = [value]
  for _ in range(num_steps):
    numbers.append(rng.choice(_ALLOWED[value]))
    value += numbers[-1]
  return tuple(numbers)


def _split_of(source: str) -> str:
  """A hash of the source decides, so the order of the draws does not."""
  digest = hashlib.sha256(source.encode()).digest()
  percent = int.from_bytes(digest[:8]) % 100
  for split, percents in _HELD_OUT_PERCENT.items():
    if percent in percents:
      return split
  return "train"


def _work_out(
  numbers: tuple[int, ...], noise: float, rng: random.Random
) -> str:
  """The steps and the answer, each result wrong with probability `noise`."""
  value, *added = numbers
  steps = []
  for index, number in enumerate(added):
    result = value + number
    if rng.random() < noise:
      result = _wrong_result(result, added[index + 1 :], rng)
    steps.append(f"{value}{number:+d}={result}")
    value = result
  return f"{';'.join(steps)} #### {value}"


def _wrong_result(right: int, rest: Sequence[int], rng: random.Random) -> int:
  """Another result from which the rest of the chain stays in its range."""
  sums = list(itertools.accumulate(rest, initial=0))
  wrong = [
    result
    for result in range(-min(sums), _LARGEST - max(sums) + 1)
    if result != right
  ]
  return rng.choice(wrong) if wrong else right
