"""What a token's loss is: a divergence, its weight, or cross-entropy.

A token loss maps the logits of a chunk of tokens to TokenMetrics; chunked.py
walks over the chunks and adds up. Any function of these arguments serves:

  token_loss(student logits [C, V], teacher logits [C, V], TokenInputs [C])
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax import structs
from skd_jax.decoding import acceptance
from skd_jax.losses import divergence as divergence_lib

WEIGHTS = (
  "uniform",
  "accepted_only",
  "teacher_confidence",
  "verified",
)

# (teacher logits [C, V], student logits [C, V], tokens [C]) -> float32 [C]
CorrectionLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@struct.dataclass
class TokenInputs:
  """What the loss of a token looks at, beside the student's hidden state."""

  tokens: jax.Array  # int32 [N]
  source: jax.Array  # int8 [N]: STUDENT, TEACHER or REFERENCE
  teacher_hidden: jax.Array | None  # [N, D_teacher]
  teacher_top: structs.TeacherTop | None = None  # [N, ...], of a cached teacher


@struct.dataclass
class TokenMetrics:
  """The loss of each of C tokens, and what is logged beside it."""

  loss: jax.Array  # float32 [C], weight times value
  weight: jax.Array  # float32 [C]
  value: jax.Array  # float32 [C], the loss before its weight; never negative
  kl: jax.Array  # float32 [C], KL(teacher || student), in nats
  agreement: jax.Array  # float32 [C], 1: the same most probable token


class TokenLoss(Protocol):
  """The loss of a chunk of tokens."""

  def __call__(
    self, student: jax.Array, teacher: jax.Array | None, inputs: TokenInputs
  ) -> TokenMetrics:
    """Maps float32 logits [C, V] of both models to TokenMetrics [C]."""
    ...


def cross_entropy(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """-log q(token): float [..., V], int32 [...] -> float32 [...]."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]


def correction_cross_entropy(
  teacher: jax.Array, student: jax.Array, tokens: jax.Array
) -> jax.Array:
  """-log q(the token of the teacher): a CorrectionLoss."""
  del teacher
  return cross_entropy(student, tokens)


def correction_cross_entropy_top_1(
  teacher: jax.Array, student: jax.Array, tokens: jax.Array
) -> jax.Array:
  """-log q(the teacher's most probable token): a CorrectionLoss."""
  del tokens
  return cross_entropy(student, jnp.argmax(teacher, axis=-1))


def supervised_token_loss(
  student: jax.Array, teacher: jax.Array | None, inputs: TokenInputs
) -> TokenMetrics:
  """Cross-entropy on the tokens as they are: SFT, and SeqKD; no teacher."""
  del teacher
  value = cross_entropy(student, inputs.tokens)
  return TokenMetrics(
    loss=value,
    weight=jnp.ones_like(value),
    value=value,
    kl=jnp.zeros_like(value),
    agreement=_as_float(jnp.argmax(student, -1) == inputs.tokens),
  )


def distillation_token_loss(
  divergence: divergence_lib.Divergence = divergence_lib.forward_kl,
  weights: str = "uniform",
  *,
  corrections: CorrectionLoss | None = None,
  verified_k: int = 25,
  unverified_weight: float = 0.1,
) -> TokenLoss:
  """Builds the loss of SKD and of every other distillation method.

  Args:
    divergence: such as `forward_kl`; maps logits `(teacher, student)` [C, V] to
      [C].
    weights: `uniform`; `accepted_only` (the student's accepted tokens alone);
      `teacher_confidence` (weight max_v p_v); `verified` (see the last two,
      after arXiv 2510.24021: the loss counts less where the teacher does not
      verify the token, whoever generated it. The paper verifies what the
      student proposes; on-policy that is the same token).
    corrections: the loss of the tokens of the teacher, if it is another
      one; `divergence` is then of the student's own, and of references.
    verified_k: a token in the teacher's top `verified_k` is verified. This
      number and the next are ours, not the paper's.
    unverified_weight: of the others.

  Returns:
    A TokenLoss.

  Raises:
    ValueError: an unknown `weights`.
  """
  if weights not in WEIGHTS:
    raise ValueError(f"weights = {weights!r}: must be one of {list(WEIGHTS)}")

  def token_loss(student, teacher, inputs):
    value = divergence(teacher, student)
    weight = jnp.ones_like(value)
    if corrections is not None:
      value = jnp.where(
        inputs.source == structs.TEACHER,
        corrections(teacher, student, inputs.tokens),
        value,
      )
    if weights == "accepted_only":
      weight = _as_float(inputs.source == structs.STUDENT)
    elif weights == "teacher_confidence":
      weight = jnp.max(jax.nn.softmax(teacher), axis=-1)
    elif weights == "verified":
      rank = acceptance.token_rank(teacher, inputs.tokens)
      weight = _as_float(jnp.where(rank < verified_k, 1.0, unverified_weight))
    return TokenMetrics(
      loss=weight * value,
      weight=weight,
      value=value,
      kl=divergence_lib.forward_kl(teacher, student),
      agreement=_as_float(
        acceptance.token_rank(student, jnp.argmax(teacher, axis=-1)) == 0
      ),
    )

  return token_loss


def _as_float(x: jax.Array) -> jax.Array:
  return x.astype(jnp.float32)
