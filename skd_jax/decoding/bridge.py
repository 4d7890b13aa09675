"""The geometric bridge between two distributions, within a budget.

  b = student^(1 - beta) teacher^beta / Z,   the largest beta <= 1 with
  KL(b || student) <= eps

beta = 0 is the student and beta = 1 the teacher (arXiv 2605.31159; drawn by
maximal coupling with the student's token, as in arXiv 2609.36601, a token is
corrected with probability TV(b, student)). A position where the two agree costs
little and is taken over whole; one where they disagree is moved by as much as
the budget allows.
"""

import jax
import jax.numpy as jnp

_NUM_HALVINGS = 16  # beta is found to 2^-16.


def bridge_log_probs(
  student_log_probs: jax.Array, teacher_log_probs: jax.Array, eps: jax.Array
) -> jax.Array:
  """Returns the bridge's log-probabilities.

  Args:
    student_log_probs: float32 [..., V], normalised; -inf where the student
      draws nothing, and nor does the bridge then.
    teacher_log_probs: float32 [..., V], finite wherever the student's are.
    eps: float32 [...] or [], the budget in nats, 0 or above. 0 is the student.

  Returns:
    float32 [..., V], normalised.
  """
  inside = student_log_probs > -jnp.inf
  finite = jnp.where(inside, student_log_probs, 0.0)
  log_ratio = jnp.where(inside, teacher_log_probs - finite, 0.0)
  eps = jnp.broadcast_to(eps, student_log_probs.shape[:-1])

  def halve(_, bounds):
    low, high = bounds  # KL(low) <= eps < KL(high)
    beta = (low + high) / 2
    fits = _divergence(student_log_probs, log_ratio, beta) <= eps
    return jnp.where(fits, beta, low), jnp.where(fits, high, beta)

  ones = jnp.ones_like(eps)
  low, _ = jax.lax.fori_loop(
    0, _NUM_HALVINGS, halve, (jnp.zeros_like(eps), ones)
  )
  whole = _divergence(student_log_probs, log_ratio, ones) <= eps
  beta = jnp.where(whole, ones, low)[..., None]
  moved = jax.nn.log_softmax(student_log_probs + beta * log_ratio)
  # Rounding hides the divergence of a small beta, which is of its square.
  return jnp.where(eps[..., None] > 0, moved, student_log_probs)


def _divergence(
  student_log_probs: jax.Array, log_ratio: jax.Array, beta: jax.Array
) -> jax.Array:
  """Returns KL(b || student) [...]; it grows with beta.

  With d = log(teacher / student) it is E_b[log b - log student], which is
  beta E_b[d] - log Z.
  """
  unnormalised = jnp.exp(student_log_probs + beta[..., None] * log_ratio)
  total = jnp.sum(unnormalised, axis=-1)
  mean = jnp.sum(unnormalised * log_ratio, axis=-1) / total
  return beta * mean - jnp.log(total)
