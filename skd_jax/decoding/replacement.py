"""What the teacher emits in the place of a token that it rejects."""

import jax
import jax.numpy as jnp

from skd_jax.decoding import acceptance, sampling


def generation_sampling(
  rule: acceptance.Rule, teacher_sampling: sampling.Sampling
) -> sampling.Sampling:
  """Returns how the teacher generates where it corrects no token.

  It also corrects so, unless `rule.replace` is `residual`. With `argmax` it is
  greedy.
  """
  return sampling.GREEDY if rule.replace == "argmax" else teacher_sampling


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
