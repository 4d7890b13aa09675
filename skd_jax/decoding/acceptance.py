"""Acceptance rules and replacements: which of the student's tokens stay.

Each rule is a pure function of what the teacher says about the drafted tokens:

  accept(inputs, threshold) -> bool [B, G]

`RULES` names the rules, one row of a table each; any other function of the same
arguments is a rule as well. The token that is checked is the token that is
emitted, and the teacher's raw logits decide, unless a rule's docstring says
otherwise.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax.decoding import bridge, sampling


@struct.dataclass
class VerificationInputs:
  """What is known about G drafted tokens when they are judged."""

  tokens: jax.Array  # int32 [B, G], the student's proposals
  teacher_logits: jax.Array  # float32 [B, G, V], raw
  student_log_prob: jax.Array  # float32 [B, G], as drawn (warped)
  teacher_log_probs: jax.Array  # float32 [B, G, V], as it would draw (warped)
  uniform: jax.Array  # float32 [B, G], for the randomised rules
  # () -> float32 [B, G, V]: the student's raw logits. A function, as few rules
  # need them, and they cost the student's head at every drafted position.
  student_logits: Callable[[], jax.Array] | None = struct.field(
    pytree_node=False, default=None
  )
  # () -> int32 [B, G]: the student's tokens, drawn once more.
  draw_again: Callable[[], jax.Array] | None = struct.field(
    pytree_node=False, default=None
  )
  # () -> int32 [B, G]: what the teacher itself draws, or `argmax`, there.
  teacher_tokens: Callable[[], jax.Array] | None = struct.field(
    pytree_node=False, default=None
  )
  # How both draw.
  student_sampling: sampling.Sampling = struct.field(
    pytree_node=False, default=sampling.Sampling()
  )
  teacher_sampling: sampling.Sampling = struct.field(
    pytree_node=False, default=sampling.Sampling()
  )

  def own_student_logits(self, rule: str) -> jax.Array:
    """Returns the student's raw logits, float32 [B, G, V].

    Raises:
      ValueError: they were not given; names the rule.
    """
    if self.student_logits is None:
      raise ValueError(f"accept = {rule!r} needs student_logits")
    return self.student_logits()


class AcceptFn(Protocol):
  """Decides which drafted tokens stay."""

  def __call__(
    self, inputs: VerificationInputs, threshold: jax.Array
  ) -> jax.Array:
    """Returns bool [B, G]; threshold is float32 [] or [B, G]."""
    ...


class TargetFn(Protocol):
  """The distribution that a token follows under an exact rule."""

  def __call__(
    self,
    student_log_probs: jax.Array,
    teacher_logits: jax.Array,
    teacher_sampling: sampling.Sampling,
    threshold: jax.Array,
  ) -> jax.Array:
    """Maps float32 [..., V] and a threshold [...] to log-probs [..., V]."""
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
  than `threshold`, so one sum decides. 1 accepts everything.
  """
  probs = jax.nn.softmax(inputs.teacher_logits)
  own = _own(probs, inputs.tokens)[..., None]
  mass_above = jnp.sum(jnp.where(probs > own, probs, 0.0), axis=-1)
  # Rounding can give the tokens above the last one a mass of 1.
  return (mass_above < threshold) | (threshold >= 1)


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


def bridge_target(
  student_log_probs: jax.Array,
  teacher_logits: jax.Array,
  teacher_sampling: sampling.Sampling,
  threshold: jax.Array,
) -> jax.Array:
  """Returns the geometric bridge of budget `threshold`, float32 [..., V].

  The teacher's temperature is applied, its top-p is not: the bridge is between
  distributions that have all tokens in common.
  """
  tempered = teacher_logits / teacher_sampling.temperature
  return bridge.bridge_log_probs(
    student_log_probs, jax.nn.log_softmax(tempered), threshold
  )


def accept_bridge(
  inputs: VerificationInputs, threshold: jax.Array
) -> jax.Array:
  """Accepts with probability min(1, b / p), b the bridge of `threshold` nats.

  With the `residual` replacement, (b - p)+, a token follows b exactly, and
  differs from the student's as rarely as that allows (maximal coupling).
  See bridge.py; 0 accepts everything.
  """
  student = sampling.warp(
    inputs.own_student_logits("bridge"), inputs.student_sampling
  )
  target = bridge_target(
    student, inputs.teacher_logits, inputs.teacher_sampling, threshold
  )
  ratio = jnp.exp(_own(target, inputs.tokens) - _own(student, inputs.tokens))
  return inputs.uniform < ratio


def accept_divergence(
  inputs: VerificationInputs, threshold: jax.Array
) -> jax.Array:
  """Accepts where JSD(teacher, student) <= `threshold` nats, whatever token.

  SWITCH (arXiv 2410.19503), whose threshold falls along the response: see
  Rule.threshold_decay. Of the raw distributions; log 2 accepts everything.
  """
  p = jax.nn.softmax(inputs.teacher_logits)
  q = jax.nn.softmax(inputs.own_student_logits("divergence"))
  middle = (p + q) / 2
  terms = jax.scipy.special.rel_entr(p, middle)
  terms += jax.scipy.special.rel_entr(q, middle)
  return jnp.sum(terms, axis=-1) / 2 <= threshold


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


def _teacher_target(
  student_log_probs, teacher_logits, teacher_sampling, threshold
):
  del student_log_probs, threshold
  return sampling.warp(teacher_logits, teacher_sampling)


@dataclasses.dataclass(frozen=True)
class AcceptanceRule:
  """An acceptance rule and what may be configured with it.

  accept: the function.
  low: the least threshold; None where the rule has no threshold.
  high: the largest threshold; None: the size of the vocabulary.
  whole_numbers: whether the threshold must be a whole number.
  replace: the replacements that go with the rule. A rule that gives an exact
    distribution gives it with the residual alone.
  target: what the residual is of; the teacher's sampling distribution gives the
    same residual as a mixture with it.
  """

  accept: AcceptFn
  low: float | None = None
  high: float | None = None
  whole_numbers: bool = False
  replace: tuple[str, ...] = ("sample", "argmax")
  target: TargetFn = _teacher_target


_EXACT = ("residual",)

RULES: dict[str, AcceptanceRule] = {
  "top_k": AcceptanceRule(accept_top_k, low=1, whole_numbers=True),
  "top_p": AcceptanceRule(accept_top_p, low=0, high=1),
  "prob_floor": AcceptanceRule(accept_prob_floor, low=0, high=1),
  "mixture": AcceptanceRule(accept_mixture, low=0, high=1, replace=_EXACT),
  "lossless": AcceptanceRule(accept_lossless, replace=_EXACT),
  "bridge": AcceptanceRule(
    accept_bridge, low=0, high=math.inf, replace=_EXACT, target=bridge_target
  ),
  "divergence": AcceptanceRule(accept_divergence, low=0, high=math.log(2)),
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
    `argmax`, or `residual` (the normalized (m - p)+ of the rule's target and
    the student's sampling distribution).
  threshold_decay: at position t of the response the threshold is that of the
    run times exp(-threshold_decay * t).
  leg_length: N, how many tokens the teacher generates from a rejection on;
    those after the first are drawn by `argmax` or else `sample`. See legs.py.
  max_interventions: M, rejections a response may have; None: no limit.
  """

  accept: str | AcceptFn = "top_k"
  replace: str = "sample"
  threshold_decay: float = 0.0
  leg_length: int = 1
  max_interventions: int | None = None

  def __post_init__(self):
    if isinstance(self.accept, str) and self.accept not in RULES:
      raise ValueError(
        f"accept = {self.accept!r}: must be one of {sorted(RULES)}"
      )
    if self.replace not in REPLACEMENTS:
      raise ValueError(
        f"replace = {self.replace!r}: must be one of {list(REPLACEMENTS)}"
      )
    if not 0 <= self.threshold_decay < math.inf:
      raise ValueError(
        f"threshold_decay = {self.threshold_decay}: must be 0 or above"
      )
    if self.leg_length < 1:
      raise ValueError(f"leg_length = {self.leg_length}: must be 1 or above")
    if self.max_interventions is not None and self.max_interventions < 1:
      raise ValueError(
        f"max_interventions = {self.max_interventions}: must be 1 or above, "
        "or None for no limit"
      )

  @property
  def accept_fn(self) -> AcceptFn:
    """The function that decides."""
    if isinstance(self.accept, str):
      return RULES[self.accept].accept
    return self.accept

  @property
  def target_fn(self) -> TargetFn:
    """What the residual is of."""
    if isinstance(self.accept, str):
      return RULES[self.accept].target
    return _teacher_target

  @property
  def has_budget(self) -> bool:
    """Whether a decision depends on the interventions before it."""
    return self.leg_length > 1 or self.max_interventions is not None
