"""The answers of all models beside each other, for report.html.

  every example of the test split -> choose       -> the Cards that are shown
                                  -> score_tables -> Tables

A card is in a filter where it has a rank there; by that it is ordered.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

from skd_jax.reporting import rollouts
from skd_jax.reporting.report import Table

_OF_FILTER = 20  # Cards at most.
_SPREAD = 20  # Cards that no filter asks for, over the whole split.


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a model answered, and what that scores.

  run: the name of its run; "" where the page is of one.
  model: as in the report: "teacher", "student_init", "student", ...
  name: that is shown.
  text: the answer.
  score: of this answer alone, 0 to 100.
  """

  run: str
  model: str
  name: str
  text: str
  score: float


@dataclasses.dataclass(frozen=True)
class Example:
  """A test prompt with all that is known of it.

  number: its place in the test split, from 1.
  task: its name, "" where there is one task.
  metric: what the scores are of.
  prompt: the source.
  reference: the target.
  answers: of all models.
  samples: what students proposed and teachers corrected, with the name of the
    run, the earliest step of a run first.
  """

  number: int
  task: str
  metric: str
  prompt: str
  reference: str
  answers: Sequence[Answer]
  samples: Sequence[tuple[str, rollouts.SampleView]] = ()

  @property
  def score(self) -> float:
    """The student's score, a mean over the runs."""
    return statistics.fmean(self._scores("student").values())

  @property
  def gain(self) -> float:
    """The student's score less its start's, in the run where it is least."""
    before = self._scores("student_init")
    after = self._scores("student")
    return min(score - before[run] for run, score in after.items())

  @property
  def replaced(self) -> float:
    """The share of replaced tokens, over all rollouts that were kept."""
    replaced, total = rollouts.counts(sample for _, sample in self.samples)
    return replaced / total if total else 0.0

  @property
  def rows(self) -> list[tuple[str, Answer]]:
    """The answers with their names; runs whose answers are one share a row."""
    rows: dict[tuple[str, str], list[Answer]] = {}
    for answer in self.answers:
      rows.setdefault((answer.model, answer.text), []).append(answer)
    return [
      (", ".join(a.name for a in same), same[0]) for same in rows.values()
    ]

  def _scores(self, model: str) -> dict[str, float]:
    return {a.run: a.score for a in self.answers if a.model == model}


@dataclasses.dataclass(frozen=True)
class Filter:
  """A choice of cards: the least by a key, of those below a bound."""

  name: str
  title: str
  meaning: str
  key: Callable[[Example], float]
  below: float

  def select(self, examples: Sequence[Example]) -> list[Example]:
    """Returns its examples in order; of equals, the first in the split."""
    found = [e for e in examples if self.key(e) < self.below]
    return sorted(found, key=self.key)[:_OF_FILTER]


FILTERS = (
  Filter(
    "hardest",
    "Hardest",
    "lowest score of the student",
    lambda example: example.score,
    float("inf"),
  ),
  Filter(
    "corrected",
    "Most corrected",
    "highest share of replaced tokens, of those whose rollouts were kept",
    lambda example: -example.replaced,
    0.0,
  ),
  Filter(
    "regressed",
    "Regressions",
    "student below its start",
    lambda example: example.gain,
    0.0,
  ),
)


@dataclasses.dataclass(frozen=True)
class Card:
  """An example that is shown, and its rank in each filter it is in."""

  example: Example
  ranks: dict[str, int]  # From 0.


def choose(examples: Sequence[Example]) -> list[Card]:
  """Returns what is shown: the filters', those with rollouts, and some more.

  The rest is spread over the split, so that the page is not of the worst alone.
  """
  ranks: dict[tuple[str, int], dict[str, int]] = {}
  for filter_ in FILTERS:
    for rank, example in enumerate(filter_.select(examples)):
      ranks.setdefault(_key(example), {})[filter_.name] = rank
  stride = max(1, len(examples) // _SPREAD)
  return [
    Card(example, ranks.get(_key(example), {}))
    for i, example in enumerate(examples)
    if _key(example) in ranks or example.samples or i % stride == 0
  ]


def _key(example: Example) -> tuple[str, int]:
  return example.task, example.number


def score_tables(examples: Sequence[Example]) -> list[Table]:
  """Returns the mean score of an answer by model, task by task.

  Beside it is how far it is from that of the start, with the 95 % interval of
  the mean over examples, by the normal distribution.
  """
  tasks = dict.fromkeys(example.task for example in examples)
  return [
    _score_table([e for e in examples if e.task == task]) for task in tasks
  ]


def _score_table(examples: Sequence[Example]) -> Table:
  scores: dict[tuple[str, str], list[float]] = {}
  names = {}
  for example in examples:
    for answer in example.answers:
      scores.setdefault((answer.run, answer.model), []).append(answer.score)
      names[answer.run, answer.model] = answer.name
  rows = []
  for (run, model), values in scores.items():
    start = scores[run, "student_init"]
    gains = [a - b for a, b in zip(values, start, strict=True)]
    gain = "" if model == "student_init" else _interval(gains, "+")
    rows.append([names[run, model], _interval(values), gain])
  metric, task = examples[0].metric, examples[0].task
  title = f"{task}: {metric}" if task else metric
  return Table(["", "mean of an answer", "less the start's"], rows, title)


def _interval(values: Sequence[float], sign: str = "") -> str:
  mean = statistics.fmean(values)
  if len(values) < 2:
    return f"{mean:{sign}.2f}"
  margin = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
  ends = f"{mean - margin:{sign}.2f} to {mean + margin:{sign}.2f}"
  return f"{mean:{sign}.2f} ({ends})"
