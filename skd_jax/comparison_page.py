"""The page of a comparison: its table, its tests and its figures.

PATH/runs.jsonl, answers  ->  PATH/tests.json, PATH/comparison.md, PATH/*.png

With tests.json beside the lines, the page can be written again where the
answers are not.
"""

import dataclasses
import functools
import math
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from skd_jax import comparison_tests, grids, records
from skd_jax.evaluation import seed_tests
from skd_jax.reporting import comparison_plots, comparison_table, files

_LINE_POINTS = 40  # Of a curve that has a value at each step.


def write(
  path: pathlib.Path, workdir: pathlib.Path | None, baselines: Sequence[str]
) -> str:
  """Writes tests.json, comparison.md and the figures beside the lines.

  Args:
    path: of the lines.
    workdir: where the answers of the runs are, if they are anywhere.
    baselines: what the others are tested against, as called in their groups.

  Returns:
    The tables as Markdown.
  """
  lines = records.read(path)
  tests = comparison_tests.run_tests(
    lines, baselines, workdir=workdir, kept=comparison_tests.read(path)
  )
  files.write_json(comparison_tests.tests_path(path), tests)
  text = section(lines, tests)
  images = "\n".join(
    f"![{drawn.stem}]({drawn.name})"
    for drawn in draw(lines, tests, path.parent)
  )
  title = f"# {lines[0]['task']}: {path.parent.name}"
  page = f"{title}\n\n{text}\n{comparison_table.LEGEND}\n{images}\n"
  files.write_atomically(path.parent / "comparison.md", page)
  return text


def section(lines: records.Records, tests: comparison_tests.Tests) -> str:
  """Returns what the lines were made with, and the tables, as Markdown."""
  last = lines[-1]
  used = ", ".join(f"{k} {v}" for k, v in last["versions"].items())
  # Runs of several commands and commits can lie in one file.
  commits: dict[str, dict[str, None]] = {}
  for line in lines:
    commits.setdefault(line["command"], {})[line["git"]] = None
  parts = [
    "\n".join(
      f"`{command}` at commit {', '.join(filter(None, found)) or 'unknown'}"
      for command, found in commits.items()
    ),
    f"on {last['device']} ({used}):",
    # The scores of answers are those that have a signature.
    comparison_table.scores_table(_rows(lines, tests), list(last["signature"])),
    comparison_table.differences_table(list(records.arms(lines)), tests),
  ]
  return "\n\n".join(part for part in parts if part) + "\n"


def draw(
  lines: records.Records,
  tests: comparison_tests.Tests,
  folder: pathlib.Path,
) -> list[pathlib.Path]:
  """Draws the figures for which something was measured.

  Returns:
    The files: differences.png, score_by_group.png, then those of _CURVES.
  """
  arms = records.arms(lines)
  panels, baselines = _panels(list(arms), list(tests))
  score = next(iter(arms.values()))[0]["score"] if arms else ""
  figures = {
    "differences": comparison_plots.draw_differences(list(arms), tests, score),
    "score_by_group": _draw_groups(arms, list(tests), score),
  }
  for name, curve in _CURVES.items():
    bands = {}
    for arm, runs in arms.items():
      band = comparison_plots.mean_band([curve.points(run) for run in runs])
      # One point is no curve: it stands in the table.
      if band is not None and len(band.x) > 1:
        bands[arm] = band
    figures[name] = comparison_plots.draw_bands(
      bands,
      panels,
      baselines,
      title=curve.title.format(score=score),
      x_label=curve.x_label,
      in_percent=curve.in_percent,
      log_x=curve.log_x,
    )
  drawn = []
  for name, figure in figures.items():
    if figure is not None:
      drawn.append(folder / f"{name}.png")
      figure.savefig(drawn[-1], dpi=120)
  return drawn


def _draw_groups(
  arms: Mapping[str, records.Records], baselines: Sequence[str], score: str
) -> Figure | None:
  """Draws the score of each arm from group to group; None where one is all."""
  groups = list(dict.fromkeys(_group(name) for name in arms))
  names = list(dict.fromkeys(map(grids.in_group, arms)))
  bands = {}
  for name in names:
    found = {
      float(i): [run["metrics"][score] for run in arms[group + name]]
      for i, group in enumerate(groups)
      if group + name in arms
    }
    if len(found) > 1:
      bands[name] = comparison_plots.band_of(found)
  panels, of_panels = _panels(names, baselines)
  return comparison_plots.draw_bands(
    bands,
    panels,
    of_panels,
    title=f"{score} by group, mean ± deviation over the seeds",
    x_label="",
    names_of_x=[group.removesuffix(", ") for group in groups],
  )


def _rows(
  lines: records.Records, tests: comparison_tests.Tests
) -> list[comparison_table.Arm]:
  """Returns the rows of the table, the models before distillation first."""
  rows = [
    comparison_table.Arm(line["method"], _by_metric([line]))
    for line in lines
    if line["seed"] is None
  ]
  arms, first = records.arms(lines), next(iter(tests), "")
  seconds = {name: _mean(runs, "seconds") for name, runs in arms.items()}
  for name, runs in arms.items():
    mine, rival = seconds[name], seconds.get(grids.rival(name, first))
    start = records.before(lines, name)
    row = comparison_table.Arm(
      name=name,
      metrics=_by_metric(runs),
      seeds=sorted(run["seed"] for run in runs),
      collapsed=None
      if start is None
      else seed_tests.collapsed(
        comparison_tests.final_scores(runs),
        start["metrics"][runs[0]["score"]],
      ),
      validation=list(comparison_tests.validation_scores(runs).values()),
      replaced=[run["replacement_rate"] for run in runs],
      changed=[run.get("changed_rate") for run in runs],
      seconds=[run["seconds"] for run in runs],
      cost=mine / rival if mine and rival else None,
    )
    rows.append(row)
  return rows


def _by_metric(runs: records.Records) -> dict[str, list[float | None]]:
  return {n: [run["metrics"][n] for run in runs] for n in runs[0]["metrics"]}


def _mean(runs: records.Records, field: str) -> float | None:
  values = [run[field] for run in runs]
  return None if None in values else statistics.fmean(values)


def _panels(
  names: Sequence[str], baselines: Sequence[str]
) -> tuple[list[list[str]], set[str]]:
  """Divides the arms over the panels of a figure, the baselines in each.

  Returns:
    (panels of at most MAX_LINES arms, all of one group; the baselines of all
    groups).
  """
  panels, all_baselines = [], set()
  groups: dict[str, list[str]] = {}
  for name in names:
    groups.setdefault(_group(name), []).append(name)
  for members in groups.values():
    own = [grids.rival(members[0], b) for b in baselines]
    own = [name for name in own if name in members]
    others = [n for n in members if n not in own]
    room = max(1, comparison_plots.MAX_LINES - len(own))
    size = math.ceil(len(others) / max(1, math.ceil(len(others) / room)))
    panels += [
      own + others[i : i + size] for i in range(0, len(others), size or 1)
    ] or [own]
    all_baselines |= set(own)
  return panels, all_baselines


def _group(name: str) -> str:
  """Returns what a name begins with: "100 prompts, " of "100 prompts, skd"."""
  return name.removesuffix(grids.in_group(name))


@dataclasses.dataclass(frozen=True)
class _Curve:
  """What a figure has along its axes."""

  points: Callable[[Mapping[str, Any]], comparison_plots.Points]  # Of a run.
  title: str
  x_label: str
  in_percent: bool = False
  log_x: bool = False


def _validation(
  run: Mapping[str, Any], *, of_seconds: bool
) -> comparison_plots.Points:
  return {
    step: (seconds if of_seconds else step, score)
    for seconds, step, score in run["curve"]
    if score is not None
  }


def _replacement(run: Mapping[str, Any]) -> comparison_plots.Points:
  """Means over stretches of the steps, about _LINE_POINTS of them."""
  curve = run["replacement_curve"]
  size = max(1, len(curve) // _LINE_POINTS)
  stretches = [curve[i : i + size] for i in range(0, len(curve), size)]
  return {
    stretch[-1][0]: (stretch[-1][0], statistics.fmean(y for _, y in stretch))
    for stretch in stretches
  }


def _replacement_by_position(run: Mapping[str, Any]) -> comparison_plots.Points:
  # The first token has a place of its own on the logarithmic axis.
  return {x: (x + 1, y) for x, y in run["replacement_by_position"]}


_CURVES: Mapping[str, _Curve] = {
  "validation_by_step": _Curve(
    functools.partial(_validation, of_seconds=False),
    "Validation {score}, mean ± deviation over the seeds",
    "step",
  ),
  "validation_by_seconds": _Curve(
    functools.partial(_validation, of_seconds=True),
    "Validation {score}, mean ± deviation over the seeds",
    "seconds of training",
  ),
  "replacement_by_step": _Curve(
    _replacement,
    "Share of tokens that the teacher replaced",
    "step",
    in_percent=True,
  ),
  "replacement_by_position": _Curve(
    _replacement_by_position,
    "Share of replaced tokens by position, from the marked one to the next",
    "token of the response, the first is 1",
    in_percent=True,
    log_x=True,
  ),
}
