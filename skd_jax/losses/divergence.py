"""Divergences between the teacher's and the student's next-token distributions.

Each maps raw logits `(teacher [..., V], student [..., V]) -> float32 [...]`, in
nats, at temperature 1. p is the teacher, q the student. A distribution that
matches gives 0; the direction is spelt out in each formula.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

Divergence = Callable[[jax.Array, jax.Array], jax.Array]


def _log_probs(logits: jax.Array) -> jax.Array:
  return jax.nn.log_softmax(logits.astype(jnp.float32))


def _kl(log_a: jax.Array, log_b: jax.Array) -> jax.Array:
  """KL(a || b) = sum_v a_v (log a_v - log b_v)."""
  return jnp.sum(jnp.exp(log_a) * (log_a - log_b), axis=-1)


def _log_mixture(log_a: jax.Array, log_b: jax.Array, share: float) -> jax.Array:
  """log(share a + (1 - share) b), for a share strictly inside (0, 1)."""
  return jnp.logaddexp(log_a + jnp.log(share), log_b + jnp.log1p(-share))


def forward_kl(teacher: jax.Array, student: jax.Array) -> jax.Array:
  """KL(p || q) = sum_v p_v log(p_v / q_v), the loss of SKD."""
  return _kl(_log_probs(teacher), _log_probs(student))


def reverse_kl(teacher: jax.Array, student: jax.Array) -> jax.Array:
  """KL(q || p) = sum_v q_v log(q_v / p_v) (MiniLLM, arXiv 2306.08543)."""
  return _kl(_log_probs(student), _log_probs(teacher))


def jsd(teacher: jax.Array, student: jax.Array, beta: float = 0.5) -> jax.Array:
  """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.

  The generalised Jensen-Shannon divergence of GKD (arXiv 2306.13649, eq. 1).

  Raises:
    ValueError: beta is not inside (0, 1).
  """
  _check_share("beta", beta)
  log_p, log_q = _log_probs(teacher), _log_probs(student)
  log_m = _log_mixture(log_p, log_q, beta)
  return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def skew_forward_kl(
  teacher: jax.Array, student: jax.Array, alpha: float = 0.1
) -> jax.Array:
  """KL(p || alpha p + (1 - alpha) q) (DistiLLM, arXiv 2402.03898).

  Raises:
    ValueError: alpha is not inside (0, 1).
  """
  _check_share("alpha", alpha)
  log_p, log_q = _log_probs(teacher), _log_probs(student)
  return _kl(log_p, _log_mixture(log_p, log_q, alpha))


def skew_reverse_kl(
  teacher: jax.Array, student: jax.Array, alpha: float = 0.1
) -> jax.Array:
  """KL(q || alpha q + (1 - alpha) p) (DistiLLM, arXiv 2402.03898).

  Raises:
    ValueError: alpha is not inside (0, 1).
  """
  _check_share("alpha", alpha)
  log_p, log_q = _log_probs(teacher), _log_probs(student)
  return _kl(log_q, _log_mixture(log_q, log_p, alpha))


def tvd(teacher: jax.Array, student: jax.Array) -> jax.Array:
  """Total variation distance, 1/2 sum_v |p_v - q_v|."""
  difference = jnp.exp(_log_probs(teacher)) - jnp.exp(_log_probs(student))
  return 0.5 * jnp.sum(jnp.abs(difference), axis=-1)


def top_k_forward_kl(
  teacher: jax.Array, student: jax.Array, k: int = 50
) -> jax.Array:
  """KL(p || q) over the teacher's top k tokens and one bucket for the rest.

  The bucket makes both sides distributions, so the value is never negative
  (without it, it can be: a known fault of top-k distillation losses).

  Raises:
    ValueError: k is not in [1, V - 1].
  """
  _check_k(k, teacher.shape[-1])
  log_p, log_q = _log_probs(teacher), _log_probs(student)
  top_p, top = jax.lax.top_k(log_p, k)
  top_q = jnp.take_along_axis(log_q, top, axis=-1)

  def tail(log_probs):
    rest = jnp.put_along_axis(
      log_probs, top, jnp.float32(-jnp.inf), axis=-1, inplace=False
    )
    return jax.nn.logsumexp(rest, axis=-1, keepdims=True)

  return _kl(
    jnp.concatenate([top_p, tail(log_p)], axis=-1),
    jnp.concatenate([top_q, tail(log_q)], axis=-1),
  )


def _check_share(name: str, value: float) -> None:
  if not 0 < value < 1:
    raise ValueError(f"{name} = {value}: must be inside (0, 1)")


def _check_k(k: int, vocab_size: int) -> None:
  if not 1 <= k < vocab_size:
    raise ValueError(f"k = {k}: must be in [1, {vocab_size - 1}]")


def get_divergence(
  name: str,
  *,
  beta: float,
  alpha: float,
  k: int,
  vocab_size: int,
  field: str = "divergence",
) -> Divergence:
  """Looks a divergence up by its name and binds its parameter.

  Args:
    name: of the divergence.
    beta: of jsd.
    alpha: of the skewed ones.
    k: of top_k_forward_kl.
    vocab_size: V, above k.
    field: what an error calls the name.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  plain = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "tvd": tvd}
  with_parameter = {
    "jsd": (jsd, "beta", beta),
    "skew_forward_kl": (skew_forward_kl, "alpha", alpha),
    "skew_reverse_kl": (skew_reverse_kl, "alpha", alpha),
    "top_k_forward_kl": (top_k_forward_kl, "k", k),
  }
  if name in plain:
    return plain[name]
  if name not in with_parameter:
    raise ValueError(
      f"{field} = {name!r}: must be one of {sorted([*plain, *with_parameter])}"
    )
  function, parameter, value = with_parameter[name]
  if parameter == "k":
    _check_k(k, vocab_size)
  else:
    _check_share(parameter, value)
  return functools.partial(function, **{parameter: value})
