"""Who writes the training data: the policy, the data set, or row by row.

choose       0    1    2    3        a draw for each row, keyed like the others
reference?   n    y    n    y
policy       ...       ...           what is no reference is written
merge        ...  ref  ...  ref
score        one pass of the teacher, where no verification has brought it
"""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from skd_jax import config as config_lib
from skd_jax import policies, structs
from skd_jax.decoding import sampling
from skd_jax.experiment import Run
from skd_jax.models import forward, loading
from skd_jax.parallel import processes
from skd_jax.training import train_step as train_step_lib

# (student params, teacher params, batch, row keys [B], step)
#   -> (Rollout [B, T], seconds by part)
WriteFn = Callable[..., tuple[structs.Rollout, dict[str, float]]]


def make_write_fn(
  run: Run, teacher: loading.LoadedModel, policy: policies.PolicyFn
) -> WriteFn:
  """Returns the function that writes the training data of a step.

  What a step needs is decided before anything is traced: a step without
  references, or of references alone, costs no more than that.

  Args:
    run: the run.
    teacher: gives the targets of what it has not verified.
    policy: from policies.make_policy_fn.

  Returns:
    `(student params, teacher params, batch, row keys [B], step) -> (Rollout
    [B, T], {"seconds_generate", "seconds_verify"})`. The rollout has
    `teacher_hidden`, unless the loss asks no teacher; seconds_verify is the
    time of a teacher pass of its own, and absent where the policy's own
    passes, which are in seconds_generate, are all.
  """
  config = run.config
  num_steps = config.distill.num_steps
  threshold = config_lib.threshold(config)
  reference_share = config_lib.reference_share(config)
  needs_teacher = config.loss.divergence != "cross_entropy"
  verifies = config.rollout.policy == "skd"
  score = make_score_fn(teacher)

  def write(student_params, teacher_params, batch, keys, step):
    begun = time.perf_counter()
    now = jnp.float32(threshold.at(step, num_steps))
    share = reference_share.at(step, num_steps)
    if share >= 1:
      written = _only_references(batch)
    elif share <= 0:
      written = policy(student_params, teacher_params, batch, keys, now)
    else:
      is_reference, rest = choose_references(batch, keys, share)
      written = policy(student_params, teacher_params, rest, keys, now)
      written = merge_references(written, batch, is_reference)
    jax.block_until_ready(written)
    seconds = {"seconds_generate": time.perf_counter() - begun}
    if needs_teacher and (share > 0 or not verifies):
      begun = time.perf_counter()
      written = jax.block_until_ready(score(teacher_params, batch, written))
      seconds["seconds_verify"] = time.perf_counter() - begun
    return written, seconds

  return write


def make_score_fn(
  teacher: loading.LoadedModel,
) -> Callable[..., structs.Rollout]:
  """Returns jitted `(teacher params, batch, Rollout) -> Rollout`.

  It has the `teacher_hidden` of one teacher pass over all rows.
  """

  @jax.jit
  def score(teacher_params, batch, written):
    return dataclasses.replace(
      written,
      teacher_hidden=forward.response_hidden(
        teacher.model,
        teacher_params,
        batch.prompt,
        batch.prompt_length,
        written.tokens,
      ),
    )

  return score


_only_references = jax.jit(train_step_lib.reference_rollout)


@jax.jit
def choose_references(
  batch: structs.Batch, row_keys: jax.Array, share: float
) -> tuple[jax.Array, structs.Batch]:
  """Chooses the rows whose response is the reference, each by its own draw.

  Args:
    batch: [B, ...].
    row_keys: typed PRNG keys [B].
    share: the probability of a row, in [0, 1].

  Returns:
    (bool [B], the batch with these rows marked as padding, which a rollout
    leaves empty).
  """
  first = jnp.zeros(batch.prompt.shape[0], jnp.int32)
  uniform = sampling.draw_uniform(row_keys, sampling.REFERENCE_DRAW, first)
  is_reference = uniform < share
  return is_reference, dataclasses.replace(
    batch, index=jnp.where(is_reference, -1, batch.index)
  )


@jax.jit
def merge_references(
  written: structs.Rollout, batch: structs.Batch, is_reference: jax.Array
) -> structs.Rollout:
  """Puts the references of some rows in the place of what was written.

  Args:
    written: [B, T], T at least that of the references.
    batch: [B, ...].
    is_reference: bool [B].

  Returns:
    Rollout [B, T] without `teacher_hidden`: nothing has verified references.
  """
  longer = written.tokens.shape[1] - batch.reference.shape[1]
  wide = jnp.pad(jnp.asarray(batch.reference), ((0, 0), (0, longer)))
  references = train_step_lib.reference_rollout(
    dataclasses.replace(batch, reference=wide)
  )
  return jax.tree.map(
    lambda a, b: jnp.where(is_reference.reshape(-1, *[1] * (a.ndim - 1)), a, b),
    references,
    dataclasses.replace(written, teacher_hidden=None),
  )


def trim_and_count(
  written: structs.Rollout, multiple: int
) -> tuple[structs.Rollout, dict[str, float]]:
  """Cuts the response buffer to what was written, and counts it.

  The train step then reads T rounded up to `multiple`, not the whole limit.
  """
  small = processes.to_host(dataclasses.replace(written, teacher_hidden=None))
  width = -(-max(int(small.length.max()), 1) // multiple) * multiple
  width = min(width, small.tokens.shape[1])
  cut = {
    name: getattr(written, name)[:, :width]
    for name in ("tokens", "source", "draft_tokens")
  }
  if written.teacher_hidden is not None:
    cut["teacher_hidden"] = written.teacher_hidden[:, :width]
  return dataclasses.replace(written, **cut), count(small)


def count(written: structs.Rollout) -> dict[str, float]:
  """Counts what models have written; references are not counted.

  Args:
    written: [B, T], on the host.

  Returns:
    rows, emitted and replaced tokens, those of them that became another token,
    truncated rows, rounds. Where a teacher has judged, also emitted_from_N and
    replaced_from_N by the position in the response, N = 0, 1, 2, 4, 8, ...:
    from N to the next N.
  """
  within = np.arange(written.tokens.shape[1]) < written.length[:, None]
  emitted = within & (written.source != structs.REFERENCE)
  replaced = emitted & (written.source == structs.TEACHER)
  rows = emitted.any(axis=1)
  counts: dict[str, float] = {
    "rows": int(rows.sum()),
    "emitted": int(emitted.sum()),
    "replaced": int(replaced.sum()),
    "changed": int((emitted & (written.tokens != written.draft_tokens)).sum()),
    "truncated": int((rows & ~written.stopped).sum()),
    "rounds": int(written.num_rounds.sum()),
  }
  if counts["rounds"]:
    start, end = 0, 1
    while start < emitted.shape[1]:
      counts[f"emitted_from_{start}"] = int(emitted[:, start:end].sum())
      counts[f"replaced_from_{start}"] = int(replaced[:, start:end].sum())
      start, end = end, 2 * end
  return counts
