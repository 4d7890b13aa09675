"""Traces of a few training steps, for Perfetto or TensorBoard's XProf."""

import itertools
import pathlib

import jax
from absl import logging

from skd_jax.training import loop

SKIPPED = 2  # The first steps compile.


def trace_steps(
  step_fn: loop.StepFn, folder: pathlib.Path, num_steps: int
) -> loop.StepFn:
  """Returns `step_fn`, of which some calls are traced by jax.profiler.

  The scopes of the program (`propose`, `verify`, `commit`, `refill`,
  `hidden`, `loss`, `update`) are in the names of the operations.

  Args:
    step_fn: one step of training.
    folder: the trace goes to its plugins/profile/TIME: an XSpace for XProf and
      a perfetto_trace.json.gz for Perfetto.
    num_steps: how many calls to trace, after the first two.
  """
  calls = itertools.count()

  def traced(state, batch, step):
    call = next(calls)
    if call == SKIPPED:
      jax.profiler.start_trace(folder, create_perfetto_trace=True)
    with jax.profiler.StepTraceAnnotation("step", step_num=step):
      result = step_fn(state, batch, step)
    if call == SKIPPED + num_steps - 1:
      jax.block_until_ready(result)
      jax.profiler.stop_trace()
      logging.info("%d steps are traced in %s", num_steps, folder)
    return result

  return traced
