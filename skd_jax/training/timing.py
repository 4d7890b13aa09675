"""What the parts of a step take, and what of it is compiling."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax

PARTS = ("generate", "verify", "train")  # Of a step of distillation.
WAIT = "wait"  # For responses that are begun early, in the place of both.

# Lowering and XLA; the trace is not in it, as its events nest.
_COMPILING = (
  "/jax/core/compile/jaxpr_to_mlir_module_duration",
  "/jax/core/compile/backend_compile_duration",
)


@contextlib.contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
  """Adds the seconds of a block to `part`, and its compiling to "compile".

  Args:
    seconds: by part; no second is in two of them. What runs on a device counts
      where the block waits for it.
    part: of PARTS, or WAIT.
  """
  compiling = 0.0

  def add(event: str, duration_secs: float, **_: Any) -> None:
    nonlocal compiling
    if event in _COMPILING:
      compiling += duration_secs

  jax.monitoring.register_event_duration_secs_listener(add)
  start_time = time.perf_counter()
  try:
    yield
  finally:
    jax.monitoring.unregister_event_duration_listener(add)
  total = time.perf_counter() - start_time
  compiling = min(compiling, total)  # Other threads may compile as well.
  seconds[part] = seconds.get(part, 0.0) + total - compiling
  if compiling:
    seconds["compile"] = seconds.get("compile", 0.0) + compiling
