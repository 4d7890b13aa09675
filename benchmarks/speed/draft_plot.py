"""The figure of speculative decoding: speed-ups, measured and predicted."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

# Okabe and Ito's blue, vermilion and a grey: told apart by every kind of sight.
_OURS, _PREDICTED, _PEERS = "#0072b2", "#d55e00", "#767676"
_STYLE = {
  "axes.axisbelow": True,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 10,
  "legend.frameon": False,
  "legend.fontsize": 8,
}


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
  """Draws the speed-up of each drafter, a panel for each batch size.

  Args:
    rows: of the benchmark speculative_decoding; those that were not run are
      left out.
  """
  shown = [row for row in rows if row.get("speedup") is not None]
  names = [w for w in dict.fromkeys(r["what"] for r in shown) if w != "plain"]
  sizes = sorted({row["batch"] for row in shown})
  with rc_context(_STYLE):
    figure = Figure(
      figsize=(2.2 + 2.6 * len(sizes), 1.2 + 0.24 * len(names)),
      layout="constrained",
    )
    grid = figure.subplots(1, len(sizes), squeeze=False, sharey=True)
    for axes, size in zip(grid.flat, sizes, strict=True):
      of_size = {r["what"]: r for r in shown if r["batch"] == size}
      there = [(y, of_size[w]) for y, w in enumerate(names) if w in of_size]
      axes.barh(
        [y for y, _ in there],
        [row["speedup"] for _, row in there],
        height=0.6,
        color=[
          _PEERS if row["what"].startswith("hf_") else _OURS for _, row in there
        ],
      )
      predicted = [(y, r) for y, r in there if r.get("predicted_speedup")]
      axes.plot(
        [row["predicted_speedup"] for _, row in predicted],
        [y for y, _ in predicted],
        linestyle="none",
        marker="D",
        markersize=5,
        color=_PREDICTED,
        label="predicted",
      )
      axes.axvline(1, color="#444444", linewidth=1)
      axes.set_title(f"batch {size}")
      axes.set_xlabel("speed-up over the teacher alone")
    axes = grid.flat[0]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # The first one on top.
    grid.flat[-1].legend(loc="lower right")
  return figure
