"""The table of a comparison: its JSON lines (skd_jax/records.py) and tests."""

import json
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from benchmarks import harness
from skd_jax import grids
from skd_jax import records as records_lib
from skd_jax.evaluation import metrics as metrics_lib

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


def tests_path(path: pathlib.Path) -> pathlib.Path:
  """Returns where the tests of a file of lines are."""
  return path.with_name("tests.json")


def read_tests(path: pathlib.Path) -> Tests:
  """Reads {baseline: {method: {metric: fields of significance.Test}}}.

  Empty where there is no file yet.
  """
  beside = tests_path(path)
  if not beside.exists():
    return {}
  return json.loads(beside.read_text("utf-8"))


def names(records: records_lib.Records) -> list[str]:
  """Returns the methods that were run, in order; not the models before."""
  return list(
    dict.fromkeys(r["method"] for r in records if r["seed"] is not None)
  )


def of_method(
  records: records_lib.Records, method: str
) -> list[Mapping[str, Any]]:
  """Returns the lines of one method, one a seed."""
  return [r for r in records if r["method"] == method]


def read_answers(
  workdir: pathlib.Path, records: records_lib.Records, name: str
) -> dict[int, list[str]]:
  """Returns the answers of a method by seed, of those runs that are here."""
  paths = {
    record["seed"]: records_lib.answers_path(workdir, name, record["seed"])
    for record in of_method(records, name)
  }
  return {
    # Not splitlines: an answer may hold characters that it splits at.
    seed: path.read_text("utf-8").removesuffix("\n").split("\n")
    for seed, path in paths.items()
    if path.exists()
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


def rows(
  records: records_lib.Records, tests: Tests
) -> list[records_lib.Record]:
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


def _scores(runs: records_lib.Records) -> records_lib.Record:
  row: records_lib.Record = {}
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
  found: Sequence[records_lib.Record],
  main_metrics: Sequence[str],
  baselines: Sequence[str],
) -> list[records_lib.Record]:
  """Returns rows for people: a mean with its deviation in one cell.

  Args:
    found: from `rows`.
    main_metrics: the metrics that are shown.
    baselines: what was tested against.
  """
  columns: dict[str, Callable[[records_lib.Record], Any]] = {
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


def section(records: records_lib.Records, tests: Tests) -> str:
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


def _with_deviation(row: records_lib.Record, name: str) -> str | None:
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


def _replaced(row: records_lib.Record) -> str | None:
  rate, changed = row.get("replacement_rate"), row.get("changed_rate")
  cell = _percent(rate)
  if cell is None or changed is None or f"{changed:.4f}" == f"{rate:.4f}":
    return cell
  return f"{cell}, {_percent(changed)} changed"


def _percent(rate: float | None) -> str | None:
  return None if rate is None else f"{100 * rate:.2f} %"
