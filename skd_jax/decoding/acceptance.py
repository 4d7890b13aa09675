"""Acceptance rules and replacements: which of the student's tokens stay.

Each rule is a pure function of what the teacher says about the drafted tokens.
All take the same arguments, so that the config can choose one by name:

  rule(evidence, threshold) -> accept, bool [B, G]

The token that is checked is the token that is emitted, and the teacher's raw
logits decide, unless a rule's docstring says otherwise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax.decoding import sampling
from skd_jax.training import schedules


@struct.dataclass
class Evidence:
  """What is known about G drafted tokens when they are judged."""

  tokens: jax.Array  # int32 [B, G], the student's proposals
  teacher_logits: jax.Array  # float32 [B, G, V], raw
  student_log_prob: jax.Array  # float32 [B, G], as drawn (warped)
  teacher_log_probs: jax.Array  # float32 [B, G, V], as it would draw (warped)
  uniform: jax.Array  # float32 [B, G], for the randomised rules
  # () -> int32 [B, G]: the student's tokens, drawn once more. A function, as
  # one rule alone wants them and they cost the student's law at every draft.
  draw_again: Callable[[], jax.Array] | None = struct.field(
    pytree_node=False, default=None
  )


def _own(values: jax.Array, tokens: jax.Array) -> jax.Array:
  """Picks the value of each token: [..., V], [...] -> [...]."""
  return jnp.take_along_axis(values, tokens[..., None], axis=-1)[..., 0]


def token_rank(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """Counts the logits above the token's: 0 is the best. No sort.

  Args:
    logits: float [..., V].
    tokens: int32 [...].

  Returns:
    int32 [...]; tied tokens share the best of their ranks.
  """
  own = _own(logits, tokens)[..., None]
  return jnp.sum(logits > own, axis=-1, dtype=jnp.int32)


def accept_top_k(evidence: Evidence, threshold: jax.Array) -> jax.Array:
  """Accepts a token among the teacher's `threshold` best (SKD, K = 25).

  arXiv 2410.11325, section 3: the token stays when it is in the teacher's
  top K. K = V accepts everything.
  """
  rank = token_rank(evidence.teacher_logits, evidence.tokens)
  return rank.astype(threshold.dtype) < threshold


def accept_top_p(evidence: Evidence, threshold: jax.Array) -> jax.Array:
  """Accepts a token in the teacher's nucleus of mass `threshold`.

  A token is in the nucleus exactly when the tokens above it have less mass
  than `threshold`, so one sum decides.
  """
  probs = jax.nn.softmax(evidence.teacher_logits)
  own = _own(probs, evidence.tokens)[..., None]
  mass_above = jnp.sum(jnp.where(probs > own, probs, 0.0), axis=-1)
  return mass_above < threshold


def accept_prob_floor(evidence: Evidence, threshold: jax.Array) -> jax.Array:
  """Accepts a token of teacher probability >= `threshold` (arXiv 2609.02401).

  0 accepts everything.
  """
  log_probs = jax.nn.log_softmax(evidence.teacher_logits)
  return jnp.exp(_own(log_probs, evidence.tokens)) >= threshold


def accept_mixture(evidence: Evidence, threshold: jax.Array) -> jax.Array:
  """Accepts with probability min(1, 1 - g + g q / p), g = `threshold`.

  p is the student's and q the teacher's sampling distribution, both warped by
  their temperature and top-p. With the `residual` replacement, a token is
  distributed exactly as (1 - g) p + g q: min(p, m) is kept, and (m - p)+ is
  proportional to (q - p)+ for the mixture m.
  """
  of_teacher = _own(evidence.teacher_log_probs, evidence.tokens)
  ratio = jnp.exp(of_teacher - evidence.student_log_prob)
  return evidence.uniform < 1 - threshold + threshold * ratio


def accept_lossless(evidence: Evidence, threshold: jax.Array) -> jax.Array:
  """Accepts with probability min(1, q / p): tokens follow the teacher's law.

  Speculative sampling (arXiv 2211.17192, 2302.01318). `threshold` is unused.
  """
  return accept_mixture(evidence, jnp.ones_like(threshold))


def accept_always(evidence: Evidence, threshold: jax.Array) -> jax.Array:
  """Accepts everything: on-policy data. `threshold` is unused."""
  del threshold
  return jnp.ones(evidence.tokens.shape, bool)


def accept_never(evidence: Evidence, threshold: jax.Array) -> jax.Array:
  """Accepts nothing: the teacher writes. `threshold` is unused."""
  del threshold
  return jnp.zeros(evidence.tokens.shape, bool)


def accept_random(evidence: Evidence, threshold: jax.Array) -> jax.Array:
  """Replaces blindly at the rate `threshold`: the control of the others."""
  return evidence.uniform >= threshold


def accept_released_top_k(
  evidence: Evidence, threshold: jax.Array
) -> jax.Array:
  """Accepts as the paper's released code does, to show what it really did.

  A token other than the one that is kept is checked: a second draw from the
  student's law. It passes when it is among the `threshold` best of the
  teacher's logits after the teacher's temperature and top-p, so never when it
  is outside the nucleus: at temperature 0.2 and top-p 0.5 that leaves little
  but the teacher's first choice. The first draw stays when the second passes.
  Both are drawn at the teacher's temperature and top-p, which methods.apply
  sees to, as that code hands the teacher's settings to the student.

  What else it does is not reproduced: a loss that starts at the second token of
  the response and runs past its end, responses that are decoded and tokenised
  again, EOS appended to truncated ones.
  """
  if evidence.draw_again is None:
    raise ValueError("accept = 'released_top_k' needs draw_again")
  checked = evidence.draw_again()
  law = evidence.teacher_log_probs
  inside = _own(law, checked) > -jnp.inf
  return inside & (token_rank(law, checked).astype(threshold.dtype) < threshold)


ACCEPT: dict[str, Callable[[Evidence, jax.Array], jax.Array]] = {
  "top_k": accept_top_k,
  "top_p": accept_top_p,
  "prob_floor": accept_prob_floor,
  "mixture": accept_mixture,
  "lossless": accept_lossless,
  "always": accept_always,
  "never": accept_never,
  "random": accept_random,
  "released_top_k": accept_released_top_k,
}

# The rules that look at rollout.threshold.
WITH_THRESHOLD = (
  "top_k",
  "top_p",
  "prob_floor",
  "mixture",
  "random",
  "released_top_k",
)

REPLACE = ("sample", "argmax", "residual")

# The rules whose law is exact only with the residual as the replacement.
NEEDS_RESIDUAL = ("mixture", "lossless")


def check_rule(
  accept: str, replace: str, threshold: schedules.Schedule, vocab_size: int
) -> None:
  """Checks a rule, its replacement and its threshold before anything runs.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  if accept not in ACCEPT:
    raise ValueError(
      f"rollout.accept = {accept!r}: must be one of {sorted(ACCEPT)}"
    )
  if replace not in REPLACE:
    raise ValueError(
      f"rollout.replace = {replace!r}: must be one of {list(REPLACE)}"
    )
  if (accept in NEEDS_RESIDUAL) != (replace == "residual"):
    raise ValueError(
      f"rollout.replace = {replace!r} with rollout.accept = {accept!r}: "
      f"'residual' goes with {' and '.join(NEEDS_RESIDUAL)}, and with them only"
    )
  low, high = {
    "top_k": (1, vocab_size),
    "released_top_k": (1, vocab_size),
    "top_p": (0, 1),
    "prob_floor": (0, 1),
    "mixture": (0, 1),
    "random": (0, 1),
  }.get(accept, (float("-inf"), float("inf")))
  for field, value in zip(
    ("threshold", "threshold_end"), threshold.extremes, strict=False
  ):
    if not low <= value <= high:
      raise ValueError(
        f"rollout.{field} = {value} with rollout.accept = {accept!r}: "
        f"must be in [{low}, {high}]"
      )
    if accept.endswith("top_k") and value != int(value):
      raise ValueError(
        f"rollout.{field} = {value} with rollout.accept = {accept!r}: "
        "must be a whole number"
      )
  if threshold.shape != "constant" and accept not in WITH_THRESHOLD:
    raise ValueError(
      f"rollout.threshold_schedule = {threshold.shape!r} with rollout.accept = "
      f"{accept!r}, which has no threshold: must be 'constant'"
    )


def draw_replacement(
  replace: str,
  teacher_logits: jax.Array,
  student_log_probs: jax.Array | None,
  teacher_sampling: sampling.Sampling,
  uniform: jax.Array,
) -> jax.Array:
  """Writes the teacher's token for the first rejected position of each row.

  Args:
    replace: `sample` (the teacher's sampling distribution), `argmax`, or
      `residual` ((q - p)+ of the two sampling distributions).
    teacher_logits: float32 [B, V], raw, at the rejected position.
    student_log_probs: float32 [B, V], warped; needed for `residual` only.
    teacher_sampling: the teacher's temperature and top-p.
    uniform: float32 [B].

  Returns:
    int32 [B].
  """
  if replace == "argmax":
    return jnp.argmax(teacher_logits, axis=-1).astype(jnp.int32)
  log_probs = sampling.warp(teacher_logits, teacher_sampling)
  if replace == "residual":
    if student_log_probs is None:
      raise ValueError("replace = 'residual' needs student_log_probs")
    residual = jnp.exp(log_probs) - jnp.exp(student_log_probs)
    # Where p >= q everywhere up to rounding, nothing can be rejected but by
    # rounding; the teacher's own law is then the right limit.
    residual = jnp.maximum(residual, 0.0)
    empty = jnp.sum(residual, axis=-1, keepdims=True) <= 0
    log_probs = jnp.where(empty, log_probs, jnp.log(residual))
  return sampling.draw_token(log_probs, uniform)
