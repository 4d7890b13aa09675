"""Who writes the training data: one jitted function for each rollout policy."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from skd_jax import (
  model_store,
  rollout,
  sampling,
  scoring,
  structs,
)
from skd_jax import train_step as train_step_lib
from skd_jax.run import Run

# What rollout.num_draft_tokens = 0 chooses from.
_DRAFT_LENGTHS = (1, 2, 4, 8, 16)

# (student params, teacher params, batch, row keys [B], threshold [])
#   -> Rollout [B, T], with teacher_hidden
WriteFn = Callable[..., structs.Rollout]


def make_write_fn(
  run: Run,
  student: model_store.LoadedModel,
  teacher: model_store.LoadedModel,
  num_draft_tokens: int,
) -> WriteFn:
  """Returns the jitted rollout of the config's `rollout.policy`.

  Args:
    run: the run.
    student: writes, or proposes.
    teacher: verifies, or writes.
    num_draft_tokens: G, of the policy `skd`.

  Returns:
    `(student params, teacher params, batch, row keys [B], threshold []) ->
    Rollout [B, T]`, always with `teacher_hidden`.
  """
  settings = run.config.rollout
  max_new_tokens = run.task.max_new_tokens

  def policies(student_params, teacher_params):
    # The float32 masters are cast once here, not at every token.
    cast = jax.tree.map(lambda x: x.astype(run.dtype), student_params)
    return (
      rollout.Policy(cast, student.model, how("student")),
      rollout.Policy(teacher_params, teacher.model, how("teacher")),
    )

  def how(who):
    return sampling.Sampling(
      settings[f"{who}_temperature"], settings[f"{who}_top_p"]
    )

  def slots(batch):
    # The rollouts for samples.html have fewer rows than a training batch.
    return min(settings.batch_size, batch.prompt.shape[0]) or None

  def skd(student_params, teacher_params, batch, keys, threshold):
    of_student, of_teacher = policies(student_params, teacher_params)
    return rollout.rollout(
      of_student,
      of_teacher,
      batch,
      keys,
      run.task.stop_table,
      threshold,
      rule=rollout.Rule(settings.accept, settings.replace),
      num_draft_tokens=num_draft_tokens,
      max_new_tokens=max_new_tokens,
      batch_size=slots(batch),
    )

  def alone(student_params, teacher_params, batch, keys, threshold):
    del threshold
    who = ("on_policy", "teacher").index(settings.policy)
    written = rollout.decode(
      policies(student_params, teacher_params)[who],
      batch,
      keys,
      run.task.stop_table,
      max_new_tokens=max_new_tokens,
      batch_size=slots(batch),
      source=(structs.STUDENT, structs.TEACHER)[who],
    )
    return with_teacher(written, teacher_params, batch)

  def reference(student_params, teacher_params, batch, keys, threshold):
    del student_params, keys, threshold
    written = train_step_lib.reference_rollout(batch)
    return with_teacher(written, teacher_params, batch)

  def with_teacher(written, teacher_params, batch):
    return dataclasses.replace(
      written,
      teacher_hidden=scoring.response_hidden(
        teacher.model,
        teacher_params,
        batch.prompt,
        batch.prompt_length,
        written.tokens,
      ),
    )

  by_policy = {
    "skd": skd,
    "on_policy": alone,
    "teacher": alone,
    "reference": reference,
  }
  return jax.jit(by_policy[settings.policy])


def measure_draft_lengths(
  run: Run,
  student: model_store.LoadedModel,
  teacher: model_store.LoadedModel,
  batch: structs.Batch,
) -> dict[int, float]:
  """Times the rollout of a batch with several draft lengths.

  How long a draft pays depends on how much is accepted, and on what a draft
  step and a teacher pass cost on this device.

  Returns:
    Emitted tokens per second by num_draft_tokens, compilation left out.
  """
  keys = row_keys(run.config.seed, 0, batch.index)
  threshold = jnp.float32(run.config.rollout.threshold)
  speeds = {}
  for length in _DRAFT_LENGTHS:
    if length > run.task.max_new_tokens:
      break
    write = make_write_fn(run, student, teacher, length)
    seconds, emitted = [], 0
    for _ in range(3):
      begun = time.perf_counter()
      written = jax.block_until_ready(
        write(student.params, teacher.params, batch, keys, threshold)
      )
      seconds.append(time.perf_counter() - begun)
      emitted = int(np.sum(written.length))
    speeds[length] = emitted / min(seconds)
  return speeds


@jax.jit
def row_keys(seed: int, step: int, index: jax.Array) -> jax.Array:
  """Returns one PRNG key a row, [B], from the seed, the step and the example.

  Where the example stands in its batch does not matter.
  """
  step_key = jax.random.fold_in(jax.random.key(seed), step)
  return jax.vmap(lambda i: jax.random.fold_in(step_key, i))(index)


def trim_and_count(
  written: structs.Rollout, multiple: int
) -> tuple[structs.Rollout, dict[str, float]]:
  """Cuts the response buffer to what was written, and counts it.

  The train step then reads T rounded up to `multiple`, not the whole limit.
  """
  small = jax.device_get(dataclasses.replace(written, teacher_hidden=None))
  width = -(-max(int(small.length.max()), 1) // multiple) * multiple
  width = min(width, small.tokens.shape[1])
  emitted = np.arange(small.tokens.shape[1])[None] < small.length[:, None]
  counts: dict[str, float] = {
    "rows": len(small.length),
    "emitted": int(small.length.sum()),
    "replaced": int((emitted & (small.source == structs.TEACHER)).sum()),
    "truncated": int((~small.stopped).sum()),
    "rounds": int(small.num_rounds.sum()),
  }
  cut = {
    name: getattr(written, name)[:, :width]
    for name in ("tokens", "source", "draft_tokens", "teacher_hidden")
  }
  return dataclasses.replace(written, **cut), counts
