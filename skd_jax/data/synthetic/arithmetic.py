"""Word problems of grade-school arithmetic with worked answers.

  Anna has 3 boxes with 4 pens in each. She gives Tom 5 pens. How many pens does
  she have left?
            Anna has 3 * 4 = 12 pens. She has 12 - 5 = 7 pens left. #### 7

Made on the spot from templates, with a small vocabulary, for demos without a
download. A template and its numbers stand in one split only, so that a held-out
problem has to be computed; a memory of the training problems does not help.
"""

import dataclasses
import functools
import hashlib
import random
import re

from skd_jax import structs

SPLITS = {"train": 20_000, "validation": 1_000, "test": 1_000}
_HELD_OUT_PERCENT = {"validation": range(0, 6), "test": range(6, 12)}

# A question, and below it the answer. {a} to {c} are small numbers, {x} and {y}
# larger ones; [a * b] is worked out as "3 * 4 = 12", and r is the last result.
_TEMPLATES = """
{name} has {a} {things}. {friend} gives {him} {b} more. How many {things} does {name} have now?
{name} has [a + b] {things} now.

{name} has {x} {things} and loses {a} of them. How many {things} does {he} have left?
{name} has [x - a] {things} left.

{name} buys {a} boxes of {things}. There are {b} {things} in each box. How many {things} does {he} buy?
{name} buys [a * b] {things}.

{name} shares {x} {foods} equally among {a} friends. How many {foods} does each friend get?
Each friend gets [x / a] {foods}.

{name} gives {a} {things} to {friend} and has {b} left. How many {things} did {name} have at first?
{name} had [a + b] {things} at first.

{name} has {x} {things}. That is {a} more than {friend} has. How many {things} does {friend} have?
{friend} has [x - a] {things}.

{name} bakes {x} {foods} and puts {a} of them on each plate. How many plates does {he} need?
{name} needs [x / a] plates.

{name} reads {a} pages every day. How many pages does {he} read in {b} days?
{name} reads [a * b] pages in {b} days.

{name} is {x} years old. {friend} is {a} years younger. How old is {friend}?
{friend} is [x - a] years old.

{name} has {a} boxes with {b} {things} in each. {He} gives {friend} {c} {things}. How many {things} does {he} have left?
{name} has [a * b] {things}. {He} has [r - c] {things} left.

{name} has {a} {things}. {friend} has {b} more than {name}. How many {things} do they have together?
{friend} has [a + b] {things}. Together they have [a + r] {things}.

{name} has {a} {things}. {friend} has {b} times as many. How many more {things} does {friend} have than {name}?
{friend} has [a * b] {things}. That is [r - a] more.

{name} has {x} dollars and buys {a} {things} for {b} dollars each. How many dollars does {he} have left?
{name} pays [a * b] dollars. {He} has [x - r] dollars left.

There are {x} {things} on the table. {name} takes {a} of them and {friend} takes {b}. How many {things} are left on the table?
They take [a + b] {things}. There are [x - r] {things} left on the table.

A book has {x} pages. {name} has read {y} pages and now reads {a} pages every day. How many days does {he} need for the rest?
There are [x - y] pages left. {name} needs [r / a] days.

There are {x} children on a bus. At the next stop {a} children get off and {b} get on. How many children are on the bus now?
First there are [x - a] children left. Then there are [r + b] children.

{name} plants {a} rows of {b} trees, and {friend} plants {c} trees. How many trees do they plant together?
{name} plants [a * b] trees. Together they plant [r + c] trees.

{name} has a farm with {a} cows and {b} times as many chickens. How many cows and chickens does {he} have in all?
{name} has [a * b] chickens. In all {he} has [a + r] animals.

{name} is {a} years old. {friend} is {b} years older than {name}. How old will {friend} be in {c} years?
{friend} is [a + b] years old now. In {c} years {friend} will be [r + c] years old.

{name} walks {a} miles every morning and {b} miles every evening. How many miles does {he} walk in {c} days?
{name} walks [a + b] miles every day. In {c} days {he} walks [r * c] miles.

{name} buys {a} {things} for {b} dollars each and a bag for {c} dollars. How many dollars does {he} pay?
The {things} cost [a * b] dollars. In all {he} pays [r + c] dollars.

A train has {a} cars with {b} seats each. {c} seats are taken. How many seats are free?
The train has [a * b] seats. There are [r - c] free seats.

There are {b} boxes with {c} {foods} in each. Then {a} children share all the {foods} equally. How many {foods} does each child get?
There are [b * c] {foods}. Each child gets [r / a] {foods}.

{name} has {y} dollars and wants a bike for {x} dollars. {He} saves {a} dollars every week. How many weeks does {he} have to save?
{name} needs [x - y] dollars more. {He} has to save for [r / a] weeks.

{name} has {a} red {things}, {b} blue {things} and {c} green {things}. How many {things} does {he} have in all?
There are [a + b] red and blue {things}. In all there are [r + c] {things}.

{name} picks {x} {foods}. {He} eats {a} of them and puts the others into {b} baskets, equally many in each. How many {foods} are in each basket?
There are [x - a] {foods} left. Each basket holds [r / b] {foods}.

{name} works {a} hours every day for {b} days. {He} gets {c} dollars for each hour. How many dollars does {he} get?
{name} works [a * b] hours. {He} gets [r * c] dollars.

{name} has {a} boxes with {b} {things} in each. {friend} has {c} boxes with {b} {things} in each. How many {things} do they have together?
Together they have [a + c] boxes. They have [r * b] {things}.
"""  # noqa: E501 - one problem a line.

_WOMEN = ("Anna", "Emma", "Lisa", "Maria", "Nina", "Sara", "Julia", "Clara")
_MEN = ("Tom", "Paul", "Ben", "Max", "Leo", "Felix", "Noah", "David")
_FOODS = ("apples", "eggs", "cookies", "plums", "pears", "nuts", "cakes")
_GOODS = ("pens", "books", "cards", "coins", "balls", "shells", "dolls", "cups")
_THINGS = _GOODS + _FOODS
_PRONOUNS = {
  True: {"he": "she", "He": "She", "him": "her"},
  False: {"he": "he", "He": "He", "him": "him"},
}
_SMALL, _LARGE = (2, 12), (13, 60)  # Both ends included.
_LARGEST = 100  # Of any result; the least is 2, as things are in the plural.


@dataclasses.dataclass(frozen=True)
class _Problem:
  """A template with its numbers."""

  question: str
  answer: str
  numbers: tuple[tuple[str, int], ...]  # By letter: (("a", 3), ("b", 4)).


def load_split(split: str) -> list[structs.Example]:
  """Returns a split: train 20,000, validation and test 1,000 problems.

  The targets end in `#### ` and the result. No two problems of a split are the
  same, and none of its templates occurs with the same numbers in another one.

  Raises:
    ValueError: if split is none of train, validation and test.
  """
  if split not in SPLITS:
    raise ValueError(f"split = {split!r}: must be one of {', '.join(SPLITS)}")
  rng = random.Random(f"arithmetic {split}")
  sources: set[str] = set()
  examples: list[structs.Example] = []
  while len(examples) < SPLITS[split]:
    problem = _draw_problem(rng)
    if _split_of(problem) != split:
      continue
    example = _tell(problem, rng)
    if example["source"] not in sources:
      sources.add(example["source"])
      examples.append(example)
  return examples


@functools.cache
def _templates() -> list[tuple[str, str]]:
  blocks = _TEMPLATES.strip().split("\n\n")
  return [
    (question, answer) for question, answer in map(str.splitlines, blocks)
  ]


def _draw_problem(rng: random.Random) -> _Problem:
  """Draws numbers until every result is whole and of a proper size."""
  question, answer = rng.choice(_templates())
  letters = sorted(set(re.findall(r"\{([a-cxy])\}", question)))
  while True:
    drawn = {
      letter: rng.randint(*(_LARGE if letter in "xy" else _SMALL))
      for letter in letters
    }
    if all(2 <= step[-1] <= _LARGEST for step in _steps(answer, drawn)):
      return _Problem(question, answer, tuple(drawn.items()))


def _steps(
  answer: str, numbers: dict[str, int]
) -> list[tuple[int, str, int, int]]:
  """Works out [a * b] and the like: (left, sign, right, result) of each.

  A division that does not come out even has the result 0.
  """
  known = dict(numbers)
  steps = []
  for left, sign, right in re.findall(r"\[(\w) (.) (\w)\]", answer):
    p, q = known[left], known[right]
    even = p // q if p % q == 0 else 0
    known["r"] = {"+": p + q, "-": p - q, "*": p * q, "/": even}[sign]
    steps.append((p, sign, q, known["r"]))
  return steps


def _split_of(problem: _Problem) -> str:
  """A hash of template and numbers decides, so names do not matter."""
  key = repr((problem.question, problem.numbers)).encode()
  percent = int.from_bytes(hashlib.sha256(key).digest()[:8]) % 100
  for split, percents in _HELD_OUT_PERCENT.items():
    if percent in percents:
      return split
  return "train"


def _tell(problem: _Problem, rng: random.Random) -> structs.Example:
  """Fills in names, things and numbers."""
  is_woman = rng.random() < 0.5
  name = rng.choice(_WOMEN if is_woman else _MEN)
  friend = rng.choice([n for n in _WOMEN + _MEN if n != name])
  words = _PRONOUNS[is_woman] | {
    "name": name,
    "friend": friend,
    "things": rng.choice(_THINGS),
    "foods": rng.choice(_FOODS),
  }
  numbers = dict(problem.numbers)
  steps = _steps(problem.answer, numbers)
  answer = problem.answer
  for left, sign, right, result in steps:
    working = f"{left} {sign} {right} = {result}"
    answer = re.sub(r"\[.*?\]", working, answer, count=1)
  fill = words | {letter: str(number) for letter, number in numbers.items()}
  return {
    "source": problem.question.format(**fill),
    "target": f"{answer.format(**fill)} #### {steps[-1][-1]}",
  }
