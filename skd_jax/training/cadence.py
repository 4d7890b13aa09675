"""How often a loop writes its log and saves, and when it stops by itself."""

import dataclasses
import enum
import math
import time
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Kept:
  """Which checkpoints of a stage stay, and which one is its result.

  last: how many of the newest.
  best: how many of those that score best, beside them; 0: none is scored.
  metric: what they are scored by, a name of the validation; -NAME: the smallest
    is the best. Of equal ones, the newest is.
  result_is_best: the stage ends with the best of all; else with the last.
  """

  last: int = 2
  best: int = 0
  metric: str = ""
  result_is_best: bool = False

  def score(self, scores: Mapping[str, Any]) -> float | None:
    """Returns the score to be made large, of what the callbacks log.

    None where nothing was scored, or the score is not a number.
    """
    if not self.best:
      return None
    value = scores.get(f"validation_{self.metric.removeprefix('-')}")
    if value is None or not math.isfinite(value):
      return None
    return -value if self.metric.startswith("-") else value


@dataclasses.dataclass(frozen=True)
class Cadence:
  """When a stage writes and saves.

  log_every_steps: a line of the log each.
  checkpoint_every_steps: 0: not by steps. At the end, and where a run is
    stopped, it is saved always.
  checkpoint_every_minutes: the same by the clock; 0: not by the clock.
  must_save_by: seconds since 1970; the run saves before, and stops.
  kept: what stays of what is saved. What is scored is saved as well.
  """

  log_every_steps: int
  checkpoint_every_steps: int = 0
  checkpoint_every_minutes: float = 0.0
  must_save_by: float = math.inf
  kept: Kept = Kept()

  def logs(self, step: int) -> bool:
    """Whether a line is due once so many steps are done."""
    return _due(step, self.log_every_steps)

  def saves(self, step: int) -> bool:
    """Whether a checkpoint is due once so many steps are done."""
    return _due(step, self.checkpoint_every_steps)


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


class Wish(enum.IntEnum):
  """What a process wants after a step; of several, the largest is done."""

  NOTHING = 0
  SAVE = 1
  STOP = 2


# For the save itself: the last step that fits ends so long before the deadline.
_SECONDS_TO_SAVE = 60.0


class Watch:
  """The clock of a loop: a process may see another time than the first.

  The wall clock, which may be set while a run goes on, is read for
  `must_save_by` alone.
  """

  def __init__(self, cadence: Cadence) -> None:
    self._cadence = cadence
    self._saved = self._stepped = time.monotonic()
    self._longest = 0.0

  def wish(self) -> Wish:
    """Returns what the clock asks for; to be called after each step.

    A step takes as long as the longest did, with the callbacks after it.
    """
    now = time.monotonic()
    self._longest = max(self._longest, now - self._stepped)
    self._stepped = now
    needed = self._longest + _SECONDS_TO_SAVE
    if time.time() + needed >= self._cadence.must_save_by:
      return Wish.STOP
    minutes = self._cadence.checkpoint_every_minutes
    if minutes and now - self._saved >= 60 * minutes:
      return Wish.SAVE
    return Wish.NOTHING

  def saved(self) -> None:
    """The run has just been saved."""
    self._saved = time.monotonic()
