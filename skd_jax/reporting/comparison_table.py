"""The tables of a comparison, as Markdown.

arms   ->  scores and cost of each, mean ± standard deviation over its seeds
tests  ->  differences to each baseline, with interval and p
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# What differs so is bold; of 20 arms, one in five tables has one by chance.
MARKED_BELOW = 0.01

LEGEND = (
  "Mean ± standard deviation over the seeds. Collapsed: the seeds that end "
  "below half of the score of the student before distillation. Validation: the "
  "last one's score. KL, top-1 and rank correlation of student and teacher, on "
  "the references of the test split. Replaced: the share of tokens that the "
  "teacher replaced; changed: that became another token. Seconds of training, "
  "without compiling; cost: their ratio to those of the first baseline.\n\n"
  "A difference is the mean over the seeds that both have, each seed with "
  "itself; its 95 % interval and its p (two-sided) are those of the paired "
  "t-test over these seeds. Bootstrap: interval and p over resampled seeds and "
  f"items. Bold: p < {MARKED_BELOW}; nothing is corrected for the number of "
  "tests. One seed has no interval.\n"
)

Values = Sequence[float | None]  # One for each seed.

_NAMES = {
  "kl": "KL",
  "agreement": "top-1",
  "rank_correlation": "rank correlation",
}


@dataclasses.dataclass(frozen=True)
class Arm:
  """What the runs of an arm found, or a model before distillation."""

  name: str
  metrics: Mapping[str, Values]
  seeds: Sequence[int] = ()  # None of them: a model before distillation.
  # Seeds; None: the score before distillation is not known.
  collapsed: Sequence[int] | None = None
  validation: Values = ()
  replaced: Values = ()  # Shares of the tokens.
  changed: Values = ()
  seconds: Values = ()
  cost: float | None = None  # Seconds as a ratio to a baseline's.


def scores_table(arms: Sequence[Arm], scores: Sequence[str]) -> str:
  """Returns a table with a row for each arm.

  Args:
    arms: the rows.
    scores: the metrics of answers, the main one first; those of agreement are
      shown where they are.
  """
  metrics = [*scores, *(n for n in _NAMES if n in arms[0].metrics)]
  header = [
    "arm",
    "seeds",
    "collapsed",
    *(_NAMES.get(name, name) for name in metrics),
    "validation",
    "replaced",
    "changed",
    "seconds",
    "cost",
  ]
  rows = [
    [
      arm.name,
      str(len(arm.seeds) or "-"),
      _seeds(arm.collapsed),
      *(_metric(name, arm.metrics.get(name, ())) for name in metrics),
      _spread(arm.validation),
      _percent(arm.replaced, 2),
      _percent(arm.changed, 2),
      _spread(arm.seconds, 1),
      "-" if arm.cost is None else f"{arm.cost:.2f}",
    ]
    for arm in arms
  ]
  return markdown_table(header, rows)


def differences_table(
  names: Sequence[str], tests: Mapping[str, Mapping[str, Any]]
) -> str:
  """Returns a table of each arm against each baseline; "" without tests.

  Args:
    names: of the arms; those that are tested have a row.
    tests: {baseline: {arm: {"score", "test", "validation", "bootstrap"}}}, the
      last three with "difference", "low", "high" and "p_value", or None.
  """
  columns: dict[str, dict[str, str]] = {}
  for baseline, of_arm in tests.items():
    for kind in ("test", "bootstrap", "validation"):
      for name, tested in of_arm.items():
        if tested[kind] is not None:
          what = "validation" if kind == "validation" else tested["score"]
          header = f"{what} over {baseline}"
          header += ", bootstrap" if kind == "bootstrap" else ""
          cell = difference(tested[kind])
          columns.setdefault(header, {})[name] = cell
  rows = [
    [name, *(cells.get(name, "-") for cells in columns.values())]
    for name in names
    if any(name in cells for cells in columns.values())
  ]
  if not rows:
    return ""
  return markdown_table(["arm", *columns], rows)


def difference(test: Mapping[str, Any]) -> str:
  """Returns "+0.60 [+0.23, +0.96], p = 0.004", bold where p is small."""
  text = f"{test['difference']:+.2f}"
  p = test["p_value"]
  if p is None:
    return text
  said = f"= {p:.3f}" if p >= 0.001 else "< 0.001"
  text += f" [{test['low']:+.2f}, {test['high']:+.2f}], p {said}"
  return f"**{text}**" if p < MARKED_BELOW else text


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a table whose columns line up; all but the first to the right."""
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
  rule = [f":{'-' * max(2, widths[0] - 1)}"]
  rule += [f"{'-' * max(2, width - 1)}:" for width in widths[1:]]
  widths = [max(width, 3) for width in widths]
  lines = [
    [
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    for row in [header, rule, *rows]
  ]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _seeds(seeds: Sequence[int] | None) -> str:
  if seeds is None:
    return "-"
  if not seeds:
    return "0"
  return f"{len(seeds)}: {', '.join(map(str, seeds))}"


def _metric(name: str, values: Values) -> str:
  if name == "agreement":
    return _percent(values, 2)
  return _spread(values, 3 if name == "rank_correlation" else 2)


def _percent(values: Values, digits: int) -> str:
  shown = _spread([None if v is None else 100 * v for v in values], digits)
  return shown if shown == "-" else f"{shown} %"


def _spread(values: Values, digits: int = 2) -> str:
  """Returns "24.95 ± 0.14"; a dash where a seed has no number."""
  known = [value for value in values if value is not None]
  if not known or len(known) < len(values):
    return "-"
  mean = f"{statistics.fmean(known):.{digits}f}"
  if len(known) == 1:
    return mean
  return f"{mean} ± {statistics.stdev(known):.{digits}f}"
