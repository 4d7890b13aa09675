"""Who generates the responses that a step trains on.

One frozen `GenerationSpec` says so for a whole run. A step of the mode `skd`
with some references among its rows:

  choose       0    1    2    3        a draw for each row, keyed by the row
  reference?   n    y    n    y
  rollout      ...       ...           the other rows are generated
  merge        ...  ref  ...  ref
  teacher      one pass, where no verification has brought its hidden states
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.decoding import acceptance, sampling, stopping
from skd_jax.decoding import rollout as rollout_lib
from skd_jax.decoding.policy import Policy
from skd_jax.models import forward
from skd_jax.models.loading import LoadedModel
from skd_jax.parallel import sharding
from skd_jax.training import distance
from skd_jax.training.timing import timed

MODES = ("skd", "on_policy", "teacher", "reference")


@dataclasses.dataclass(frozen=True)
class GenerationSpec:
  """Who generates, how, and what the loss needs of it.

  mode: one of MODES: `skd` (the student, corrected by the teacher), `on_policy`
    (the student), `teacher` (SeqKD), `reference` (supervised KD, SFT).
  uses_teacher: whether the loss needs the distribution of a teacher that is
    there; a cached one is not.
  rule: of the mode `skd`.
  threshold: step -> the parameter of the rule.
  reference_share: step -> the share of rows that are references, in [0, 1].
  first_tokens: step -> how many tokens of a response are generated and learned;
    0 is all.
  student_sampling: how the student's tokens are drawn.
  teacher_sampling: how the teacher's tokens are drawn.
  num_draft_tokens: G, of the mode `skd`.
  max_new_tokens: T.
  batch_size: rows that are decoded at once; 0 is all.
  by_distance: the parameter of the rule, where earlier rollouts decide it.
  """

  mode: str
  uses_teacher: bool
  rule: acceptance.Rule
  threshold: Callable[[int], float]
  reference_share: Callable[[int], float]
  student_sampling: sampling.Sampling
  teacher_sampling: sampling.Sampling
  num_draft_tokens: int
  max_new_tokens: int
  batch_size: int = 0
  first_tokens: Callable[[int], float] = lambda step: 0
  by_distance: distance.ShareByDistance | None = None

  def threshold_at(self, step: int, seen: jax.Array | None) -> jax.Array:
    """Returns the parameter of the rule; see generate_responses."""
    if self.by_distance is None or seen is None:
      return jnp.float32(self.threshold(step))
    return self.by_distance.share(seen)

  def needs_teacher_pass(self, share: float) -> bool:
    """Whether the teacher has to read responses that it has not read yet."""
    has_read = share <= 0 and self.mode in ("skd", "teacher")
    return self.uses_teacher and not has_read


class RolloutFn(Protocol):
  """A jitted rollout."""

  def __call__(
    self,
    student_params: structs.Params,
    teacher_params: structs.Params,
    batch: structs.Batch,
    row_keys: jax.Array,
    threshold: jax.Array,
  ) -> structs.Rollout:
    """Maps prompts [B, P], keys [B] and float32 [] to Rollout [B, T]."""
    ...


def make_rollout_fn(
  spec: GenerationSpec,
  student: LoadedModel,
  teacher: LoadedModel,
  stop_table: stopping.StopTable,
  *,
  mesh: jax.sharding.Mesh,
  dtype: jax.typing.DTypeLike,
) -> RolloutFn:
  """Returns the jitted rollout of a spec whose mode is not `reference`.

  Args:
    spec: who generates.
    student: its model, and where its weights are placed.
    teacher: likewise.
    stop_table: what ends a response.
    mesh: rows are sharded over it.
    dtype: of the student's weights while it generates.

  Returns:
    A RolloutFn; its rollouts have `teacher_hidden` where the mode is `skd`, or
    where it is `teacher` and the loss needs them.
  """
  rows, replicated = sharding.rows(mesh), sharding.replicated(mesh)
  of_student, of_teacher = (
    jax.tree.map(lambda x: x.sharding, model.params)
    for model in (student, teacher)
  )
  # What is jitted would keep the weights of a LoadedModel where they are.
  student_model, teacher_model = student.model, teacher.model

  @functools.partial(
    jax.jit,
    in_shardings=(of_student, of_teacher, rows, rows, replicated),
    out_shardings=rows,
  )
  def rollout_fn(student_params, teacher_params, batch, row_keys, threshold):
    # The float32 masters are cast once here, not at every token.
    cast = jax.tree.map(lambda x: x.astype(dtype), student_params)
    shared = (
      Policy(cast, student_model, spec.student_sampling),
      Policy(teacher_params, teacher_model, spec.teacher_sampling),
      stop_table,
      threshold,
    )
    generate = functools.partial(_generate_rows, spec)
    return sharding.by_rows(generate)(shared, (batch, row_keys))

  return rollout_fn


def _generate_rows(spec: GenerationSpec, shared, rows) -> structs.Rollout:
  """Generates the rows of one data-parallel group; see sharding.by_rows."""
  student, teacher, stop_table, threshold = shared
  batch, row_keys = rows
  # Each group has its part of the slots. The rollouts for report.html have
  # fewer rows than a training batch.
  of_group = spec.batch_size // sharding.num_groups()
  slots = min(of_group, batch.prompt.shape[0]) or None
  if spec.mode == "skd":
    return rollout_lib.rollout(
      student,
      teacher,
      batch,
      row_keys,
      stop_table,
      threshold,
      rule=spec.rule,
      num_draft_tokens=spec.num_draft_tokens,
      max_new_tokens=spec.max_new_tokens,
      batch_size=slots,
    )
  policy, source = {
    "on_policy": (student, structs.STUDENT),
    "teacher": (teacher, structs.TEACHER),
  }[spec.mode]
  rollout = rollout_lib.decode(
    policy,
    batch,
    row_keys,
    stop_table,
    max_new_tokens=spec.max_new_tokens,
    batch_size=slots,
    source=source,
    keep_hidden=spec.uses_teacher and spec.mode == "teacher",
  )
  # Its rounds were no passes of a teacher that judges.
  return dataclasses.replace(
    rollout, num_rounds=jnp.zeros_like(rollout.num_rounds)
  )


def generate_responses(
  spec: GenerationSpec,
  rollout_fn: RolloutFn,
  teacher: structs.LanguageModel,
  student_params: structs.Params,
  teacher_params: structs.Params,
  batch: structs.Batch,
  row_keys: jax.Array,
  step: int,
  seen: jax.Array | None = None,
) -> tuple[structs.Rollout, dict[str, float]]:
  """Generates the responses of a step, or takes them from the data set.

  What a step needs is decided before anything is traced: a step without
  references, or of references alone, costs no more than that.

  Args:
    spec: who generates.
    rollout_fn: from make_rollout_fn, of the same spec.
    teacher: gives the targets of what it has not verified.
    student_params: its weights.
    teacher_params: its weights.
    batch: [B, ...].
    row_keys: typed PRNG keys [B].
    step: of the run, for the schedules.
    seen: `TrainState.distance`, for the schedule that depends on it.

  Returns:
    (Rollout [B, T], seconds by part as of timing.py). The rollout has
    `teacher_hidden`, unless the loss needs no teacher. "verify" is the time of
    a teacher pass of its own, and absent where the rollout's own passes, which
    are in "generate", are all.
  """
  seconds: dict[str, float] = {}
  params = student_params, teacher_params
  with timed(seconds, "generate"):
    batch, share, rollout = jax.block_until_ready(
      _begin(spec, rollout_fn, params, batch, row_keys, step, seen)
    )
  if spec.needs_teacher_pass(share):
    with timed(seconds, "verify"):
      rollout = jax.block_until_ready(
        with_teacher_hidden(teacher, teacher_params, batch, rollout)
      )
  return rollout, seconds


def begin_responses(
  spec: GenerationSpec,
  rollout_fn: RolloutFn,
  teacher: structs.LanguageModel,
  student_params: structs.Params,
  teacher_params: structs.Params,
  batch: structs.Batch,
  row_keys: jax.Array,
  step: int,
  seen: jax.Array | None = None,
) -> structs.Rollout:
  """As generate_responses, but waits for no device.

  Returns:
    The rollout [B, T], which is under way.
  """
  params = student_params, teacher_params
  batch, share, rollout = _begin(
    spec, rollout_fn, params, batch, row_keys, step, seen
  )
  if spec.needs_teacher_pass(share):
    return with_teacher_hidden(teacher, teacher_params, batch, rollout)
  return rollout


def _begin(
  spec: GenerationSpec,
  rollout_fn: RolloutFn,
  params: tuple[structs.Params, structs.Params],
  batch: structs.Batch,
  row_keys: jax.Array,
  step: int,
  seen: jax.Array | None,
) -> tuple[structs.Batch, float, structs.Rollout]:
  """Returns (the batch as it is read, share of references, rollout).

  Of the rollout a teacher pass of its own may be missing.
  """
  if first := round(spec.first_tokens(step)):
    batch = first_tokens(batch, first)
  threshold = spec.threshold_at(step, seen)
  share = float(spec.reference_share(step))
  if share >= 1:
    return batch, share, reference_rollout(batch)
  is_reference, rest = None, batch
  if share > 0:
    is_reference, rest = choose_references(batch, row_keys, share)
  rollout = rollout_fn(*params, rest, row_keys, threshold)
  if is_reference is not None:
    rollout = merge_references(rollout, batch, is_reference)
  return batch, share, rollout


@jax.jit
def first_tokens(batch: structs.Batch, number: jax.Array) -> structs.Batch:
  """Returns the batch with every response limited to its first tokens.

  Args:
    batch: [B, ...].
    number: int32 [], how many.
  """
  return dataclasses.replace(
    batch,
    reference_length=jnp.minimum(batch.reference_length, number),
    max_new_tokens=jnp.minimum(batch.max_new_tokens, number),
  )


@jax.jit
def reference_rollout(batch: structs.Batch) -> structs.Rollout:
  """Presents the references of a batch as a rollout, for SFT and supervised KD.

  Returns:
    Rollout [B, T] whose tokens come from REFERENCE; no `teacher_hidden`.
  """
  num_rows = batch.reference.shape[0]
  rollout = structs.Rollout(
    tokens=batch.reference,
    length=batch.reference_length,
    source=jnp.full(batch.reference.shape, structs.REFERENCE, jnp.int8),
    draft_tokens=batch.reference,
    stopped=jnp.ones(num_rows, bool),
    num_rounds=jnp.zeros(num_rows, jnp.int32),
    teacher_hidden=None,
  )
  return sharding.constrain_rows(rollout)


@functools.partial(jax.jit, static_argnames="teacher")
def with_teacher_hidden(
  teacher: structs.LanguageModel,
  teacher_params: structs.Params,
  batch: structs.Batch,
  rollout: structs.Rollout,
) -> structs.Rollout:
  """Returns the rollout with `teacher_hidden` of one pass over all rows."""
  hidden = forward.response_hidden(
    teacher,
    teacher_params,
    batch.prompt,
    batch.prompt_length,
    rollout.tokens,
    batch.learned,
  )
  return dataclasses.replace(rollout, teacher_hidden=hidden)


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
  rollout: structs.Rollout, batch: structs.Batch, is_reference: jax.Array
) -> structs.Rollout:
  """Puts the references of some rows in the place of what was generated.

  Args:
    rollout: [B, T], T at least that of the references.
    batch: [B, ...].
    is_reference: bool [B].

  Returns:
    Rollout [B, T] without `teacher_hidden`: nothing has verified references.
  """
  longer = rollout.tokens.shape[1] - batch.reference.shape[1]
  wide = jnp.pad(jnp.asarray(batch.reference), ((0, 0), (0, longer)))
  references = reference_rollout(dataclasses.replace(batch, reference=wide))
  return jax.tree.map(
    lambda a, b: jnp.where(is_reference.reshape(-1, *[1] * (a.ndim - 1)), a, b),
    references,
    dataclasses.replace(rollout, teacher_hidden=None),
  )
