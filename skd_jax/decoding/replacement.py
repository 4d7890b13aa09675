"""What the teacher emits in the place of a token that it rejects."""

import jax
import jax.numpy as jnp

from skd_jax.decoding import acceptance, sampling


def generation_log_probs(
  rule: acceptance.Rule,
  teacher_logits: jax.Array,
  teacher_sampling: sampling.Sampling,
) -> jax.Array:
  """Returns what the teacher generates from where it corrects no token.

  That is also what it corrects from, unless `rule.replace` is `residual`.

  Args:
    rule: `argmax` is greedy; the others sample.
    teacher_logits: float32 [..., V], raw.
    teacher_sampling: the teacher's temperature and top-p.

  Returns:
    float32 [..., V], normalised.
  """
  greedy = rule.replace == "argmax"
  how = sampling.GREEDY if greedy else teacher_sampling
  return sampling.warp(teacher_logits, how)


def residual_log_probs(
  target_log_probs: jax.Array, student_log_probs: jax.Array
) -> jax.Array:
  """Returns (m - p)+ of the target m and the student's distribution p.

  Args:
    target_log_probs: float32 [..., V].
    student_log_probs: float32 [..., V], as its token was drawn.

  Returns:
    float32 [..., V], unnormalised.
  """
  residual = jnp.exp(target_log_probs) - jnp.exp(student_log_probs)
  # Where p >= m everywhere up to rounding, nothing can be rejected but by
  # rounding; the target itself is then the right limit.
  residual = jnp.maximum(residual, 0.0)
  empty = jnp.sum(residual, axis=-1, keepdims=True) <= 0
  return jnp.where(empty, target_log_probs, jnp.log(residual))
