"""report.json, report.md and the plots: what a run found.

report (a dict, see write_report) -> report.json, report.md
lines of metrics.jsonl            -> learning_curve.png, replacement_rate.png
report                            -> sentences and Tables, for report.html too
"""

import dataclasses
import math
import pathlib
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skd_jax.reporting import files
from skd_jax.reporting.plots import (
  draw_learning_curve,
  draw_replacement_rate,
  read_curves,
)

Report = Mapping[str, Any]

_KEYS = (
  "task",
  "config",
  "seeds",
  "main_metric",
  "metrics",
  "rollout",
  "seconds",
)
_MODELS = {
  "teacher": "teacher",
  "student_init": "student, start",
  "student": "student, distilled",
}
_FILES = {
  "report.html": "the same to look at, with answers and rollouts",
  "samples.html": "the answers and rollouts alone",
  "metrics.jsonl": "every logged step",
  "config.json": "the resolved configuration, versions, devices",
}


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of text; the first cell of a row is its name."""

  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  title: str = ""

  def markdown(self) -> str:
    """Returns the table as Markdown, without its title."""
    rule = [":--", *["--:"] * (len(self.header) - 1)]
    return "\n".join(
      f"| {' | '.join(row)} |" for row in [self.header, rule, *self.rows]
    )


def write_report(workdir: str | pathlib.Path, report: Report) -> None:
  """Writes report.json for programs and report.md for people.

  Each file is written whole or not at all. Images and pages that are in the
  workdir already are linked from report.md: write them first.

  Args:
    workdir: folder of the run.
    report: `task`, `config`, `seeds`, `main_metric` (by which a student is
      judged: a name in `metrics`), `metrics` {teacher, student_init, student,
      and each baseline: {name: value}}, where several tasks have {"mean":
      value, TASK: {name: value}}, `rollout` {replacement_rate,
      accepted_per_round, tokens_per_s}, `seconds` {generate, train, evaluate,
      total}. May hold `clock_seconds` (since the command began), `signature`
      {metric: string}, `per_seed` (a list of {seed, metrics}, metrics as
      above), `probe` (what was found before distillation, with its `verdict`, a
      string), `warnings` (strings), `command` (a string) and `versions` {name:
      version}. A model that was not measured is absent or empty.

  Raises:
    ValueError: if one of the keys that every report needs is missing.
  """
  for key in _KEYS:
    if key not in report:
      raise ValueError(f"report has no {key!r}; needed: {', '.join(_KEYS)}")
  folder = pathlib.Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  files.write_json(folder / "report.json", report)
  sections = [
    f"# {report['task']}",
    margin_sentence(report),
    probe_sentence(report),
    *_score_sections(report),
    _warning_section(report.get("warnings") or ()),
    _section("Rollouts", rollout_table(report)),
    _section("Time", time_table(report)),
    clock_sentence(report),
    _origin_section(report),
    _files_section(folder),
  ]
  page = "\n\n".join(section for section in sections if section)
  files.write_atomically(folder / "report.md", page + "\n")


def margin_sentence(report: Report) -> str:
  """Says whether distillation gained more than seeds differ.

  The gain is the student's score less its start's, each a mean over the seeds.
  The spread is max - min over the seeds, of the student or of its start,
  whichever is larger.

  Returns:
    One line for report.md and for the console.
  """
  measured, name = _values(report), report["main_metric"]
  if any(name not in measured[m] for m in ("student", "student_init")):
    return f"The student's {name} or its start's was not measured: no verdict."
  student, start = measured["student"][name], measured["student_init"][name]
  if not all(map(math.isfinite, [*student, *start])):
    return f"The student's {name} is not known for every seed: no verdict."
  gain = statistics.fmean(student) - statistics.fmean(start)
  show = _decimals([*student, *start])
  facts = (
    f"The student's {name} is {statistics.fmean(student):.{show}f}, its start's"
    f" {statistics.fmean(start):.{show}f}: {gain:+.{show}f}."
  )
  if len(student) < 2:
    return f"{facts} One seed, so the spread over seeds is not known."
  spread = max(max(values) - min(values) for values in (student, start))
  verdict = (
    "above its start by more than"
    if gain > spread
    else "not above its start by more than"
  )
  return (
    f"{facts} It is {verdict} the spread over {len(student)} seeds"
    f" ({spread:.{show}f})."
  )


def plot_history(
  lines: Iterable[Mapping[str, Any]],
  folder: str | pathlib.Path,
  scores: Sequence[str],
) -> list[pathlib.Path]:
  """Draws the learning curve and the replacement rate of a run.

  Args:
    lines: of its metrics.jsonl, from metric_log.read_metrics.
    folder: where learning_curve.png and replacement_rate.png are written.
    scores: the validation scores that are drawn: NAME of validation_NAME.

  Returns:
    The files drawn. One whose numbers were never logged is left out.
  """
  curves = read_curves(lines)
  figures = {
    "learning_curve.png": draw_learning_curve(curves, scores),
    "replacement_rate.png": draw_replacement_rate(curves),
  }
  drawn = []
  for name, figure in figures.items():
    if figure is not None:
      drawn.append(pathlib.Path(folder) / name)
      figure.savefig(drawn[-1], dpi=160)
  return drawn


def _values(
  report: Report, task: str = ""
) -> dict[str, dict[str, list[float]]]:
  """Returns model -> metric name -> one value per seed; numbers only.

  Of one of several tasks, or without a name: of the only task, or their mean.
  """
  runs = [run["metrics"] for run in report.get("per_seed") or ()]
  runs = runs or [report["metrics"]]
  models: dict[str, dict[str, list[float]]] = {}
  for model in dict.fromkeys([*_MODELS, *report["metrics"]]):
    values = defaultdict(list)
    for run in runs:
      scores = run.get(model) or {}
      for name, value in (scores.get(task, {}) if task else scores).items():
        if isinstance(value, (int, float)):
          values[name].append(float(value))
    models[model] = dict(values)
  return models


def score_tables(report: Report) -> list[Table]:
  """Returns the scores of all models, with several tasks also task by task.

  A cell is the mean over the seeds and, of several, their standard deviation.
  """
  scores = report["metrics"].get("student") or {}
  tasks = [name for name in scores if isinstance(scores[name], Mapping)]
  tables = [_score_table(_values(report, task), task) for task in ["", *tasks]]
  return [table for table in tables if table.rows]


def _score_sections(report: Report) -> list[str]:
  sections = [
    _section(table.title, table) if table.title else table.markdown()
    for table in score_tables(report)
  ]
  seeds = len(report.get("per_seed") or ())
  if seeds > 1 and sections:
    sections.append(f"Mean ± standard deviation over {seeds} seeds.")
  return sections


def _score_table(
  values_of: Mapping[str, dict[str, list[float]]], task: str
) -> Table:
  models = {m: values for m, values in values_of.items() if values}
  names = list(dict.fromkeys(n for values in models.values() for n in values))
  decimals = {
    name: _decimals([v for m in models.values() for v in m.get(name, ())])
    for name in names
  }
  rows = [
    [
      model_name(model),
      *(_mean_and_deviation(values.get(n, []), decimals[n]) for n in names),
    ]
    for model, values in models.items()
  ]
  return Table(["", *names], rows, task)


def model_name(model: str) -> str:
  """Returns what a model of a report is called: "student, start"."""
  return _MODELS.get(model, f"student, {model}")


def _mean_and_deviation(values: Sequence[float], decimals: int) -> str:
  if not values:
    return "n/a"
  mean = f"{statistics.fmean(values):.{decimals}f}"
  if len(values) == 1:
    return mean
  return f"{mean} ± {statistics.stdev(values):.{decimals}f}"


def _decimals(values: Sequence[float]) -> int:
  """Returns digits after the point: 2 for percentages, 4 for shares of 1."""
  largest = max(map(abs, filter(math.isfinite, values)), default=0.0)
  if largest < 1:
    return 4
  return 2 if largest < 1000 else 0


def probe_sentence(report: Report) -> str:
  """Returns the verdict on the pair before distillation; "" without a probe."""
  probe = report.get("probe")
  return f"The pair at the start: {probe['verdict']}." if probe else ""


def _warning_section(warnings: Sequence[str]) -> str:
  lines = [f"- {warning}" for warning in warnings]
  return "\n".join(["## Warnings\n", *lines]) if lines else ""


def rollout_table(report: Report) -> Table:
  """Returns the rates of the rollouts, over all seeds."""
  rates = report["rollout"].items()
  rows = [[_words(name), _quantity(name, value)] for name, value in rates]
  return Table(["", "value"], rows)


def time_table(report: Report) -> Table:
  """Returns what each part took, and its share of the whole."""
  seconds = report["seconds"]
  total = seconds.get("total") or sum(seconds.values())
  rows = [
    [_words(name), _duration(value), f"{100 * value / total:.0f} %"]
    for name, value in seconds.items()
    if total > 0
  ]
  return Table(["", "time", "share"], rows)


def clock_sentence(report: Report) -> str:
  """Returns what this start took by the clock; "" where it is not known."""
  clock = report.get("clock_seconds")
  if clock is None:
    return ""
  # Stages that were finished before are in the table, not on the clock.
  return f"By the clock, this start took {_duration(clock)}."


def _section(title: str, table: Table) -> str:
  return f"## {title}\n\n{table.markdown()}" if table.rows else ""


def _origin_section(report: Report) -> str:
  seeds = ", ".join(str(seed) for seed in report["seeds"])
  lines = [f"Seeds: {seeds}."]
  if report.get("command"):
    lines.append(f"```sh\n{report['command']}\n```")
  if report.get("versions"):
    versions = report["versions"].items()
    lines.append(", ".join(f"{name} {version}" for name, version in versions))
  for name, value in (report.get("signature") or {}).items():
    lines.append(f"{name}: `{value}`")
  return "## How it was made\n\n" + "\n\n".join(lines)


def _files_section(folder: pathlib.Path) -> str:
  images = [f"![{p.stem}]({p.name})" for p in sorted(folder.glob("*.png"))]
  links = [
    f"- [{name}]({name}): {what}"
    for name, what in _FILES.items()
    if (folder / name).exists()
  ]
  parts = ["\n\n".join(images), "\n".join(links)]
  parts = [part for part in parts if part]
  return "\n\n".join(["## Files", *parts]) if parts else ""


def _words(name: str) -> str:
  return name.removesuffix("_per_s").replace("_", " ") + (
    " per second" if name.endswith("_per_s") else ""
  )


def _quantity(name: str, value: Any) -> str:
  if not isinstance(value, (int, float)):
    return "n/a" if value is None else str(value)
  if not math.isfinite(value):
    return "n/a"
  if name.endswith("_rate"):
    return f"{100 * value:.3g} %"
  return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
  """Returns the time as people say it: 3.2 s, 4 min 05 s, 2 h 07 min."""
  if seconds < 60:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f"{minutes} min {rest:02d} s"
  return f"{minutes // 60} h {minutes % 60:02d} min"
