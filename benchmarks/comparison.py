"""What compare_methods has found: its JSON lines, and the table of them.

One line for each run, and for the teacher and the students before:

  {"task", "method", "seed", "metrics", "seconds", "generated_tokens",
   "replacement_rate", "curve": [[seconds, step, score], ...], ...}
"""

import json
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from benchmarks import grids, harness
from skd_jax.evaluation import metrics as metrics_lib
from skd_jax.reporting import metric_log

Record = dict[str, Any]
Records = Sequence[Mapping[str, Any]]
# By baseline, method and metric.
Tests = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]

# What the columns of a table are.
LEGEND = (
  "Mean ± standard deviation over the seeds. Validation: the last one's score. "
  "KL, top-1 and rank correlation of student and teacher, on the references of "
  "the test split. Seconds of training, without compiling; generated tokens "
  "and replaced ones, means of a run.\n\n"
  "Over a baseline: the difference, its 95 % confidence interval (paired "
  "bootstrap over the sentences) and p (sacrebleu's paired approximate "
  "randomization, two-sided), of all seeds together; the deviation over the "
  "seeds is not in them, and nothing is corrected for the number of tests. "
  "Best: the best validation score.\n"
)

# A step that takes so many medians has compiled, or something else has run.
_OUTLIER = 3.0


def read(path: pathlib.Path) -> list[Record]:
  """Reads the lines of a comparison; none where there is no file yet."""
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path: pathlib.Path, records: Records) -> None:
  """Writes the lines, all or none of them."""
  path.parent.mkdir(parents=True, exist_ok=True)
  text = "".join(
    json.dumps(metric_log.finite(record), allow_nan=False) + "\n"
    for record in records
  )
  metric_log.write_atomically(path, text)


def tests_path(path: pathlib.Path) -> pathlib.Path:
  """Returns where the tests of a file of lines lie."""
  return path.with_suffix(".tests.json")


def read_tests(path: pathlib.Path) -> Tests:
  """Reads {baseline: {method: {metric: fields of significance.Test}}}.

  Empty where there is no file yet.
  """
  beside = tests_path(path)
  if not beside.exists():
    return {}
  return json.loads(beside.read_text("utf-8"))


def find(
  records: Records, method: str, seed: int | None
) -> Mapping[str, Any] | None:
  """Returns the line of a run, or None."""
  for record in records:
    if (record["method"], record["seed"]) == (method, seed):
      return record
  return None


def names(records: Records) -> list[str]:
  """Returns the methods that were run, in order; not the models before."""
  return list(
    dict.fromkeys(r["method"] for r in records if r["seed"] is not None)
  )


def of_method(records: Records, method: str) -> list[Mapping[str, Any]]:
  """Returns the lines of one method, one a seed."""
  return [r for r in records if r["method"] == method]


def step_seconds(lines: Records) -> list[float]:
  """Returns what each training step took, by the log of the run.

  Without the time that compiling takes, which is once for all runs that share a
  program: a step of more than three medians counts as one median.

  Args:
    lines: of metrics.jsonl, one a step, of one stage and seed.
  """
  seconds = [
    sum(value for name, value in line.items() if name.startswith("seconds_"))
    for line in lines
    if "loss" in line
  ]
  if not seconds:
    return []
  median = statistics.median(seconds)
  return [median if s > _OUTLIER * median else s for s in seconds]


def validation_curve(
  lines: Records, score: str
) -> list[tuple[float, int, float]]:
  """Returns (seconds of training, step, score) at each validation.

  Args:
    lines: as step_seconds.
    score: the name of the validation score in the log.
  """
  total = np.cumsum([0.0, *step_seconds(lines)])
  return [
    (float(total[line["step"]]), line["step"], line[score])
    for line in lines
    if score in line
  ]


def rate_by_position(counts: Mapping[str, float]) -> dict[str, float]:
  """Returns the replacement rate by the first position of each bucket."""
  prefix = "emitted_from_"
  return {
    name.removeprefix(prefix): counts[name.replace("emitted", "replaced")]
    / counts[name]
    for name in counts
    if name.startswith(prefix) and counts[name]
  }


def mean_curve(
  curves: Sequence[Sequence[Sequence[float]]],
) -> list[tuple[float, float]]:
  """Returns (mean seconds, mean score) at the steps that all seeds have."""
  by_step = [{step: (s, score) for s, step, score in curve} for curve in curves]
  shared = set.intersection(*map(set, by_step)) if by_step else set()
  return [
    (
      statistics.fmean(points[step][0] for points in by_step),
      statistics.fmean(points[step][1] for points in by_step),
    )
    for step in sorted(shared)
  ]


def seconds_to_reach(
  curve: Sequence[tuple[float, float]], score: float
) -> float | None:
  """Returns when a curve first reaches a score, None where it never does."""
  return next((s for s, value in curve if value >= score), None)


def rows(records: Records, tests: Tests) -> list[Record]:
  """Returns the table, one row a method, the models before first.

  Args:
    records: the lines.
    tests: from read_tests.

  Returns:
    Rows of numbers: method, seeds; of each metric its mean NAME, NAME_sd over
    the seeds, and "NAME over BASELINE", a significance.Test of the same seeds;
    validation and validation_sd, of the last validation; seconds,
    generated_tokens, replacement_rate and changed_rate, means over the seeds;
    to_baseline, the seconds to the best validation score of the first baseline.
    The baseline of each is that of its group, see grids.rival.
  """
  before = [r for r in records if r["seed"] is None]
  table = [{"method": r["method"], **_scores([r])} for r in before]
  curves = {
    name: mean_curve([r["curve"] for r in of_method(records, name)])
    for name in names(records)
  }
  first = next(iter(tests), "")
  for name in names(records):
    runs = of_method(records, name)
    row = {"method": name, "seeds": len(runs), **_scores(runs)}
    for baseline, tested in tests.items():
      for metric, test in tested.get(name, {}).items():
        # A test from before the last run says nothing of this row's means.
        is_current = test["seeds"] == sorted(run["seed"] for run in runs)
        if is_current:
          row[f"{metric} over {baseline}"] = test
    for field in (
      "seconds",
      "generated_tokens",
      "replacement_rate",
      "changed_rate",
    ):
      row[field] = _mean([run.get(field) for run in runs])
    row |= _mean_and_deviation(
      "validation", [run["curve"][-1][-1] for run in runs if run["curve"]]
    )
    if rival_curve := curves.get(grids.rival(name, first)):
      best = max(score for _, score in rival_curve)
      row["to_baseline"] = seconds_to_reach(curves[name], best)
    table.append(row)
  return table


def _scores(runs: Records) -> Record:
  row: Record = {}
  for name in runs[0]["metrics"]:
    row |= _mean_and_deviation(name, [run["metrics"][name] for run in runs])
  return row


def _mean_and_deviation(
  name: str, values: Sequence[float | None]
) -> dict[str, float | None]:
  row = {name: _mean(values)}
  if len(values) > 1 and row[name] is not None:
    row[f"{name}_sd"] = statistics.stdev(cast(Sequence[float], values))
  return row


def _mean(values: Sequence[float | None]) -> float | None:
  known = [value for value in values if value is not None]
  return statistics.fmean(known) if values and known == [*values] else None


def table(
  found: Sequence[Record],
  main_metrics: Sequence[str],
  baselines: Sequence[str],
) -> list[Record]:
  """Returns rows for people: a mean with its deviation in one cell.

  Args:
    found: from `rows`.
    main_metrics: the metrics that are shown.
    baselines: what was tested against.
  """
  columns: dict[str, Callable[[Record], Any]] = {
    "method": lambda row: row["method"],
    "seeds": lambda row: row.get("seeds"),
  }
  for name in main_metrics:
    columns[name] = lambda row, name=name: _with_deviation(row, name)
    for baseline in baselines:
      over = f"{name} over {baseline}"
      columns[over] = lambda row, over=over: _test(row.get(over))
  columns |= {
    "validation": lambda row: _with_deviation(row, "validation"),
    # How student and teacher agree, on the references.
    "KL": lambda row: row.get("kl"),
    "top-1": lambda row: _percent(row.get("agreement")),
    "rank correlation": lambda row: row.get("rank_correlation"),
    "seconds": lambda row: row.get("seconds"),
  }
  if baselines:
    name = f"seconds to {baselines[0]}'s best"
    columns[name] = lambda row: row.get("to_baseline")
  columns |= {
    "generated tokens": lambda row: row.get("generated_tokens"),
    "replaced": _replaced,
  }
  return [{name: cell(row) for name, cell in columns.items()} for row in found]


def section(records: Records, tests: Tests) -> str:
  """Returns the table as Markdown, and what it was measured with.

  What its columns are is in LEGEND.
  """
  last = records[-1]
  shown = [name for name in last["metrics"] if name in metrics_lib.METRICS]
  used = ", ".join(f"{k} {v}" for k, v in last["versions"].items())
  # Runs of several commands can lie in one file.
  commands = dict.fromkeys(record["command"] for record in records)
  parts = [
    "\n".join(f"`{command}`" for command in commands),
    f"on {last['device']} ({used}):",
    harness.format_table(table(rows(records, tests), shown, list(tests))),
  ]
  return "\n\n".join(parts) + "\n"


def _with_deviation(row: Record, name: str) -> str | None:
  if row.get(name) is None:
    return None
  deviation = row.get(f"{name}_sd")
  mean = f"{row[name]:.2f}"
  return mean if deviation is None else f"{mean} ± {deviation:.2f}"


def _test(test: Mapping[str, Any] | None) -> str | None:
  if test is None:
    return None
  interval = f"[{test['low']:+.2f}, {test['high']:+.2f}]"
  p = f"= {test['p_value']:.3f}" if test["p_value"] >= 0.001 else "< 0.001"
  return f"{test['difference']:+.2f} {interval}, p {p}"


def _replaced(row: Record) -> str | None:
  rate, changed = row.get("replacement_rate"), row.get("changed_rate")
  cell = _percent(rate)
  if cell is None or changed is None or f"{changed:.4f}" == f"{rate:.4f}":
    return cell
  return f"{cell}, {_percent(changed)} changed"


def _percent(rate: float | None) -> str | None:
  return None if rate is None else f"{100 * rate:.2f} %"
