"""A stuck step ends its process."""

import threading

import pytest

from skd_jax.training import watchdog
from tests import command_lines

_STUCK = """
import time
from skd_jax.training import watchdog

def wait_for_a_dead_host():
  time.sleep(60)

with watchdog.limited({minutes}, "distill_seed_0, step 7"):
  wait_for_a_dead_host()
"""


def test_stuck_step_shows_where_it_is_and_ends_with_a_code_of_its_own():
  done = command_lines.run("-c", _STUCK.format(minutes=0.005), timeout=30)
  assert done.returncode == watchdog.EXIT_CODE == 75
  assert (
    "distill_seed_0, step 7 takes longer than max_step_minutes = 0.005"
    in (done.stderr)
  )
  assert "in wait_for_a_dead_host" in done.stderr


@pytest.fixture
def given_up(monkeypatch):
  """What the process would have ended for."""
  found = []
  monkeypatch.setattr(watchdog, "_give_up", lambda _, what: found.append(what))
  return found


@pytest.mark.parametrize("minutes", [0.0, 10.0])
def test_block_within_its_limit_leaves_no_timer_behind(given_up, minutes):
  before = threading.active_count()
  with watchdog.limited(minutes, "a step"):
    assert threading.active_count() == before + (minutes > 0)
  with pytest.raises(ZeroDivisionError), watchdog.limited(minutes, "a step"):
    raise ZeroDivisionError
  for thread in threading.enumerate():
    if isinstance(thread, threading.Timer):
      thread.join(5)
  assert threading.active_count() == before
  assert not given_up
