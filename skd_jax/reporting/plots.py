"""The plots of a run: one thin line per seed, their mean bold.

lines of metrics.jsonl -> read_curves -> Curves -> draw_... -> Figure
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

Curve = Mapping[int, float]  # step -> value
Curves = Mapping[tuple[str, str], Mapping[int, Curve]]
"""(stage, metric name) -> seed -> curve."""

_KEYS = ("stage", "seed", "step")
_STAGES = {
  "teacher": "teacher",
  "student_init": "student, start",
  "distill": "distillation",
}
# Okabe and Ito's blue, green and vermilion: told apart by every kind of sight.
_COLOURS = {"teacher": "#d55e00", "student_init": "#009e73"}
_COLOUR = "#0072b2"
_DASHES = ("-", "--", ":", "-.")
_STYLE = {
  "axes.grid": True,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 11,
  "grid.color": "#e4e4e4",
  "legend.frameon": False,
  "legend.fontsize": 9,
}


def read_curves(lines: Iterable[Mapping[str, Any]]) -> Curves:
  """Returns every metric of the lines of a metrics.jsonl, stage by stage."""
  curves: dict[tuple[str, str], dict[int, dict[int, float]]] = {}
  for line in lines:
    for name, value in line.items():
      if name not in _KEYS:
        seeds = curves.setdefault((line["stage"], name), {})
        seeds.setdefault(line["seed"], {})[line["step"]] = value
  return curves


def draw_learning_curve(curves: Curves, scores: Sequence[str]) -> Figure | None:
  """Draws the loss of each stage, then each validation score.

  Returns:
    The figure, or None where neither was logged.
  """
  losses = [key for key in curves if key[1] == "loss"]
  names = {f"validation_{name}" for name in scores}
  panels = losses + [key for key in curves if key[1] in names]
  if not panels:
    return None
  columns = 2 if len(panels) == 4 else min(3, len(panels))
  rows = math.ceil(len(panels) / columns)
  with rc_context(_STYLE):
    figure = _figure(4.3 * columns, 3.3 * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (stage, name) in zip(grid, panels, strict=False):
      colour = _COLOURS.get(stage, _COLOUR)
      _draw_seeds(axes, curves[stage, name], colour)
      what = name.removeprefix("validation_").replace("_", " ")
      where = "" if name == "loss" else "validation "
      axes.set_title(f"{_STAGES.get(stage, stage)}: {where}{what}")
    for axes in grid[len(panels) :]:
      axes.set_axis_off()
  return figure


def draw_replacement_rate(curves: Curves) -> Figure | None:
  """Draws the share of tokens that the teacher replaced, over the steps.

  Returns:
    The figure, or None where it was not logged.
  """
  panels = [key for key in curves if key[1] == "replacement_rate"]
  if not panels:
    return None
  with rc_context(_STYLE):
    figure = _figure(6.4, 3.6)
    axes = figure.subplots()
    for stage, name in panels:
      _draw_seeds(axes, curves[stage, name], _COLOURS.get(stage, _COLOUR))
    axes.set_title("Share of rollout tokens that the teacher replaced")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_ylim(bottom=0)
  return figure


def _figure(width: float, height: float) -> Figure:
  # A bare Figure saves through Agg and leaves pyplot's global state alone.
  return Figure(figsize=(width, height), layout="constrained")


def _draw_seeds(axes: Axes, seeds: Mapping[int, Curve], colour: str) -> None:
  single = len(seeds) == 1
  for i, (seed, curve) in enumerate(sorted(seeds.items())):
    axes.plot(
      list(curve),
      list(curve.values()),
      color=colour,
      linestyle=_DASHES[i % len(_DASHES)],
      linewidth=1.6 if single else 0.9,
      alpha=1.0 if single else 0.55,
      marker="o" if len(curve) == 1 else None,
      label=f"seed {seed}",
    )
  if not single:
    mean = mean_curve(list(seeds.values()))
    axes.plot(
      list(mean), list(mean.values()), color=colour, linewidth=2.0, label="mean"
    )
    axes.legend()
  axes.set_xlabel("step")
  axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def mean_curve(curves: Sequence[Curve]) -> Curve:
  """Returns the mean at the steps that every curve has.

  A step that only some seeds have reached would bend the mean for no reason:

    seed 0   1  2  3  4
    seed 1   1  2
    mean     1  2
  """
  steps = set.intersection(*(set(curve) for curve in curves))
  return {
    step: statistics.fmean(curve[step] for curve in curves)
    for step in sorted(steps)
  }
