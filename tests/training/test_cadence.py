"""When a loop saves and stops, whatever is done to the clocks."""

import types

import pytest

from skd_jax.training import cadence
from skd_jax.training.cadence import Cadence, Watch, Wish


class Clocks:
  """The clock of the wall, which can be set, and the one that only goes on."""

  def __init__(self, monkeypatch):
    self.wall, self.steady = 1e9, 50.0
    clocks = types.SimpleNamespace(
      time=lambda: self.wall, monotonic=lambda: self.steady
    )
    monkeypatch.setattr(cadence, "time", clocks)

  def step(self, seconds, jump=0.0):
    """A step of so many seconds, in which the clock of the wall is set."""
    self.wall += seconds + jump
    self.steady += seconds


@pytest.fixture
def clocks(monkeypatch):
  return Clocks(monkeypatch)


def saves(clocks, watch, jumps):
  """After which steps of 30 s a run is saved."""
  found = []
  for step, jump in enumerate(jumps, 1):
    clocks.step(30.0, jump)
    if watch.wish() == Wish.SAVE:
      found.append(step)
      watch.saved()
  return found


@pytest.mark.parametrize("jump", [0.0, -1e6, 1e6])
def test_clock_that_is_set_changes_no_save(clocks, jump):
  watch = Watch(Cadence(1, checkpoint_every_minutes=1.5))
  jumps = [0, 0, 0, 0, jump, 0, 0, 0, 0, 0]
  assert saves(clocks, watch, jumps) == [3, 6, 9]


def test_clock_that_is_set_and_set_back_does_not_end_a_run(clocks):
  watch = Watch(Cadence(1, must_save_by=clocks.wall + 3600))
  for jump in (0.0, 3000.0, -3000.0, 0.0):
    clocks.step(30.0, jump)
    # What a step takes is not what the clock was set by.
    assert watch.wish() == Wish.NOTHING
  clocks.step(30.0, 3400.0)
  assert watch.wish() == Wish.STOP
