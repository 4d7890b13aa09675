"""The plots of a comparison: one line a method, a mean over its seeds."""

import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.quality import table
from skd_jax import records as records_lib

# x and y of a method's line.
Line = Sequence[tuple[float, float]]

_DASHES = ("-", "--", ":", "-.")


def draw_all(
  records: records_lib.Records, folder: pathlib.Path
) -> list[pathlib.Path]:
  """Draws what the lines of a comparison allow.

  Args:
    records: the lines.
    folder: where the plots are written.

  Returns:
    The files: of score_over_time.png, replacement_over_steps.png and
    replacement_by_position.png those for which something was measured.
  """
  plots: Mapping[str, Callable[[records_lib.Records], Figure | None]] = {
    "score_over_time.png": draw_score_over_time,
    "replacement_over_steps.png": draw_replacement_over_steps,
    "replacement_by_position.png": draw_replacement_by_position,
  }
  drawn = []
  for name, draw in plots.items():
    figure = draw(records)
    if figure is not None:
      drawn.append(folder / name)
      figure.savefig(drawn[-1], dpi=160)
  return drawn


def draw_score_over_time(records: records_lib.Records) -> Figure | None:
  """Draws the validation score over the seconds of training."""
  lines = {
    name: table.mean_curve(
      [record["curve"] for record in table.of_method(records, name)]
    )
    for name in table.names(records)
  }
  scores = {r["score"] for r in records if r["seed"] is not None}
  return _draw(
    lines, f"Validation {', '.join(sorted(scores))}", "seconds of training"
  )


def draw_replacement_over_steps(records: records_lib.Records) -> Figure | None:
  """Draws the share of replaced tokens over the training steps."""
  lines = {
    name: _smooth(_mean_of(records, name, "replacement_curve"))
    for name in table.names(records)
  }
  figure = _draw(lines, "Share of tokens that the teacher replaced", "step")
  return _in_percent(figure)


def draw_replacement_by_position(records: records_lib.Records) -> Figure | None:
  """Draws the share of replaced tokens over the position in the response."""
  lines = {
    # Position 0 has a place of its own on the logarithmic axis.
    name: [
      (x + 1, y) for x, y in _mean_of(records, name, "replacement_by_position")
    ]
    for name in table.names(records)
  }
  figure = _draw(
    lines,
    "Share of replaced tokens by position, from the marked one to the next",
    "token of the response, the first is 1",
  )
  if figure is not None:
    figure.axes[0].set_xscale("log", base=2)
  return _in_percent(figure)


def _mean_of(records: records_lib.Records, name: str, field: str) -> Line:
  """The mean over the seeds at the points that all of them have."""
  curves = [
    {float(x): y for x, y in record[field]}
    for record in table.of_method(records, name)
  ]
  shared = set.intersection(*map(set, curves))
  return [
    (x, statistics.fmean(curve[x] for curve in curves)) for x in sorted(shared)
  ]


def _smooth(line: Line, parts: int = 40) -> Line:
  """Means over stretches of the line, about `parts` of them."""
  size = max(1, len(line) // parts)
  stretches = [line[i : i + size] for i in range(0, len(line), size)]
  return [
    (stretch[-1][0], statistics.fmean(y for _, y in stretch))
    for stretch in stretches
  ]


def _draw(lines: Mapping[str, Line], title: str, x_label: str) -> Figure | None:
  lines = {name: line for name, line in lines.items() if line}
  if not lines:
    return None
  figure = Figure(figsize=(8.4, 4.8), layout="constrained")
  axes = figure.subplots()
  colours = colormaps["tab10"]
  for i, (name, line) in enumerate(lines.items()):
    axes.plot(
      [x for x, _ in line],
      [y for _, y in line],
      color=colours(i % 10),
      linestyle=_DASHES[i // 10 % len(_DASHES)],
      marker="o",
      markersize=3,
      linewidth=1.4,
      label=name,
    )
  axes.set_title(title, loc="left", fontsize=11)
  axes.set_xlabel(x_label)
  axes.grid(color="#e4e4e4")
  axes.legend(
    frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5)
  )
  return figure


def _in_percent(figure: Figure | None) -> Figure | None:
  if figure is not None:
    axes = figure.axes[0]
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_ylim(bottom=0)
  return figure
