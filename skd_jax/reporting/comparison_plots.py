"""The plots of a comparison: curves with bands, and a forest of differences.

{arm: curve of each seed} -> mean_band -> Band -> draw_bands       -> Figure
{arm: scores at each x}   -> band_of   -> Band -> draw_bands       -> Figure
tests                                          -> draw_differences -> Figure
"""

import dataclasses
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from skd_jax.reporting.comparison_table import MARKED_BELOW

# Step, or position -> (x, y), of one seed.
Points = Mapping[int, tuple[float, float]]

MAX_LINES = 8  # Of a panel.
# Okabe and Ito's colours without the yellow, which is faint on white, and greys
# for the baselines: told apart by every kind of sight, the shapes too.
_COLOURS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
)
_GREYS = ("#000000", "#767676")
_SHAPES = "osD^vPX*"
_DASHES = ("-", "--", ":", "-.")
_STYLE = {
  "axes.grid": True,
  "axes.axisbelow": True,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 10,
  "grid.color": "#e4e4e4",
  "legend.frameon": False,
  "legend.fontsize": 8,
}


@dataclasses.dataclass(frozen=True)
class Band:
  """A mean over the seeds, and their standard deviation: one value each x."""

  x: Sequence[float]
  mean: Sequence[float]
  deviation: Sequence[float]  # Zeros, if of one seed.


def mean_band(seeds: Sequence[Points]) -> Band | None:
  """Returns the mean at the keys that all seeds have; None without any.

  A step that only some seeds have reached would bend the mean for no reason.
  """
  shared = sorted(set.intersection(*map(set, seeds))) if seeds else []
  if not shared:
    return None
  points = {key: [points[key] for points in seeds] for key in shared}
  return band_of(
    {
      statistics.fmean(x for x, _ in found): [y for _, y in found]
      for found in points.values()
    }
  )


def band_of(values: Mapping[float, Sequence[float]]) -> Band:
  """Returns the mean at each x, of the values that the seeds have there."""
  return Band(
    x=list(values),
    mean=[statistics.fmean(found) for found in values.values()],
    deviation=[
      statistics.stdev(found) if len(found) > 1 else 0.0
      for found in values.values()
    ],
  )


def draw_bands(
  bands: Mapping[str, Band],
  panels: Sequence[Sequence[str]],
  baselines: Collection[str],
  *,
  title: str,
  x_label: str,
  in_percent: bool = False,
  log_x: bool = False,
  names_of_x: Sequence[str] = (),
) -> Figure | None:
  """Draws the mean of each arm, and a band of one deviation around it.

  Args:
    bands: by arm; arms without one are not drawn.
    panels: the arms of each panel, at most MAX_LINES; a baseline may stand in
      several.
    baselines: arms that are black or grey.
    title: of the figure.
    x_label: what is along the axis.
    in_percent: the values are shares.
    log_x: the axis doubles at each mark.
    names_of_x: what stands at 0, 1, ... in place of these numbers.

  Returns:
    The figure; None where no arm has a band.
  """
  # A panel of nothing but baselines that are in others says nothing new.
  full = [p for p in panels if (set(p) - set(baselines)) & bands.keys()]
  shown = full or [p for p in panels if bands.keys() & set(p)][:1]
  if not shown:
    return None
  columns = min(2, len(shown))
  rows = math.ceil(len(shown) / columns)
  # One scale for what has one baseline; groups have their own.
  of_one_group = len({frozenset(set(p) & set(baselines)) for p in shown}) == 1
  with rc_context(_STYLE):
    figure = Figure(
      figsize=(6.2 * columns, 3.3 * rows + 0.4), layout="constrained"
    )
    grid = figure.subplots(
      rows, columns, squeeze=False, sharex=of_one_group, sharey=of_one_group
    )
    for axes, panel in zip(grid.flat, shown, strict=False):
      _draw_panel(axes, bands, panel, baselines)
      axes.set_xlabel(x_label)
      axes.tick_params(labelbottom=True, labelleft=True)
      if log_x:
        axes.set_xscale("log", base=2)
      if names_of_x:
        axes.set_xticks(range(len(names_of_x)), names_of_x)
      if in_percent:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_ylim(bottom=0)
    for axes in grid.flat[len(shown) :]:
      axes.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
  return figure


def _draw_panel(
  axes: Axes,
  bands: Mapping[str, Band],
  panel: Sequence[str],
  baselines: Collection[str],
) -> None:
  lines = {}
  for name, style in _styles(panel, baselines).items():
    if name not in bands:
      continue
    band = bands[name]
    ends = list(zip(band.mean, band.deviation, strict=True))
    axes.fill_between(
      band.x,
      [mean - deviation for mean, deviation in ends],
      [mean + deviation for mean, deviation in ends],
      color=style["color"],
      alpha=0.12,
      linewidth=0,
    )
    (lines[name],) = axes.plot(
      band.x, band.mean, **style, markersize=3.5, linewidth=1.5, label=name
    )
  # From the top down as the lines end, so that a name is easily found.
  by_end = sorted(lines, key=lambda name: -bands[name].mean[-1])
  axes.legend(
    handles=[lines[name] for name in by_end],
    loc="center left",
    bbox_to_anchor=(1.0, 0.5),
  )


def _styles(
  panel: Sequence[str], baselines: Collection[str]
) -> dict[str, dict[str, Any]]:
  """Returns how each arm of a panel is drawn, the same in every figure."""
  styles = {}
  greys = [name for name in panel if name in baselines]
  others = [name for name in panel if name not in baselines]
  for names, colours in ((greys, _GREYS), (others, _COLOURS)):
    for i, name in enumerate(names):
      styles[name] = {
        "color": colours[i % len(colours)],
        "linestyle": _DASHES[i // len(colours) % len(_DASHES)],
        "marker": _SHAPES[len(styles) % len(_SHAPES)],
      }
  return styles


def draw_differences(
  names: Sequence[str], tests: Mapping[str, Mapping[str, Any]], score: str
) -> Figure | None:
  """Draws the difference of each arm to each baseline, with its intervals.

  Args:
    names: of the arms, from the top down; those that are not tested are left
      out.
    tests: as of comparison_table.differences_table.
    score: what the differences are of.

  Returns:
    The figure, one panel for each baseline; None without tests.
  """
  tests = {baseline: arms for baseline, arms in tests.items() if arms}
  names = [n for n in names if any(n in arms for arms in tests.values())]
  if not names:
    return None
  with rc_context(_STYLE):
    figure = Figure(
      figsize=(2.2 + 3.4 * len(tests), 1.8 + 0.26 * len(names)),
      layout="constrained",
    )
    grid = figure.subplots(1, len(tests), squeeze=False, sharey=True)
    for axes, (baseline, arms) in zip(grid.flat, tests.items(), strict=True):
      for name, tested in arms.items():
        _draw_difference(axes, names.index(name), tested)
      axes.axvline(0, color="#444444", linewidth=1)
      axes.set_title(f"over {baseline}")
      axes.set_xlabel(score)
    axes = grid.flat[0]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # The first one on top.
    figure.legend(handles=_keys(tests), loc="outside lower center", ncols=2)
    figure.suptitle(
      f"Mean difference in {score}, paired by seed",
      x=0.01,
      ha="left",
      fontsize=11,
    )
  return figure


_OF_SEEDS, _OF_BOTH = _COLOURS[0], _COLOURS[1]


def _draw_difference(axes: Axes, row: int, tested: Mapping[str, Any]) -> None:
  test, resampled = tested["test"], tested["bootstrap"]
  if resampled is not None:
    ends = [resampled["low"], resampled["high"]]
    axes.plot(ends, [row + 0.22] * 2, color=_OF_BOTH, linewidth=1.2)
  if test["p_value"] is not None:
    ends = [test["low"], test["high"]]
    axes.plot(ends, [row] * 2, color=_OF_SEEDS, linewidth=2.2)
  marked = test["p_value"] is not None and test["p_value"] < MARKED_BELOW
  axes.plot(
    [test["difference"]],
    [row],
    marker="o",
    markersize=5.5,
    color=_OF_SEEDS,
    markerfacecolor=_OF_SEEDS if marked else "white",
    linestyle="none",
  )


def _keys(tests: Mapping[str, Mapping[str, Any]]) -> list[Line2D]:
  """Returns what the legend says of the dots and lines that are there."""
  found = [tested for arms in tests.values() for tested in arms.values()]
  dot: dict[str, Any] = {
    "marker": "o",
    "linestyle": "none",
    "color": _OF_SEEDS,
  }
  small, large = f"p < {MARKED_BELOW}", f"p >= {MARKED_BELOW}"
  keys = [
    Line2D([], [], **dot, label=f"mean over the seeds, {small}"),
    Line2D([], [], **dot, markerfacecolor="white", label=f"{large}, or no p"),
    Line2D([], [], color=_OF_SEEDS, lw=2.2, label="95 %, t over the seeds"),
  ]
  if any(tested["bootstrap"] is not None for tested in found):
    label = "95 %, bootstrap of seeds and items"
    keys.append(Line2D([], [], color=_OF_BOTH, lw=1.2, label=label))
  return keys
