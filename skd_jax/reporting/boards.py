"""Where a run is watched: TensorBoard, and what else is opened beside it.

metric_log.py hands each board the entries of a step: numbers, Texts and
Histograms. Only the numbers go to metrics.jsonl as well.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import tensorboardX

# Signs that Markdown or HTML reads, as what shows the sign itself.
_PLAIN = {ord(sign): f"&#{ord(sign)};" for sign in "\\`*_{}[]()#+-.!|<>&"}
_PLAIN[ord("\n")] = "<br>"


@dataclasses.dataclass(frozen=True)
class Texts:
  """Rows of text, such as prompts beside their answers."""

  columns: Sequence[str]
  rows: Sequence[Sequence[str]]

  def markdown(self) -> str:
    """Returns the rows as a table; what a text holds is no markup in it."""
    rule = ["---"] * len(self.columns)
    rows = [[text.translate(_PLAIN) for text in row] for row in self.rows]
    cells = [self.columns, rule, *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


@dataclasses.dataclass(frozen=True)
class Histogram:
  """Counts between edges: counts[i] in [edges[i], edges[i + 1])."""

  edges: Sequence[float]  # One more than counts.
  counts: Sequence[float]  # May be fractions.


Entry = float | Texts | Histogram


@dataclasses.dataclass(frozen=True)
class Place:
  """What a board shows: one stage of one seed of a run.

  last_step: the step that the run resumes from; -1 where it starts.
  """

  workdir: pathlib.Path
  stage: str
  seed: int
  last_step: int


class Board(Protocol):
  """Shows the entries of a step."""

  def write(self, step: int, entries: Mapping[str, Entry]) -> None: ...

  def close(self) -> None: ...


OpenBoard = Callable[[Place], Board]


class TensorBoard:
  """Event files in WORKDIR/tensorboard/STAGE/seed_SEED."""

  def __init__(self, place: Place):
    first = place.last_step + 1
    # TensorBoard hides what an earlier process left at purge_step and after.
    # The suffix keeps two logs of one second from sharing a file.
    self._writer = tensorboardX.SummaryWriter(
      str(place.workdir / "tensorboard" / place.stage / f"seed_{place.seed}"),
      purge_step=first,
      filename_suffix=f".from_{first}",
    )

  def write(self, step: int, entries: Mapping[str, Entry]) -> None:
    """Writes the entries and flushes them."""
    for name, entry in entries.items():
      if isinstance(entry, Texts):
        self._writer.add_text(name, entry.markdown(), step)
      elif isinstance(entry, Histogram):
        self._writer.add_histogram_raw(name, **_raw(entry), global_step=step)
      else:
        self._writer.add_scalar(name, entry, step)
    self._writer.flush()

  def close(self) -> None:
    """Closes the file."""
    self._writer.close()


def _raw(histogram: Histogram) -> dict:
  """The fields of an event; each value counts as the middle of its edges."""
  edges, counts = histogram.edges, histogram.counts
  middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
  weighted = list(zip(middles, counts, strict=True))
  return {
    "min": edges[0],
    "max": edges[-1],
    "num": sum(counts),
    "sum": sum(x * count for x, count in weighted),
    "sum_squares": sum(x * x * count for x, count in weighted),
    # The first bucket is empty, and ends where the second begins.
    "bucket_limits": list(edges),
    "bucket_counts": [0, *counts],
  }
