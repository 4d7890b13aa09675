"""How much of what a student drafts its teacher would accept.

  prompts, the teacher's answers  -> to_read     -> batches
  both models, batches            -> acceptance  -> the share of accepted tokens

Speculative sampling draws a token from the student's distribution p and keeps
it with probability min(1, q / p), where q is the teacher's. So a proposal is
accepted with probability beta, and over all prefixes with probability alpha:

  beta = sum_v min(p(v), q(v))    alpha = E[beta]

That is theorem 3.5 and corollary 3.6 of Leviathan et al., arXiv 2211.17192,
whose p is the teacher's and whose q is the student's. The prefixes are those of
the teacher's own answers, as what speculative decoding emits is the teacher's.
Both distributions are as served: with temperature and top-p. At temperature 0
each is one token, and beta is whether both models choose the same.

Nothing is drafted for it, so that it costs one pass of both models: what is
measured in use (draft_stats.py) differs by chance, and by the prefixes after
which nothing is judged, those where a whole draft was accepted.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax import structs
from skd_jax.decoding import sampling as sampling_lib
from skd_jax.evaluation import agreement
from skd_jax.parallel import processes


@struct.dataclass
class AcceptanceSums:
  """Sums over tokens."""

  tokens: jax.Array  # float32 []
  accepted: jax.Array  # float32 [], of the probabilities of acceptance


@functools.partial(
  jax.jit, static_argnames=("student", "teacher", "sampling", "chunk_size")
)
def acceptance_sums(
  student_params: structs.Params,
  teacher_params: structs.Params,
  batch: structs.Batch,
  *,
  student: structs.LanguageModel,
  teacher: structs.LanguageModel,
  sampling: sampling_lib.Sampling,
  chunk_size: int,
) -> AcceptanceSums:
  """Returns the sums over the reference tokens of a batch; jitted.

  Args:
    student_params: its weights.
    teacher_params: its weights.
    batch: the references are the teacher's own answers, from `to_read`.
    student: the model.
    teacher: the model.
    sampling: of both.
    chunk_size: tokens whose logits are held at once.
  """

  def compare(teacher_logits, student_logits):
    beta = acceptance_probability(teacher_logits, student_logits, sampling)
    return AcceptanceSums(jnp.ones_like(beta), beta)

  return agreement.sum_over_tokens(
    student_params,
    teacher_params,
    batch,
    compare,
    student=student,
    teacher=teacher,
    chunk_size=chunk_size,
  )


def acceptance_probability(
  teacher_logits: jax.Array,
  student_logits: jax.Array,
  sampling: sampling_lib.Sampling,
) -> jax.Array:
  """Returns the probability that a proposal is accepted, beta.

  Args:
    teacher_logits: float32 [..., V], raw.
    student_logits: float32 [..., V], raw.
    sampling: of both.

  Returns:
    float32 [...], in [0, 1].
  """
  least = jnp.minimum(
    sampling_lib.warp(teacher_logits, sampling),
    sampling_lib.warp(student_logits, sampling),
  )
  return jnp.sum(jnp.exp(least), axis=-1)


def acceptance(
  sums_fn: Callable[[structs.Batch], AcceptanceSums],
  batches: Iterable[structs.Batch],
) -> float:
  """Returns alpha, the expected share of accepted proposals, in [0, 1].

  Args:
    sums_fn: `acceptance_sums` with both models and their weights bound.
    batches: from `to_read`, at least one.

  Raises:
    ValueError: there are no batches.
  """
  sums = [processes.to_host(sums_fn(batch)) for batch in batches]
  if not sums:
    raise ValueError("batches is empty: must be at least one")
  tokens = sum(float(of_batch.tokens) for of_batch in sums)
  return sum(float(of_batch.accepted) for of_batch in sums) / max(tokens, 1.0)


def to_read(batch: structs.Batch, answers: structs.Rollout) -> structs.Batch:
  """Returns a batch with answers as its references; rows that pad have none."""
  return dataclasses.replace(
    batch,
    reference=answers.tokens,
    reference_length=jnp.where(batch.index < 0, 0, answers.length),
  )
