"""Line charts as SVG for a page: a mean over seeds, a band around it.

  [Line, ...] -> draw -> "<svg ...>"

Colours are classes of the page, `series-0` and on, so that a chart is readable
in light and in dark. The legend is the page's.
"""

import dataclasses
import html
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

import markupsafe

from skd_jax.reporting.comparison_plots import Band, Points, mean_band

NUM_STYLES = 6  # Colours of the page; then they begin again, dashed.

_WIDTH, _HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 22, 12, 40
_MAX_POINTS = 200  # Of a line; of more, neighbours are averaged.


@dataclasses.dataclass(frozen=True)
class Line:
  """A curve: its name, its place among the colours, its mean and deviation."""

  name: str
  style: int
  band: Band

  @property
  def classes(self) -> str:
    """Returns the classes that colour it."""
    dashed = " dashed" if self.style >= NUM_STYLES else ""
    return f"series-{self.style % NUM_STYLES}{dashed}"


def make_line(name: str, style: int, seeds: Iterable[Points]) -> Line | None:
  """Returns the mean over the seeds and its deviation; None without points.

  Args:
    name: of the line.
    style: its place among the colours.
    seeds: the points of each seed. Those that are not finite are left out.
  """
  band = mean_band(
    [
      {key: xy for key, xy in points.items() if math.isfinite(xy[1])}
      for points in seeds
    ]
  )
  return Line(name, style, _thin(band)) if band else None


def _thin(band: Band) -> Band:
  size = math.ceil(len(band.x) / _MAX_POINTS)
  starts = range(0, len(band.x), size)
  columns = (
    [statistics.fmean(values[i : i + size]) for i in starts]
    for values in (band.x, band.mean, band.deviation)
  )
  return Band(*columns)


def draw(
  lines: Sequence[Line],
  *,
  x_label: str,
  in_percent: bool = False,
  log_x: bool = False,
) -> markupsafe.Markup:
  """Draws lines with bands of one deviation.

  Args:
    lines: at least one.
    x_label: what is along the axis, plain text.
    in_percent: the values are shares of 1; the axis begins at 0.
    log_x: the axis doubles at each mark.

  Returns:
    The SVG. What it shows is also said in words, as its label.
  """
  bands = [line.band for line in lines]
  edges = [
    mean + side * deviation
    for band in bands
    for mean, deviation in zip(band.mean, band.deviation, strict=True)
    for side in (-1, 1)
  ]
  y_ticks = _ticks(0.0 if in_percent else min(edges), max(edges), 5)
  xs = [x for band in bands for x in band.x]
  x_ticks = (
    _doublings(max(xs)) if log_x else _ticks(min(xs), max(xs), 6, least=1)
  )
  scale: Callable[[float], float] = math.log2 if log_x else float
  x_at = _axis(scale(min(*xs, x_ticks[0])), scale(max(*xs, x_ticks[-1])))
  y_at = _axis(y_ticks[0], y_ticks[-1])

  def x_place(x: float) -> float:
    return _LEFT + x_at(scale(x)) * (_WIDTH - _LEFT - _RIGHT)

  def y_place(y: float) -> float:
    return _HEIGHT - _BOTTOM - y_at(y) * (_HEIGHT - _TOP - _BOTTOM)

  parts = [
    *(_y_tick(y_place(y), _number(y, in_percent)) for y in y_ticks),
    *(_x_tick(x_place(x), _number(x)) for x in x_ticks),
    f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" '
    f'y="{_HEIGHT - 4}" text-anchor="middle">{html.escape(x_label)}</text>',
    *(_draw_line(line, x_place, y_place) for line in lines),
  ]
  said = "; ".join(_in_words(line, in_percent) for line in lines)
  return markupsafe.Markup(
    f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    f'aria-label="{html.escape(said)}">{"".join(parts)}</svg>'
  )


def _draw_line(
  line: Line,
  x_place: Callable[[float], float],
  y_place: Callable[[float], float],
) -> str:
  band = line.band

  def path(side: int) -> list[str]:
    return [
      f"{x_place(x):.1f},{y_place(mean + side * deviation):.1f}"
      for x, mean, deviation in zip(
        band.x, band.mean, band.deviation, strict=True
      )
    ]

  drawn = f'<polyline points="{" ".join(path(0))}"/>'
  if any(band.deviation):
    around = " ".join([*path(1), *reversed(path(-1))])
    drawn = f'<polygon points="{around}"/>{drawn}'
  if len(band.x) == 1:
    x, y = path(0)[0].split(",")
    drawn += f'<circle cx="{x}" cy="{y}" r="3.5"/>'
  return f'<g class="{line.classes}">{drawn}</g>'


def _y_tick(y: float, text: str) -> str:
  return (
    f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
  )


def _x_tick(x: float, text: str) -> str:
  return (
    f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" '
    f'text-anchor="middle">{text}</text>'
  )


def _axis(low: float, high: float) -> Callable[[float], float]:
  """Returns what takes low to 0 and high to 1."""
  width = high - low
  return lambda value: (value - low) / width if width else 0.5


def _ticks(
  low: float, high: float, most: int, least: float = 0.0
) -> list[float]:
  """Returns round numbers 1, 2 or 5 times a power of ten apart.

  All values are between the first and the last. There are about `most`, and
  they are at least `least` apart.
  """
  width = (high - low) or abs(high) or 1.0
  unit = 10.0 ** math.floor(math.log10(width / most))
  step = next(unit * m for m in (1, 2, 5, 10, 20) if width / (unit * m) <= most)
  step = max(step, least)
  first, last = math.floor(low / step), math.ceil(high / step)
  return [n * step for n in range(first, max(last, first + 1) + 1)]


def _doublings(high: float) -> list[float]:
  return [2.0**n for n in range(math.ceil(math.log2(max(high, 2))) + 1)]


def _number(value: float, in_percent: bool = False) -> str:
  if in_percent:
    return f"{100 * value:.4g}\N{NBSP}%"
  # Not -0, nor the noise of n * 0.1.
  return f"{round(value, 12) or 0:,.10g}"


def _in_words(line: Line, in_percent: bool) -> str:
  first, last = (
    f"{100 * y:.3g} %" if in_percent else f"{y:.4g}"
    for y in (line.band.mean[0], line.band.mean[-1])
  )
  return f"{line.name}: {first} to {last}"
