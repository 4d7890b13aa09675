"""Figures of a comparison: what their lines and bands are."""

import numpy as np
import pytest

from skd_jax.reporting import comparison_plots


def test_band_is_over_the_steps_of_all_seeds():
  seeds = [{2: (3.0, 20.0), 4: (6.0, 30.0)}, {2: (5.0, 22.0)}]
  band = comparison_plots.mean_band(seeds)
  assert (band.x, band.mean) == ([4.0], [21.0])
  assert band.deviation == [pytest.approx(2**0.5)]
  assert comparison_plots.mean_band([*seeds, {}]) is None
  assert comparison_plots.mean_band([]) is None
  assert comparison_plots.mean_band(seeds[:1]).deviation == [0.0, 0.0]


BANDS = {
  name: comparison_plots.Band([1, 2], [i, end], [0.5, 0.25])
  for i, (name, end) in enumerate([("kd", 2.0), ("skd", 3.0), ("gkd", 1.0)])
}


def draw(panels, baselines=("kd",)):
  return comparison_plots.draw_bands(
    BANDS, panels, baselines, title="t", x_label="step"
  )


def test_band_reaches_one_deviation_from_the_mean():
  (axes,) = draw([["kd", "skd"]]).axes
  vertices = axes.collections[1].get_paths()[0].vertices
  assert {(x, y) for x, y in vertices[np.isin(vertices[:, 0], [1, 2])]} == {
    (1, 0.5),
    (1, 1.5),
    (2, 2.75),
    (2, 3.25),
  }
  assert list(axes.lines[1].get_ydata()) == [1, 3.0]


def test_names_stand_in_the_order_in_which_the_lines_end():
  (axes,) = draw([["kd", "skd", "gkd"]]).axes
  names = [text.get_text() for text in axes.get_legend().get_texts()]
  assert names == ["skd", "kd", "gkd"]


def test_arm_is_drawn_alike_whatever_else_is_there():
  panel = ["kd", "absent", "skd", "gkd"]
  (axes,) = draw([panel]).axes
  drawn = {
    line.get_label(): (line.get_color(), line.get_marker())
    for line in axes.lines
  }
  everything = comparison_plots.draw_bands(
    BANDS | {"absent": BANDS["kd"]}, [panel], ("kd",), title="", x_label=""
  )
  for line in everything.axes[0].lines:
    expected = drawn.get(line.get_label())
    assert expected in (None, (line.get_color(), line.get_marker()))
  assert len(set(drawn.values())) == 3


def test_panel_of_baselines_alone_is_left_out():
  figure = draw([["kd", "skd"], ["kd", "absent"]])
  assert len([axes for axes in figure.axes if axes.lines]) == 1
  assert len(draw([["kd"]]).axes) == 1
  assert draw([["absent"]]) is None


def against(difference, p, bootstrap=None):
  test = {"difference": difference, "p_value": p, "low": None, "high": None}
  if p is not None:
    test |= {"low": difference - 1, "high": difference + 1}
  return {"score": "bleu", "test": test, "bootstrap": bootstrap}


def test_forest_has_a_row_for_each_arm_and_a_panel_for_each_baseline():
  resampled = {"low": -2.0, "high": 2.0}
  tests = {
    "kd": {"skd": against(0.5, 0.004, resampled), "gkd": against(-1.0, None)},
    "skd": {"gkd": against(-1.5, 0.5)},
    "sft": {},
  }
  names = ["sft", "gkd", "skd"]
  figure = comparison_plots.draw_differences(names, tests, "bleu")
  first, second = figure.axes
  assert [label.get_text() for label in first.get_yticklabels()] == names[1:]
  dots = {
    (line.get_xdata()[0], line.get_ydata()[0]): line.get_markerfacecolor()
    for line in first.lines
    if line.get_marker() == "o"
  }
  assert set(dots) == {(0.5, 1), (-1.0, 0)}
  # Filled where p is small.
  assert dots[-1.0, 0] == "white"
  assert dots[0.5, 1] != "white"
  intervals = [
    list(line.get_xdata()) for line in first.lines if len(line.get_xdata()) == 2
  ]
  assert [-0.5, 1.5] in intervals
  assert [-2.0, 2.0] in intervals
  assert second.get_title(loc="left") == "over skd"
  assert comparison_plots.draw_differences(names, {"kd": {}}, "bleu") is None
