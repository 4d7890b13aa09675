"""report.html: a run to look at, or several beside each other; one file.

  Run, Example -> write -> HTML with its styles, charts and script inside

samples.html is its last part alone: the answers and rollouts.

Jinja escapes every text. Without scripts everything is shown; the filters are
of CSS, and the script tells what both models thought of a token.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
from flax import traverse_util

from skd_jax.reporting import answer_cards, chart, files, report, rollouts
from skd_jax.reporting.report import Report, Table

Lines = Sequence[Mapping[str, Any]]

_BEFORE = ("teacher", "student_init")


@dataclasses.dataclass(frozen=True)
class Run:
  """What a page tells of a run.

  name: that is shown; "" where the page is of one.
  report: as in report.json.
  logs: the lines of metrics.jsonl of "student", with those of the teacher and
    the start, and of each baseline.
  """

  name: str
  report: Report
  logs: Mapping[str, Lines]

  def name_of(self, model: str) -> str:
    """Returns what a model of the run is called on the page."""
    return _named(self.name, report.model_name(model))


def write(
  path: str | pathlib.Path,
  runs: Sequence[Run],
  examples: Sequence[answer_cards.Example],
) -> None:
  """Writes the page, whole or not at all.

  Args:
    path: the file to write; an older one is overwritten.
    runs: at least one.
    examples: of the test split, those that all runs have.
  """
  text = _render(
    "report.html",
    runs,
    examples,
    scores=_stack(runs, report.score_tables),
    answer_scores=answer_cards.score_tables(examples),
    charts=_charts(runs),
    rollout_rates=_beside(runs, report.rollout_table),
    times=_beside(runs, report.time_table),
    settings=_settings(runs),
  )
  files.write_atomically(pathlib.Path(path), text)


def write_samples(
  path: str | pathlib.Path,
  runs: Sequence[Run],
  examples: Sequence[answer_cards.Example],
) -> None:
  """Writes the answers and rollouts alone; arguments as of `write`."""
  text = _render("page.html", runs, examples)
  files.write_atomically(pathlib.Path(path), text)


def _render(
  template: str,
  runs: Sequence[Run],
  examples: Sequence[answer_cards.Example],
  **more: Any,
) -> str:
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("skd_jax.reporting"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  tasks = dict.fromkeys(run.report["task"] for run in runs)
  return environment.get_template(template).render(
    title=", ".join(tasks),
    runs=runs,
    said=report,
    filters=answer_cards.FILTERS,
    cards=answer_cards.choose(examples),
    num_examples=len(examples),
    rollouts=rollouts,
    **more,
  )


def _named(run: str, text: str) -> str:
  return f"{run}: {text}" if run and text else run or text


def _stack(
  runs: Sequence[Run], make: Callable[[Report], list[Table]]
) -> list[Table]:
  """Returns tables of one title as one, the rows of all runs below another."""
  stacked: dict[str, list[tuple[str, Table]]] = {}
  for run in runs:
    for table in make(run.report):
      stacked.setdefault(table.title, []).append((run.name, table))
  tables = []
  for title, parts in stacked.items():
    header = list(dict.fromkeys(h for _, table in parts for h in table.header))
    rows = []
    for name, table in parts:
      for cells in table.rows:
        of_row = dict(zip(table.header, cells, strict=True))
        shown = [of_row.get(column, "n/a") for column in header]
        rows.append([_named(name, shown[0]), *shown[1:]])
    tables.append(Table(header, rows, title))
  return tables


def _beside(runs: Sequence[Run], make: Callable[[Report], Table]) -> Table:
  """Returns the table of each run as one, their columns beside each other."""
  tables = {run.name: make(run.report) for run in runs}
  header, cells = [""], {}
  for name, table in tables.items():
    columns = [_named(name, column) for column in table.header[1:]]
    header += columns
    for row in table.rows:
      of_row = cells.setdefault(row[0], {})
      of_row |= dict(zip(columns, row[1:], strict=True))
  rows = [
    [name, *(of_row.get(column, "") for column in header[1:])]
    for name, of_row in cells.items()
  ]
  return Table(header, rows)


def _settings(runs: Sequence[Run]) -> Table:
  """Returns the settings; of several runs, those in which they differ."""
  flat = [
    traverse_util.flatten_dict(run.report["config"], sep=".") for run in runs
  ]
  flat = [{k: str(v) for k, v in settings.items()} for settings in flat]
  names = dict.fromkeys(name for settings in flat for name in settings)
  rows = [[name, *(of_run.get(name, "") for of_run in flat)] for name in names]
  if len(runs) > 1:
    rows = [row for row in rows if len(set(row[1:])) > 1]
  return Table(["", *(run.name or "value" for run in runs)], rows)


@dataclasses.dataclass(frozen=True)
class _Chart:
  """A figure of the page."""

  title: str
  lines: Sequence[chart.Line]
  x_label: str = "step"
  in_percent: bool = False
  log_x: bool = False

  @property
  def svg(self) -> markupsafe.Markup:
    """Draws it; arguments as of chart.draw."""
    return chart.draw(
      self.lines,
      x_label=self.x_label,
      in_percent=self.in_percent,
      log_x=self.log_x,
    )


def _charts(runs: Sequence[Run]) -> list[_Chart]:
  """Returns the figures for which something was logged."""
  scores = dict.fromkeys(
    name
    for run in runs
    for line in run.logs["student"]
    for name in line
    if _is_score(name, run.report)
  )
  distilled = [(run, model) for run in runs for model in run.logs]
  before = [(run, model) for run in runs for model in _BEFORE]
  position = "token of the response, the first is 1"
  charts = [
    *(
      _Chart(
        f"Validation {name.removeprefix('validation_').replace('_', ' ')}",
        _logged(distilled, name),
      )
      for name in scores
    ),
    _Chart("KL to the teacher, nats", _logged(distilled, "kl")),
    _Chart("Loss of distillation", _logged(distilled, "loss")),
    _Chart(
      "Share of replaced tokens",
      _logged(distilled, "replacement_rate"),
      in_percent=True,
    ),
    _Chart(
      "Share of replaced tokens by position",
      _by_position(distilled),
      position,
      in_percent=True,
      log_x=True,
    ),
    _Chart("Loss before distillation", _logged(before, "loss", len(distilled))),
  ]
  shown: list[_Chart] = []
  for figure in charts:
    # A loss that is the KL is drawn once.
    if figure.lines and figure.lines not in [other.lines for other in shown]:
      shown.append(figure)
  return shown


def _is_score(name: str, result: Report) -> bool:
  """Whether a name of the log is a validation score of answers."""
  known = {"mean", *(result.get("signature") or {})}
  prefix, _, metric = name.rpartition("_")
  return prefix.startswith("validation") and metric in known


def _logged(
  models: Sequence[tuple[Run, str]], metric: str, first_style: int = 0
) -> list[chart.Line]:
  """Returns the curve of a metric of each model that has logged it."""
  lines = []
  for style, (run, model) in enumerate(models, first_style):
    stage = model if model in _BEFORE else "distill"
    seeds: dict[int, dict[int, tuple[float, float]]] = {}
    for line in run.logs["student" if model in _BEFORE else model]:
      if line["stage"] == stage and metric in line:
        point = (line["step"], line[metric])
        seeds.setdefault(line["seed"], {})[line["step"]] = point
    lines.append(chart.make_line(run.name_of(model), style, seeds.values()))
  return [line for line in lines if line]


def _by_position(models: Sequence[tuple[Run, str]]) -> list[chart.Line]:
  lines = []
  for style, (run, model) in enumerate(models):
    seeds = [
      {x: (x + 1, y) for x, y in entry["replacement_by_position"][model]}
      for entry in run.report["per_seed"]
    ]
    lines.append(chart.make_line(run.name_of(model), style, seeds))
  return [line for line in lines if line]
