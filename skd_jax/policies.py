"""The policy that writes: SKD, or one model alone, jitted; how long it drafts.

What a config's `rollout` section says becomes one function of weights and
prompts. writers.py decides which rows of a batch it writes.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from skd_jax import stages, structs
from skd_jax.decoding import rollout, sampling
from skd_jax.experiment import Run
from skd_jax.models import loading
from skd_jax.parallel import processes, sharding

# What rollout.num_draft_tokens = 0 chooses from.
_DRAFT_LENGTHS = (1, 2, 4, 8, 16)

# (student params, teacher params, batch, row keys [B], threshold [])
#   -> Rollout [B, T]
PolicyFn = Callable[..., structs.Rollout]
# ((student, teacher, stop table, threshold), (batch, row keys [B]))
#   -> Rollout [B, T]
_RowsFn = Callable[[Any, Any], structs.Rollout]


def make_policy_fn(
  run: Run,
  student: loading.LoadedModel,
  teacher: loading.LoadedModel,
  num_draft_tokens: int,
) -> PolicyFn:
  """Returns the jitted rollout of the config's `rollout.policy`.

  Args:
    run: the run; its policy is not `reference`.
    student: writes, or proposes.
    teacher: verifies, or writes.
    num_draft_tokens: G, of the policy `skd`.

  Returns:
    `(student params, teacher params, batch, row keys [B], threshold []) ->
    Rollout [B, T]`, with `teacher_hidden` where the policy is `skd`.
  """
  is_skd = run.config.rollout.policy == "skd"
  write = _skd(run, num_draft_tokens) if is_skd else _alone(run)
  rows, replicated = sharding.rows(run.mesh), sharding.replicated(run.mesh)
  of_student, of_teacher = (
    jax.tree.map(lambda x: x.sharding, model.params)
    for model in (student, teacher)
  )

  @functools.partial(
    jax.jit,
    in_shardings=(of_student, of_teacher, rows, rows, replicated),
    out_shardings=rows,
  )
  def policy(student_params, teacher_params, batch, keys, threshold):
    # The float32 masters are cast once here, not at every token.
    cast = jax.tree.map(lambda x: x.astype(run.dtype), student_params)
    shared = (
      rollout.Policy(cast, student.model, _how(run, "student")),
      rollout.Policy(teacher_params, teacher.model, _how(run, "teacher")),
      run.task.stop_table,
      threshold,
    )
    return sharding.by_rows(write)(shared, (batch, keys))

  return policy


def _skd(run: Run, num_draft_tokens: int) -> _RowsFn:
  settings = run.config.rollout

  def write(shared, rows):
    student, teacher, stop_table, threshold = shared
    batch, keys = rows
    return rollout.rollout(
      student,
      teacher,
      batch,
      keys,
      stop_table,
      threshold,
      rule=rollout.Rule(settings.accept, settings.replace),
      num_draft_tokens=num_draft_tokens,
      max_new_tokens=run.task.max_new_tokens,
      batch_size=_slots(run, batch),
    )

  return write


def _alone(run: Run) -> _RowsFn:
  student_writes = run.config.rollout.policy == "on_policy"

  def write(shared, rows):
    student, teacher, stop_table, _ = shared
    batch, keys = rows
    written = rollout.decode(
      student if student_writes else teacher,
      batch,
      keys,
      stop_table,
      max_new_tokens=run.task.max_new_tokens,
      batch_size=_slots(run, batch),
      source=structs.STUDENT if student_writes else structs.TEACHER,
    )
    # Its rounds were no passes of a teacher that judges.
    return dataclasses.replace(
      written, num_rounds=jnp.zeros_like(written.num_rounds)
    )

  return write


def _how(run: Run, who: str) -> sampling.Sampling:
  settings = run.config.rollout
  return sampling.Sampling(
    settings[f"{who}_temperature"], settings[f"{who}_top_p"]
  )


def _slots(run: Run, batch: structs.Batch) -> int | None:
  """Returns how many rows a group of devices decodes at once; None for all."""
  # Each group has its part of the slots. The rollouts for samples.html have
  # fewer rows than a training batch.
  of_group = run.config.rollout.batch_size // sharding.num_row_shards(run.mesh)
  return min(of_group, batch.prompt.shape[0]) or None


def choose_draft_length(
  run: Run,
  student: loading.LoadedModel,
  teacher: loading.LoadedModel,
  sections: tuple[str, ...],
) -> int:
  """Gives G: the config's, or where that is 0, the fastest of a few.

  Measured once, with the student's start on the first batch, and kept like a
  stage, so that a continued run goes on with the same, and all processes take
  what the first has measured.

  Args:
    run: the run.
    student: its start.
    teacher: the teacher.
    sections: of the config, what the distilled student depends on.
  """
  config = run.config
  length = config.rollout.num_draft_tokens
  if length or config.rollout.policy != "skd":
    return length
  needs = run.depends_on(*sections)
  result = stages.begin(run.workdir, "draft_length", needs)
  if result is None:
    batch = next(run.train_batches(config.distill, config.seeds[0]))
    speeds = measure_draft_lengths(run, student, teacher, batch)
    length = max(speeds, key=speeds.__getitem__)
    logging.info(
      "Draft length %d is the fastest; tokens per second: %s",
      length,
      ", ".join(f"{n}: {speed:.0f}" for n, speed in speeds.items()),
    )
    result = stages.finish(
      run.workdir, "draft_length", needs, {"num_draft_tokens": length}
    )
  return result["num_draft_tokens"]


def measure_draft_lengths(
  run: Run,
  student: loading.LoadedModel,
  teacher: loading.LoadedModel,
  batch: structs.Batch,
) -> dict[int, float]:
  """Times the rollout of a batch with several draft lengths.

  How long a draft pays depends on how much is accepted, and on what a draft
  step and a teacher pass cost on this device.

  Returns:
    Emitted tokens per second by num_draft_tokens, compilation left out.
  """
  keys = sampling.row_keys(run.config.seed, 0, batch.index)
  threshold = jnp.float32(run.config.rollout.threshold)
  speeds = {}
  for length in _DRAFT_LENGTHS:
    if length > run.task.max_new_tokens:
      break
    policy = make_policy_fn(run, student, teacher, length)
    seconds, emitted = [], 0
    for _ in range(3):
      begun = time.perf_counter()
      written = jax.block_until_ready(
        policy(student.params, teacher.params, batch, keys, threshold)
      )
      seconds.append(time.perf_counter() - begun)
      emitted = int(processes.to_host(written.length).sum())
    speeds[length] = emitted / min(seconds)
  return speeds
