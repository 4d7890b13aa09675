"""Acceptance rules and replacements: which of the student's tokens stay.

Each rule is a pure function of what the teacher says about the drafted tokens:

  accept(inputs, threshold) -> bool [B, G]

`RULES` names the rules, one row of a table each; any other function of the same
arguments is a rule as well. The token that is checked is the token that is
emitted, and the teacher's raw logits decide, unless a rule's docstring says
otherwise.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax.decoding import sampling


@struct.dataclass
class VerificationInputs:
  """What is known about G drafted tokens when they are judged."""

  tokens: jax.Array  # int32 [B, G], the student's proposals
  teacher_logits: jax.Array  # float32 [B, G, V], raw
  student_log_prob: jax.Array  # float32 [B, G], as drawn (warped)
  teacher_log_probs: jax.Array  # float32 [B, G, V], as it would draw (warped)
  uniform: jax.Array  # float32 [B, G], for the randomised rules
  # () -> int32 [B, G]: the student's tokens, drawn once more. A function, as
  # one rule alone needs them, and they cost the student's distribution at every
  # drafted position.
  draw_again: Callable[[], jax.Array] | None = struct.field(
    pytree_node=False, default=None
  )


class AcceptFn(Protocol):
  """Decides which drafted tokens stay."""

  def __call__(
    self, inputs: VerificationInputs, threshold: jax.Array
  ) -> jax.Array:
    """Returns bool [B, G]; threshold is float32 []."""
    ...


def _own(values: jax.Array, tokens: jax.Array) -> jax.Array:
  """Picks the value of each token: [..., V], [...] -> [...]."""
  return jnp.take_along_axis(values, tokens[..., None], axis=-1)[..., 0]


def token_rank(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """Counts the logits above the token's: 0 is the highest. No sort.

  Args:
    logits: float [..., V].
    tokens: int32 [...].

  Returns:
    int32 [...]; tied tokens share the lowest of their ranks.
  """
  own = _own(logits, tokens)[..., None]
  return jnp.sum(logits > own, axis=-1, dtype=jnp.int32)


def accept_top_k(inputs: VerificationInputs, threshold: jax.Array) -> jax.Array:
  """Accepts a token in the teacher's top `threshold` (SKD, K = 25).

  arXiv 2410.11325, section 3: the token stays when it is in the teacher's
  top K. K = V accepts everything.
  """
  rank = token_rank(inputs.teacher_logits, inputs.tokens)
  return rank.astype(threshold.dtype) < threshold


def accept_top_p(inputs: VerificationInputs, threshold: jax.Array) -> jax.Array:
  """Accepts a token in the teacher's nucleus of mass `threshold`.

  A token is in the nucleus exactly when the tokens above it have less mass
  than `threshold`, so one sum decides.
  """
  probs = jax.nn.softmax(inputs.teacher_logits)
  own = _own(probs, inputs.tokens)[..., None]
  mass_above = jnp.sum(jnp.where(probs > own, probs, 0.0), axis=-1)
  return mass_above < threshold


def accept_prob_floor(
  inputs: VerificationInputs, threshold: jax.Array
) -> jax.Array:
  """Accepts a token of teacher probability >= `threshold` (arXiv 2609.02401).

  0 accepts everything.
  """
  log_probs = jax.nn.log_softmax(inputs.teacher_logits)
  return jnp.exp(_own(log_probs, inputs.tokens)) >= threshold


def accept_mixture(
  inputs: VerificationInputs, threshold: jax.Array
) -> jax.Array:
  """Accepts with probability min(1, 1 - g + g q / p), g = `threshold`.

  p is the student's and q the teacher's sampling distribution, both warped by
  their temperature and top-p. With the `residual` replacement, a token is
  distributed exactly as (1 - g) p + g q: min(p, m) is kept, and (m - p)+ is
  proportional to (q - p)+ for the mixture m.
  """
  of_teacher = _own(inputs.teacher_log_probs, inputs.tokens)
  ratio = jnp.exp(of_teacher - inputs.student_log_prob)
  return inputs.uniform < 1 - threshold + threshold * ratio


def accept_lossless(
  inputs: VerificationInputs, threshold: jax.Array
) -> jax.Array:
  """Accepts with probability min(1, q / p): exactly the teacher's tokens.

  Speculative sampling (arXiv 2211.17192, 2302.01318). `threshold` is unused.
  """
  return accept_mixture(inputs, jnp.ones_like(threshold))


def accept_always(
  inputs: VerificationInputs, threshold: jax.Array
) -> jax.Array:
  """Accepts everything: on-policy data. `threshold` is unused."""
  del threshold
  return jnp.ones(inputs.tokens.shape, bool)


def accept_never(inputs: VerificationInputs, threshold: jax.Array) -> jax.Array:
  """Accepts nothing: the teacher generates. `threshold` is unused."""
  del threshold
  return jnp.zeros(inputs.tokens.shape, bool)


def accept_random(
  inputs: VerificationInputs, threshold: jax.Array
) -> jax.Array:
  """Replaces blindly at the rate `threshold`: the control of the others."""
  return inputs.uniform >= threshold


def accept_released_top_k(
  inputs: VerificationInputs, threshold: jax.Array
) -> jax.Array:
  """Accepts as the paper's released code does, to show what it really did.

  A token other than the one that is kept is checked: a second draw from the
  student's distribution. It passes when it is in the top `threshold` of the
  teacher's logits after the teacher's temperature and top-p, so never when it
  is outside the nucleus: at temperature 0.2 and top-p 0.5 that leaves little
  but the teacher's first choice. The first draw stays when the second passes.
  Both are drawn at the teacher's temperature and top-p, which
  methods.apply_method sees to, as that code hands the teacher's settings to the
  student.

  What else it does is not reproduced: a loss that starts at the second token of
  the response and runs past its end, responses that are decoded and tokenised
  again, EOS appended to truncated ones.
  """
  if inputs.draw_again is None:
    raise ValueError("accept = 'released_top_k' needs draw_again")
  checked = inputs.draw_again()
  log_probs = inputs.teacher_log_probs
  inside = _own(log_probs, checked) > -jnp.inf
  rank = token_rank(log_probs, checked).astype(threshold.dtype)
  return inside & (rank < threshold)


@dataclasses.dataclass(frozen=True)
class AcceptanceRule:
  """An acceptance rule and what may be configured with it.

  accept: the function.
  low: the least threshold; None where the rule has no threshold.
  high: the largest threshold; None: the size of the vocabulary.
  whole_numbers: whether the threshold must be a whole number.
  replace: the replacements that go with the rule. A rule that gives an exact
    distribution gives it with the residual alone.
  """

  accept: AcceptFn
  low: float | None = None
  high: float | None = None
  whole_numbers: bool = False
  replace: tuple[str, ...] = ("sample", "argmax")


_EXACT = ("residual",)

RULES: dict[str, AcceptanceRule] = {
  "top_k": AcceptanceRule(accept_top_k, low=1, whole_numbers=True),
  "top_p": AcceptanceRule(accept_top_p, low=0, high=1),
  "prob_floor": AcceptanceRule(accept_prob_floor, low=0, high=1),
  "mixture": AcceptanceRule(accept_mixture, low=0, high=1, replace=_EXACT),
  "lossless": AcceptanceRule(accept_lossless, replace=_EXACT),
  "always": AcceptanceRule(accept_always),
  "never": AcceptanceRule(accept_never),
  "random": AcceptanceRule(accept_random, low=0, high=1),
  "released_top_k": AcceptanceRule(
    accept_released_top_k, low=1, whole_numbers=True
  ),
}

REPLACEMENTS = ("sample", "argmax", "residual")


@dataclasses.dataclass(frozen=True)
class Rule:
  """What the teacher accepts, and what it emits instead.

  accept: a name of RULES, or a function like those.
  replace: `sample` (the teacher's sampling distribution, as the paper),
    `argmax`, or `residual` (the normalized (q - p)+ of the teacher's and the
    student's sampling distributions).
  """

  accept: str | AcceptFn = "top_k"
  replace: str = "sample"

  def __post_init__(self):
    if isinstance(self.accept, str) and self.accept not in RULES:
      raise ValueError(
        f"accept = {self.accept!r}: must be one of {sorted(RULES)}"
      )
    if self.replace not in REPLACEMENTS:
      raise ValueError(
        f"replace = {self.replace!r}: must be one of {list(REPLACEMENTS)}"
      )

  @property
  def accept_fn(self) -> AcceptFn:
    """The function that decides."""
    if isinstance(self.accept, str):
      return RULES[self.accept].accept
    return self.accept


def draw_replacement(
  replace: str,
  teacher_logits: jax.Array,
  student_log_probs: jax.Array | None,
  teacher_sampling: sampling.Sampling,
  uniform: jax.Array,
) -> jax.Array:
  """Draws the teacher's token for the first rejected position of each row.

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
    # rounding; the teacher's own distribution is then the right limit.
    residual = jnp.maximum(residual, 0.0)
    empty = jnp.sum(residual, axis=-1, keepdims=True) <= 0
    log_probs = jnp.where(empty, log_probs, jnp.log(residual))
  return sampling.draw_token(log_probs, uniform)
