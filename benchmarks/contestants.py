"""The rollouts that are timed: one jitted function for each way to write.

Weights, prompts, keys and thresholds are arguments, so that all replacement
rates share one compiled function.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.pair import Pair
from skd_jax import structs
from skd_jax.decoding import rollout, sampling, stopping
from skd_jax.models import forward

# At temperature 1 the every-third-layer student of SmolLM2 draws a token beyond
# its own 25 best every sixth time, whatever the teacher thinks; at 0.5, the
# paper's, every eightieth time.
STUDENT_SAMPLING = sampling.Sampling(temperature=0.5)
TEACHER_SAMPLING = sampling.Sampling(temperature=0.2)

# (student params, teacher params, batch, row keys [B], threshold []) -> Rollout
Write = Callable[..., structs.Rollout]


def never_stop(vocab_size: int) -> stopping.StopTable:
  """Returns the table of a run in which every response has the length T."""
  return stopping.make_stop_table(vocab_size, ())


def policies(
  pair: Pair, student_params: structs.Params, teacher_params: structs.Params
) -> tuple[rollout.Policy, rollout.Policy]:
  """Binds weights to the two models and to how they draw tokens."""
  return (
    rollout.Policy(student_params, pair.student.model, STUDENT_SAMPLING),
    rollout.Policy(teacher_params, pair.teacher.model, TEACHER_SAMPLING),
  )


def make_skd(
  pair: Pair,
  stop_table: stopping.StopTable,
  *,
  num_draft_tokens: int,
  max_new_tokens: int,
  accept: str = "top_k",
  batch_size: int | None = None,
) -> Write:
  """Returns the jitted SKD rollout.

  Args:
    pair: the models.
    stop_table: what ends a response.
    num_draft_tokens: G.
    max_new_tokens: T.
    accept: the acceptance rule.
    batch_size: rows that are decoded at once, refilled from a queue of the
      other prompts; None decodes all prompts at once.
  """
  queue = {} if batch_size is None else {"batch_size": batch_size}

  @jax.jit
  def skd(student_params, teacher_params, batch, keys, threshold):
    student, teacher = policies(pair, student_params, teacher_params)
    return rollout.rollout(
      student,
      teacher,
      batch,
      keys,
      stop_table,
      threshold,
      rule=rollout.Rule(accept, "sample"),
      num_draft_tokens=num_draft_tokens,
      max_new_tokens=max_new_tokens,
      **queue,
    )

  return skd


def make_alone(
  pair: Pair,
  stop_table: stopping.StopTable,
  *,
  max_new_tokens: int,
  source: int,
) -> Write:
  """Returns the jitted decoding of one model, the one that `source` names."""

  @jax.jit
  def alone(student_params, teacher_params, batch, keys, threshold):
    del threshold
    both = policies(pair, student_params, teacher_params)
    return rollout.decode(
      both[source],
      batch,
      keys,
      stop_table,
      max_new_tokens=max_new_tokens,
      source=source,
    )

  return alone


def make_on_policy(
  pair: Pair, stop_table: stopping.StopTable, *, max_new_tokens: int
) -> Write:
  """Returns on-policy KD: the student writes, the teacher reads it once."""
  alone = make_alone(
    pair,
    stop_table,
    max_new_tokens=max_new_tokens,
    source=structs.STUDENT,
  )

  @jax.jit
  def on_policy(student_params, teacher_params, batch, keys, threshold):
    written = alone(student_params, teacher_params, batch, keys, threshold)
    return with_teacher(pair, written, teacher_params, batch)

  return on_policy


def with_teacher(
  pair: Pair,
  written: structs.Rollout,
  teacher_params: structs.Params,
  batch: structs.Batch,
) -> structs.Rollout:
  """Lets the teacher read responses that it has not verified."""
  hidden = forward.response_hidden(
    pair.teacher.model,
    teacher_params,
    batch.prompt,
    batch.prompt_length,
    written.tokens,
  )
  return dataclasses.replace(written, teacher_hidden=hidden)


def row_keys(batch: structs.Batch) -> jax.Array:
  """Returns the keys of the draws, [B]; the same prompt has the same key."""
  return sampling.row_keys(0, 0, batch.index)


def replacement_rate(written: structs.Rollout) -> float:
  """Returns the part of the emitted tokens that the teacher wrote."""
  length = np.asarray(written.length)
  source = np.asarray(written.source)
  emitted = np.arange(source.shape[1])[None] < length[:, None]
  return float(np.mean(source[emitted] == structs.TEACHER))


def bind(
  write: Write, pair: Pair, batch: structs.Batch, threshold: float
) -> Callable[[], structs.Rollout]:
  """Binds all arguments, for the clock."""
  return functools.partial(
    write,
    pair.student.params,
    pair.teacher.params,
    batch,
    row_keys(batch),
    jnp.float32(threshold),
  )


def fastest(
  calls: dict[int, Callable[[], structs.Rollout]],
) -> tuple[Callable[[], structs.Rollout], dict[str, Any]]:
  """Chooses the draft length that is fastest here; the calls are compiled.

  Returns:
    (its call, columns of its row).
  """
  timings = {length: harness.time_once(call) for length, call in calls.items()}
  best = min(timings, key=lambda length: timings[length][0])
  written = timings[best][1]
  rounds = np.asarray(written.num_rounds)
  return calls[best], {
    "num_draft_tokens": best,
    "replacement_rate": replacement_rate(written),
    "tokens_per_round": float(np.sum(written.length) / np.sum(rounds)),
    "rounds": int(rounds.max()),
  }
