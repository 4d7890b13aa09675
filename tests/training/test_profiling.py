"""Traces of steps: which are traced, and what is said if there are too few."""

import jax
import pytest
from absl import logging

from skd_jax.training import profiling
from tests.training import test_loop


@pytest.fixture
def calls(monkeypatch):
  """What is asked of the profiler, and what is warned of."""
  found = []

  def start_trace(folder, **_):
    assert found[-1:] != ["start"]
    found.append("start")

  def stop_trace():
    assert found[-1:] == ["start"]
    found.append("stop")

  monkeypatch.setattr(jax.profiler, "start_trace", start_trace)
  monkeypatch.setattr(jax.profiler, "stop_trace", stop_trace)
  monkeypatch.setattr(
    logging, "warning", lambda text, *args: found.append(text % args)
  )
  return found


def fit(workdir, *, num_steps, traced, **fail):
  """Runs the loop up to a step; returns the tracer."""
  tracer = profiling.StepTracer(workdir / "profile", traced)
  test_loop._fit(
    workdir, test_loop._step_fn(**fail), num_steps=num_steps, tracer=tracer
  )
  return tracer


@pytest.mark.parametrize("num_steps", [5, 7])
def test_steps_after_the_first_two_are_traced(tmp_path, calls, num_steps):
  fit(tmp_path, num_steps=num_steps, traced=3)
  assert calls == ["start", "stop"]


def test_trace_that_the_run_cuts_is_written_and_said(tmp_path, calls):
  fit(tmp_path, num_steps=2, traced=0)
  fit(tmp_path, num_steps=6, traced=3)
  assert calls[:2] == ["start", "stop"]
  (line,) = calls[2:]
  assert line.startswith("profile: 2 of 3 steps are traced: this process made")
  assert "only 4, of which the first 2 are left out" in line


def test_run_that_is_too_near_its_end_to_trace_says_so(tmp_path, calls):
  fit(tmp_path, num_steps=5, traced=3)
  calls.clear()
  fit(tmp_path, num_steps=7, traced=3)
  (line,) = calls
  assert line.startswith("profile: 0 of 3 steps are traced: ")


def test_trace_ends_where_the_run_is_killed(tmp_path, calls):
  with pytest.raises(test_loop._Killed):
    fit(tmp_path, num_steps=7, traced=3, fail_at=3, fail=test_loop._kill)
  assert calls[:2] == ["start", "stop"]
