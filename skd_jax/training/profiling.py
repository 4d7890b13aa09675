"""Traces of a few training steps, for Perfetto or TensorBoard's XProf."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import jax
from absl import logging

SKIPPED = 2  # The first steps compile.


@dataclasses.dataclass
class StepTracer:
  """Traces some steps by jax.profiler, after the first two of this process.

  The scopes of the program (`propose`, `verify`, `commit`, `refill`, `hidden`,
  `loss`, `update`) are in the names of the operations.

  folder: the trace goes to its plugins/profile/TIME: an XSpace for XProf and a
    perfetto_trace.json.gz for Perfetto.
  num_steps: how many steps to trace.
  """

  folder: pathlib.Path
  num_steps: int
  _calls: int = 0
  _is_tracing: bool = False

  def close(self) -> None:
    """Ends the trace at the end of a run, and says how many steps it has."""
    traced = max(self._calls - SKIPPED, 0)
    if self._is_tracing:
      self._is_tracing = False
      jax.profiler.stop_trace()
      logging.info("%d steps are traced in %s", traced, self.folder)
    if traced < self.num_steps:
      logging.warning(
        "profile: %d of %d steps are traced: this process made only %d, of "
        "which the first %d are left out",
        traced,
        self.num_steps,
        self._calls,
        SKIPPED,
      )


@contextlib.contextmanager
def traced(tracer: StepTracer | None, step: int) -> Iterator[None]:
  """Traces what is done inside, where it is the turn of this step."""
  if tracer is None:
    yield
    return
  call = tracer._calls
  tracer._calls += 1
  if call == SKIPPED:
    jax.profiler.start_trace(tracer.folder, create_perfetto_trace=True)
    tracer._is_tracing = True
  with jax.profiler.StepTraceAnnotation("step", step_num=step):
    yield
  if tracer._calls == SKIPPED + tracer.num_steps:
    tracer.close()
