"""How many tokens are drafted before one teacher pass: the fastest of a few."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import logging

from skd_jax import structs
from skd_jax.parallel import processes
from skd_jax.training import generation

DRAFT_LENGTHS = (1, 2, 4, 8, 16)


def measure_draft_lengths(
  spec: generation.GenerationSpec,
  make_rollout_fn: Callable[[generation.GenerationSpec], generation.RolloutFn],
  student_params: structs.Params,
  teacher_params: structs.Params,
  batch: structs.Batch,
  row_keys: jax.Array,
) -> dict[int, float]:
  """Times the rollout of a batch with several draft lengths.

  How long a draft pays depends on how much is accepted, and on what a draft
  step and a teacher pass cost on this device. The tokens are the same.

  Args:
    spec: who generates; its own draft length is not looked at.
    make_rollout_fn: `generation.make_rollout_fn` with the models bound.
    student_params: its weights.
    teacher_params: its weights.
    batch: [B, ...].
    row_keys: typed PRNG keys [B].

  Returns:
    Emitted tokens per second by num_draft_tokens, compilation left out.
  """
  threshold = jnp.float32(spec.threshold(0))
  speeds = {}
  for length in DRAFT_LENGTHS:
    if length > spec.max_new_tokens:
      break
    rollout_fn = make_rollout_fn(
      dataclasses.replace(spec, num_draft_tokens=length)
    )
    seconds, emitted = [], 0
    for _ in range(3):
      start_time = time.perf_counter()
      rollout = jax.block_until_ready(
        rollout_fn(student_params, teacher_params, batch, row_keys, threshold)
      )
      seconds.append(time.perf_counter() - start_time)
      emitted = int(processes.to_host(rollout.length).sum())
    speeds[length] = emitted / min(seconds)
  return speeds


def fastest(speeds: dict[int, float]) -> dict[str, int]:
  """Returns {"num_draft_tokens": the fastest}, and logs the speeds of all."""
  length = max(speeds, key=speeds.__getitem__)
  logging.info(
    "Draft length %d is the fastest; tokens per second: %s",
    length,
    ", ".join(f"{n}: {speed:.0f}" for n, speed in speeds.items()),
  )
  return {"num_draft_tokens": length}
