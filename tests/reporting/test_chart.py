"""A chart shows the mean of the seeds where it is, with its deviation."""

import math
import re

import pytest

from skd_jax.reporting import chart


def line_of(*seeds, name="student", style=0):
  """A line of seeds, each {step: value}."""
  points = [{x: (x, y) for x, y in seed.items()} for seed in seeds]
  return chart.make_line(name, style, points)


def drawn(svg, shape):
  """The points [(x, y), ...] of each polyline or polygon."""
  return [
    [tuple(map(float, point.split(","))) for point in points.split()]
    for points in re.findall(rf'<{shape} points="([^"]*)"', svg)
  ]


def height_of(svg, value):
  """Where the axis has a number."""
  y = re.search(rf'y="([\d.]+)" text-anchor="end">{value}<', svg)[1]
  return float(y) - 4  # The text hangs below its line.


def test_mean_and_band_stand_at_their_numbers():
  line = line_of({0: 1.0, 10: 2.0}, {0: 3.0, 10: 4.0})
  svg = chart.draw([line], x_label="step")
  (mean,) = drawn(svg, "polyline")
  (band,) = drawn(svg, "polygon")
  assert mean[0][1] == pytest.approx(height_of(svg, 2), abs=0.1)
  assert mean[0][0] < mean[1][0]
  # Each seed is 1 from the mean: a deviation of sqrt(2).
  unit = height_of(svg, 1) - height_of(svg, 2)
  upper, lower = band[0][1], band[-1][1]
  assert lower - upper == pytest.approx(2 * math.sqrt(2) * unit, abs=0.3)
  assert (upper + lower) / 2 == pytest.approx(mean[0][1], abs=0.2)


def test_one_seed_has_no_band_and_one_point_is_a_dot():
  svg = chart.draw([line_of({0: 1.0, 10: 2.0})], x_label="step")
  assert "<polygon" not in svg
  assert "<circle" not in svg
  assert "<circle" in chart.draw([line_of({5: 1.0})], x_label="step")


def test_number_that_is_not_finite_is_left_out():
  line = line_of({0: 1.0, 1: math.nan, 2: 3.0}, {0: 1.0, 1: 1.0, 2: 3.0})
  assert line is not None
  assert list(line.band.x) == [0, 2]
  assert line_of({0: math.nan}) is None
  assert line_of() is None


def test_many_steps_are_averaged_to_few_points():
  line = line_of({step: float(step) for step in range(1000)})
  assert line is not None
  assert list(line.band.mean[:2]) == [2.0, 7.0]
  assert len(line.band.x) == 200


def test_shares_begin_at_zero_and_positions_double():
  line = line_of({1: 0.3, 2: 0.4, 32: 0.5})
  svg = chart.draw([line], x_label="token", in_percent=True, log_x=True)
  assert ">0\N{NBSP}%<" in svg
  ((one, _), (two, _), (last, _)) = drawn(svg, "polyline")[0]
  assert last - one == pytest.approx(5 * (two - one), abs=0.3)
  assert ">32<" in svg


@pytest.mark.parametrize(
  ("low", "high", "ticks"),
  [
    (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
    (0.41, 1.08, [0.4, 0.6, 0.8, 1.0, 1.2]),
    (-3.0, 140.0, [-50, 0, 50, 100, 150]),
    (7.0, 7.0, [6, 8]),
    (0.0, 0.0, [0.0, 0.2]),
  ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, ticks):
  found = chart._ticks(low, high, 5)
  assert found[0] <= low
  assert found[-1] >= high
  assert found == pytest.approx(ticks)


def test_steps_are_whole_numbers():
  svg = chart.draw([line_of({3: 1.0, 6: 2.0})], x_label="step")
  shown = re.findall(r'text-anchor="middle">([\d.]+)<', svg)
  assert shown == ["3", "4", "5", "6"]


def test_what_is_drawn_is_also_said_and_escaped():
  lines = [line_of({0: 1.0, 9: 0.25}, name="<b>", style=7)]
  svg = chart.draw(lines, x_label="<i>")
  assert 'aria-label="&lt;b&gt;: 1 to 0.25"' in svg
  assert "&lt;i&gt;" in svg
  assert 'class="series-1 dashed"' in svg
