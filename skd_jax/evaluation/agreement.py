"""How student and teacher agree on the tokens of held-out responses.

  params of both, batches -> agreement -> {"kl", "agreement", ...}

A mean over the tokens of the references, at temperature 1.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.special import entr
from jax.scipy.stats import rankdata

from skd_jax import structs
from skd_jax.decoding import acceptance
from skd_jax.losses import chunked, divergence
from skd_jax.models import forward
from skd_jax.parallel import processes, sharding

TOP_K = 25  # How many of the teacher's top tokens are compared.


@struct.dataclass
class AgreementSums:
  """Sums over tokens of what two models say of them; see `agreement`."""

  tokens: jax.Array  # float32 []; so are the others
  kl: jax.Array
  agreement: jax.Array
  rank_correlation: jax.Array
  teacher_top_mass: jax.Array
  student_top_mass: jax.Array
  teacher_entropy: jax.Array
  student_entropy: jax.Array


# Of what `agreement` returns.
NAMES = tuple(
  field.name
  for field in dataclasses.fields(AgreementSums)
  if field.name != "tokens"
)


@functools.partial(
  jax.jit, static_argnames=("student", "teacher", "chunk_size")
)
def agreement_sums(
  student_params: structs.Params,
  teacher_params: structs.Params,
  batch: structs.Batch,
  *,
  student: structs.LanguageModel,
  teacher: structs.LanguageModel,
  chunk_size: int,
) -> AgreementSums:
  """Returns the sums over the reference tokens of a batch; jitted.

  One compilation for each pair of models and width of the batch.
  """
  return sum_over_tokens(
    student_params,
    teacher_params,
    batch,
    compare_logits,
    student=student,
    teacher=teacher,
    chunk_size=chunk_size,
  )


def sum_over_tokens(
  student_params: structs.Params,
  teacher_params: structs.Params,
  batch: structs.Batch,
  compare: Callable[[jax.Array, jax.Array], Any],
  *,
  student: structs.LanguageModel,
  teacher: structs.LanguageModel,
  chunk_size: int,
) -> Any:
  """Compares both models at each reference token; to be jitted.

  Args:
    student_params: its weights.
    teacher_params: its weights.
    batch: the prompts, and the references that both models read.
    compare: `(teacher logits [C, V], student logits [C, V]) -> float32 [C]`, or
      a tree of these.
    student: the model.
    teacher: the model.
    chunk_size: C, tokens whose logits are held at once.

  Returns:
    float32 [], or a tree of these: the sums over the tokens of the batch.
  """

  def states(model, params):
    hidden = forward.response_hidden(
      model, params, batch.prompt, batch.prompt_length, batch.reference
    )
    return hidden.reshape(-1, hidden.shape[-1])

  of_student = states(student, student_params)
  of_teacher = states(teacher, teacher_params)
  student_head = student.head_params(student_params)
  teacher_head = teacher.head_params(teacher_params)

  def walk(heads, rows):
    student_head, teacher_head = heads
    of_student, of_teacher, mask = rows

    chunks = chunked.Chunks(mask, chunk_size)

    def of_chunk(i):
      take, valid = chunks[i]
      values = compare(
        teacher.head(teacher_head, take(of_teacher)),
        student.head(student_head, take(of_student)),
      )
      return jax.tree.map(lambda x: jnp.sum(jnp.where(valid, x, 0.0)), values)

    def add_chunk(i, total):
      return jax.tree.map(jnp.add, total, of_chunk(i))

    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(of_chunk, 0))
    sums = jax.lax.fori_loop(0, chunks.number, add_chunk, zeros)
    return sharding.sum_over_groups(sums)

  size = batch.reference.shape[1]
  mask = jnp.arange(size)[None, :] < batch.reference_length[:, None]
  return sharding.by_rows(walk, out=sharding.OF_ALL)(
    (student_head, teacher_head), (of_student, of_teacher, mask.reshape(-1))
  )


def compare_logits(
  teacher: jax.Array, student: jax.Array, k: int = TOP_K
) -> AgreementSums:
  """Compares what two models say of each token.

  Args:
    teacher: float32 [N, V], logits.
    student: float32 [N, V], logits.
    k: how many of the teacher's top tokens are looked at, at most V.

  Returns:
    AgreementSums of shape [N]: 1; KL(teacher || student); whether the most
    probable token is the same; Spearman's rank correlation of both models'
    logits of the teacher's top k tokens, 0 where one of them ties them all;
    the probability that the teacher and the student give to these k together;
    the entropy of each, in nats.
  """
  k = min(k, teacher.shape[-1])
  of_teacher, top = jax.lax.top_k(teacher, k)
  of_student = jnp.take_along_axis(student, top, axis=-1)
  # Not top[..., 0]: sliced once more, top_k is compiled for CPU as a sort of
  # all V, which takes 50 times as long.
  same_best = jnp.argmax(student, axis=-1) == jnp.argmax(teacher, axis=-1)

  def mass(logits, among):
    return jnp.exp(
      jax.nn.logsumexp(among, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    )

  return AgreementSums(
    tokens=jnp.ones(teacher.shape[:-1], jnp.float32),
    kl=divergence.forward_kl(teacher, student),
    agreement=same_best.astype(jnp.float32),
    rank_correlation=_spearman(of_teacher, of_student),
    teacher_top_mass=mass(teacher, of_teacher),
    student_top_mass=mass(student, of_student),
    teacher_entropy=jnp.sum(entr(jax.nn.softmax(teacher)), axis=-1),
    student_entropy=jnp.sum(entr(jax.nn.softmax(student)), axis=-1),
  )


def _spearman(a: jax.Array, b: jax.Array) -> jax.Array:
  """Spearman's rank correlation: [N, k], [N, k] -> [N], ties averaged."""
  mean_rank = (a.shape[-1] + 1) / 2
  x, y = (rankdata(v, axis=-1) - mean_rank for v in (a, b))
  scale = jnp.sqrt(jnp.sum(x * x, axis=-1) * jnp.sum(y * y, axis=-1))
  return jnp.sum(x * y, axis=-1) / jnp.maximum(scale, 1e-6)


def agreement(
  sums_fn: Callable[[structs.Batch], AgreementSums],
  batches: Iterable[structs.Batch],
) -> dict[str, float]:
  """Means over held-out reference tokens, of what `compare_logits` gives.

  Args:
    sums_fn: `agreement_sums` with both models and their weights bound.
    batches: at least one.

  Returns:
    {"kl": nats per token, "agreement": share of tokens in [0, 1],
    "rank_correlation" in [-1, 1], "teacher_top_mass" and "student_top_mass" in
    [0, 1], "teacher_entropy" and "student_entropy" in nats per token}.

  Raises:
    ValueError: there are no batches.
  """
  total = None
  for batch in batches:
    sums = sums_fn(batch)
    total = sums if total is None else jax.tree.map(jnp.add, total, sums)
  if total is None:
    raise ValueError("batches is empty: must be at least one")
  sums = {k: float(v) for k, v in vars(processes.to_host(total)).items()}
  tokens = max(sums.pop("tokens"), 1.0)
  return {name: value / tokens for name, value in sums.items()}


@functools.partial(jax.jit, static_argnames=("student", "teacher"))
def annotate(
  student_params: structs.Params,
  teacher_params: structs.Params,
  batch: structs.Batch,
  rollout: structs.Rollout,
  *,
  student: structs.LanguageModel,
  teacher: structs.LanguageModel,
) -> dict[str, jax.Array]:
  """Returns what both models think of each token of a few rollouts; jitted.

  For report.html. It holds all logits, so B must be small.

  Returns:
    All [B, T]: `teacher_token` (the teacher's first choice), `rank` of the
    student's proposal in the teacher's logits, `student_prob` and
    `teacher_prob` of the proposal, and `emitted_teacher_prob` of the token that
    was emitted, at temperature 1.
  """

  def logits(model, params):
    hidden = forward.response_hidden(
      model, params, batch.prompt, batch.prompt_length, rollout.tokens
    )
    return model.head(model.head_params(params), hidden)

  def prob(logits, tokens):
    log_probs = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)
    return jnp.exp(own[..., 0])

  of_student = logits(student, student_params)
  of_teacher = logits(teacher, teacher_params)
  draft = rollout.draft_tokens
  return {
    "teacher_token": jnp.argmax(of_teacher, axis=-1),
    "rank": acceptance.token_rank(of_teacher, draft),
    "student_prob": prob(of_student, draft),
    "teacher_prob": prob(of_teacher, draft),
    "emitted_teacher_prob": prob(of_teacher, rollout.tokens),
  }
