"""How the cost of an SKD rollout grows, and what compiling it costs.

  python -m benchmarks.scaling [--quick] [--shape=NAME]

From one base point, one size at a time is varied: `what` is batch, length (of
the response), draft_length or depth (layers of the teacher), `value` its size.
Everything is accepted (K = V), so that a row has the same rounds as any other.
`compile_seconds` is without the persistent cache, tracing included.
"""

import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from benchmarks import contestants, harness
from benchmarks import pair as pair_lib


@dataclasses.dataclass(frozen=True)
class Point:
  """One size of a rollout."""

  batch: int = 8
  length: int = 32
  draft_length: int = 8
  depth: int = 6


@dataclasses.dataclass(frozen=True)
class Settings:
  """The base point, and the values that each size takes."""

  base: Point = Point()
  batch: tuple[int, ...] = (1, 4, 16, 64)
  length: tuple[int, ...] = (16, 64, 256)
  draft_length: tuple[int, ...] = (1, 2, 4, 8, 16)
  depth: tuple[int, ...] = (3, 12, 30)
  shape: str = "smollm2_135m"
  prompt_size: int = 32
  repeats: int = 3


QUICK = Settings(
  base=Point(batch=2, length=8, draft_length=4, depth=3),
  batch=(1, 4),
  length=(8, 16),
  draft_length=(2, 4),
  depth=(3, 6),
  shape="tiny",
  prompt_size=8,
)


def make_rows(settings: Settings) -> list[harness.Row]:
  """Measures all points."""
  rows = []
  for what in ("batch", "length", "draft_length", "depth"):
    for value in getattr(settings, what):
      point = dataclasses.replace(settings.base, **{what: value})
      print(f"{what} = {value}", flush=True)
      rows.append({"what": what, "value": value} | measure(point, settings))
  return rows


def measure(point: Point, settings: Settings) -> harness.Row:
  """Compiles and times one rollout."""
  pair = pair_lib.from_shape(settings.shape, num_layers=point.depth)
  batch = pair_lib.make_prompts(pair, point.batch, settings.prompt_size)
  vocab_size = pair.teacher.config.vocab_size
  write = contestants.make_skd(
    pair,
    contestants.never_stop(vocab_size),
    num_draft_tokens=point.draft_length,
    max_new_tokens=point.length,
  )
  arguments = (
    pair.student.params,
    pair.teacher.params,
    batch,
    contestants.row_keys(batch),
    jnp.float32(vocab_size),
  )
  begun = time.perf_counter()
  compiled = jax.jit(write).lower(*arguments).compile()
  compile_seconds = time.perf_counter() - begun
  timing = harness.interleaved(
    {"skd": lambda: compiled(*arguments)}, settings.repeats
  )["skd"]
  return {
    "seconds": timing.best,
    "tokens_per_s": point.batch * point.length / timing.best,
    "compile_seconds": compile_seconds,
    **dataclasses.asdict(point),
  }


def rows_from_flags(quick: bool) -> Sequence[harness.Row]:
  """Runs what the command line asks for."""
  jax.config.update("jax_enable_compilation_cache", False)
  settings = QUICK if quick else Settings()
  shape = pair_lib.shape_from_flags() or settings.shape
  return make_rows(dataclasses.replace(settings, shape=shape))


if __name__ == "__main__":
  harness.run("scaling", rows_from_flags)
