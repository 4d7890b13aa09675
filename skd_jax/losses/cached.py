"""The loss from a cached teacher: its top K next tokens, and one bucket.

The bucket holds the V - K tokens that are not cached. Both models are compared
over K + 1 outcomes:

  teacher   .6   .2   .1  | .1       cached
  student   .5   .1   .2  | .2       from its logits, at the teacher's tokens
            `- top K = 3 -' `- tail of the other tokens

To merge outcomes lowers a divergence, or leaves it as it is. What it lowers it
by, with p the teacher, q the student, P and Q their masses in the bucket, and |
for "given that the token is in the bucket":

  forward_kl        P KL(p| || q|), exactly
  tvd               at most min(P, Q)
  skew_reverse_kl   at most (1 - alpha) / alpha P
  skew_forward_kl   at most P log(1 + (1 - alpha) Q / (alpha P))
  jsd               at most M h(beta P / M), M = beta P + (1 - beta) Q, where h
                    is the entropy of a coin
  reverse_kl        Q KL(q| || p|), exactly: not offered

All but the last vanish with P, whatever the student is, and the writer can make
P as small as it likes by K. With K = V there is no bucket, and nothing is lost.
"""

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.decoding import acceptance
from skd_jax.losses import divergence as divergence_lib
from skd_jax.losses import token_losses

# Those whose error vanishes with the teacher's mass in the bucket.
DIVERGENCES = (
  "forward_kl",
  "jsd",
  "skew_forward_kl",
  "skew_reverse_kl",
  "tvd",
)


def top_of_logits(logits: jax.Array, k: int) -> structs.TeacherTop:
  """Returns what is cached of raw logits [..., V], 1 <= k <= V."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  top, ids = jax.lax.top_k(log_probs, k)
  return structs.TeacherTop(ids, top, _log_tail(log_probs, ids))


def merge_tail(logits: jax.Array, ids: jax.Array) -> jax.Array:
  """Returns a model's distribution over chosen tokens and the bucket.

  Args:
    logits: float [..., V], raw.
    ids: int32 [..., K], distinct.

  Returns:
    float32 [..., K + 1] log-probabilities, the bucket last; [..., V] where
    K = V, as there is none.
  """
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  chosen = jnp.take_along_axis(log_probs, ids, axis=-1)
  if ids.shape[-1] == logits.shape[-1]:
    return chosen
  tail = _log_tail(log_probs, ids)[..., None]
  return jnp.concatenate([chosen, tail], axis=-1)


def cached_distribution(top: structs.TeacherTop, vocab_size: int) -> jax.Array:
  """Returns the teacher's distribution, as merge_tail the student's."""
  if top.ids.shape[-1] == vocab_size:
    return top.log_probs
  return jnp.concatenate([top.log_probs, top.log_tail[..., None]], axis=-1)


def cached_token_loss(
  divergence: divergence_lib.Divergence = divergence_lib.forward_kl,
) -> token_losses.TokenLoss:
  """Builds the loss of supervised KD and of `teacher_kd` from a cached teacher.

  Every token has weight 1. The metric `kl` is that of the merged
  distributions: a lower bound of the KL over V.

  Args:
    divergence: of DIVERGENCES; maps log-probabilities `(teacher, student)`
      [C, K + 1] to [C].

  Returns:
    A TokenLoss, which needs no logits of the teacher.
  """

  def token_loss(student, teacher, inputs):
    del teacher
    top = inputs.teacher_top
    if top is None:
      raise ValueError("teacher_top = None: must be given to a cached loss")
    p = cached_distribution(top, student.shape[-1])
    q = merge_tail(student, top.ids)
    value = divergence(p, q)
    agrees = acceptance.token_rank(student, top.ids[..., 0]) == 0
    return token_losses.TokenMetrics(
      loss=value,
      weight=jnp.ones_like(value),
      value=value,
      kl=divergence_lib.forward_kl(p, q),
      agreement=agrees.astype(jnp.float32),
    )

  return token_loss


def _log_tail(log_probs: jax.Array, ids: jax.Array) -> jax.Array:
  rest = jnp.put_along_axis(
    log_probs, ids, jnp.float32(-jnp.inf), axis=-1, inplace=False
  )
  return jax.nn.logsumexp(rest, axis=-1)
