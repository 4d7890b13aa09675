"""The teacher's half of a round: one pass over a draft, and the verdict.

  Proposal -> read_with_teacher -> judge -> Verdict

`judge` serves `rollout`, where a fully accepted draft is all that a round
emits, and `speculative_decode`, where one more token of the teacher's follows.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.decoding import acceptance, legs
from skd_jax.decoding import sampling as sampling_lib
from skd_jax.decoding.policy import Policy
from skd_jax.decoding.replacement import (
  generation_sampling,
  residual_log_probs,
)
from skd_jax.parallel import sharding


@jax.named_scope("verify")
def verify(
  student: Policy,
  teacher: Policy,
  state: structs.DecodeState,
  proposal: structs.Proposal,
  row_keys: jax.Array,
  threshold: jax.Array,
  rule: acceptance.Rule,
) -> tuple[structs.Verdict, structs.DecodeState]:
  """Lets the teacher judge a draft in one pass and draw one replacement.

  Returns:
    (Verdict of G tokens with `teacher_hidden`, the state with the teacher's
    cache advanced).
  """
  # The token that precedes each drafted one: its state judges the draft.
  read = jnp.concatenate(
    [state.last_token[:, None], proposal.tokens[:, :-1]], axis=1
  )
  hidden, state = read_with_teacher(teacher, state, read)
  verdict = judge(
    student,
    teacher,
    teacher.logits(hidden),
    proposal,
    row_keys,
    state.length,
    threshold,
    rule,
    state.interventions if rule.has_budget else None,
  )
  verdict = dataclasses.replace(verdict, teacher_hidden=hidden)
  return sharding.constrain_rows(verdict), state


def read_with_teacher(
  teacher: Policy, state: structs.DecodeState, tokens: jax.Array
) -> tuple[jax.Array, structs.DecodeState]:
  """Runs the teacher over the last token and a draft.

  Args:
    teacher: the teacher.
    state: its last token is tokens[:, 0].
    tokens: int32 [B, n].

  Returns:
    (the states [B, n, D] that predict what follows each token, the state with
    the teacher's cache advanced; the length is not).
  """
  first = state.prompt_length - 1 + state.length
  slots = first[:, None] + jnp.arange(tokens.shape[1])[None, :]
  *others, cache = state.caches
  hidden, cache = teacher.model.apply(teacher.params, tokens, slots, cache)
  return hidden, dataclasses.replace(state, caches=(*others, cache))


def judge(
  student: Policy | None,
  teacher: Policy,
  teacher_logits: jax.Array,
  proposal: structs.Proposal,
  row_keys: jax.Array,
  length: jax.Array,
  threshold: jax.Array,
  rule: acceptance.Rule,
  before: structs.Interventions | None = None,
) -> structs.Verdict:
  """Decides which drafted tokens stay, and what follows them.

  G = 3. With n = G logits a draft that is accepted as a whole is all that a
  round emits; with n = G + 1 one more token of the teacher's follows it:

    drafted      c d e          c d e            c d e
    accepted?    y n y          y y y            y y y    n = G + 1
    emitted      c T            c d e            c d e T

  Args:
    student: proposed; None where no model did.
    teacher: gives its sampling distribution.
    teacher_logits: float32 [B, n, V], raw; entry g judges drafted token g.
    proposal: [B, G]; of a row with fewer tokens, what follows them is not
      looked at, and one more token of the teacher's follows them.
    row_keys: typed PRNG keys [B].
    length: int32 [B], response tokens before the draft.
    threshold: float32 [], the parameter of the acceptance rule.
    rule: the rule and the replacement.
    before: [B], the interventions so far; None where the rule has no budget.

  Returns:
    Verdict of n tokens, without `teacher_hidden`.

  Raises:
    ValueError: the rule needs a student, and there is none.
  """
  num_draft_tokens = proposal.tokens.shape[1]
  num_logits = teacher_logits.shape[1]
  offsets = jnp.arange(num_logits)
  positions = length[:, None] + offsets[None, :]
  draft = _Draft(
    student=student,
    teacher=teacher,
    rule=rule,
    teacher_logits=teacher_logits,
    proposal=proposal,
    row_keys=row_keys,
    positions=positions,
    thresholds=_thresholds(threshold, positions, rule),
  )
  num_proposed = num_draft_tokens
  if proposal.num_tokens is not None:
    num_proposed = proposal.num_tokens[:, None]
  is_drafted = jnp.broadcast_to(
    offsets[None, :] < num_proposed, positions.shape
  )
  accept = _accept(draft, before) & is_drafted[:, :num_draft_tokens]
  # y y n y  ->  1 1 0 0: what follows a rejected token was drafted after the
  # wrong prefix and is dropped, whatever the rule says of it.
  num_accepted = jnp.sum(jnp.cumprod(accept.astype(jnp.int32), axis=1), axis=1)
  # Of a draft that is accepted as a whole with n = G, the draw at G - 1 is
  # made and not used.
  at = jnp.minimum(num_accepted, num_logits - 1)
  # Where the teacher generates, and corrects nothing.
  is_generated = ~is_drafted
  if before is not None:
    is_generated |= legs.positions(before, num_logits)
  replacement = _draw_replacement(draft, is_generated, at)
  is_replaced = offsets[None, :] == num_accepted[:, None]
  proposed = proposal.tokens
  if num_logits > num_draft_tokens:
    proposed = jnp.pad(proposed, ((0, 0), (0, 1)))
  tokens = jnp.where(is_replaced, replacement[:, None], proposed)
  after = None
  if before is not None:
    rejected = jnp.any(is_replaced & ~is_generated, axis=1)
    after = legs.advance(before, at + 1, rejected, rule.leg_length)
  return structs.Verdict(
    tokens=tokens,
    num_tokens=at + 1,
    source=jnp.where(
      is_replaced | is_generated,
      jnp.int8(structs.TEACHER),
      jnp.int8(structs.STUDENT),
    ),
    # Where nothing was proposed, the token stands for its own draft.
    draft_tokens=jnp.where(is_drafted, proposed, tokens),
    teacher_hidden=None,
    interventions=after,
  )


def accepts(
  student: Policy,
  teacher: Policy,
  teacher_logits: jax.Array,
  proposal: structs.Proposal,
  row_keys: jax.Array,
  threshold: jax.Array,
  rule: acceptance.Rule,
) -> jax.Array:
  """Returns what the rule says of each token of a response, on its own.

  Args:
    student: see judge; so are the others.
    teacher: gives its sampling distribution.
    teacher_logits: float32 [B, T, V], raw.
    proposal: [B, T], from the first token of a response on.
    row_keys: typed PRNG keys [B].
    threshold: float32 [].
    rule: its budget is not looked at.

  Returns:
    bool [B, T].
  """
  shape = proposal.tokens.shape
  positions = jnp.broadcast_to(jnp.arange(shape[1]), shape)
  draft = _Draft(
    student=student,
    teacher=teacher,
    rule=rule,
    teacher_logits=teacher_logits,
    proposal=proposal,
    row_keys=row_keys,
    positions=positions,
    thresholds=_thresholds(threshold, positions, rule),
  )
  return _accept(draft, None)


@dataclasses.dataclass(frozen=True)
class _Draft:
  """G drafted tokens, and what judges them; n = G or G + 1."""

  student: Policy | None
  teacher: Policy
  rule: acceptance.Rule
  teacher_logits: jax.Array  # float32 [B, n, V], raw
  proposal: structs.Proposal  # [B, G]
  row_keys: jax.Array  # typed PRNG keys [B]
  positions: jax.Array  # int32 [B, n], in the response
  thresholds: jax.Array  # float32 [B, n], of the rule

  def draw(
    self, logits: jax.Array, how: sampling_lib.Sampling, role: int
  ) -> jax.Array:
    """Draws a token at every drafted position: [B, G, V] -> int32 [B, G]."""
    positions = self.positions[:, : logits.shape[1]]
    uniform = sampling_lib.draw_uniform(self.row_keys, role, positions)
    tokens, _ = sampling_lib.draw(
      logits.reshape(-1, logits.shape[-1]), how, uniform.reshape(-1)
    )
    return tokens.reshape(positions.shape)


def _thresholds(
  threshold: jax.Array, positions: jax.Array, rule: acceptance.Rule
) -> jax.Array:
  """Returns the threshold at each position of a response, [B, n]."""
  thresholds = jnp.full(positions.shape, threshold)
  if rule.threshold_decay:
    age = positions.astype(jnp.float32)
    thresholds *= jnp.exp(-rule.threshold_decay * age)
  return thresholds


def _accept(draft: _Draft, before: structs.Interventions | None) -> jax.Array:
  """Returns which drafted tokens stay, bool [B, G]."""
  teacher, rule = draft.teacher, draft.rule
  num_draft_tokens = draft.proposal.tokens.shape[1]
  teacher_logits = draft.teacher_logits[:, :num_draft_tokens]

  def draw_as_teacher():
    return draft.draw(
      teacher_logits,
      generation_sampling(rule, teacher.sampling),
      sampling_lib.TEACHER_DRAW,
    )

  accept = rule.accept_fn(
    acceptance.VerificationInputs(
      tokens=draft.proposal.tokens,
      teacher_logits=teacher_logits,
      student_log_prob=draft.proposal.log_prob,
      teacher_log_probs=sampling_lib.warp(teacher_logits, teacher.sampling),
      uniform=sampling_lib.draw_uniform(
        draft.row_keys,
        sampling_lib.ACCEPT_DRAW,
        draft.positions[:, :num_draft_tokens],
      ),
      teacher_tokens=draw_as_teacher,
      teacher_sampling=teacher.sampling,
      **_of_student(draft),
    ),
    draft.thresholds[:, :num_draft_tokens],
  )
  if before is None:
    return accept
  return legs.judge_by_budget(
    accept,
    draft.proposal.tokens,
    draw_as_teacher() if rule.leg_length > 1 else None,
    before,
    rule.max_interventions,
  )


def _of_student(draft: _Draft) -> dict[str, Any]:
  """Returns what an acceptance rule may ask of the student, if there is one."""
  student = draft.student
  if student is None:
    return {}

  def logits():
    return student.logits(draft.proposal.hidden)

  def draw_again():
    return draft.draw(logits(), student.sampling, sampling_lib.SECOND_DRAW)

  return {
    "student_logits": logits,
    "draw_again": draw_again,
    "student_sampling": student.sampling,
  }


def _draw_replacement(
  draft: _Draft, is_generated: jax.Array, at: jax.Array
) -> jax.Array:
  """Draws the teacher's token for one position of each row.

  Args:
    draft: the round.
    is_generated: bool [B, n], where the teacher corrects nothing.
    at: int32 [B], which of the n positions.

  Returns:
    int32 [B].
  """

  def there(x, last=None):
    index = at if last is None else jnp.minimum(at, last)
    index = index.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.take_along_axis(x, index, axis=1)[:, 0]

  student, teacher, rule = draft.student, draft.teacher, draft.rule
  logits = there(draft.teacher_logits)
  how = generation_sampling(rule, teacher.sampling)
  uniform = sampling_lib.draw_uniform(
    draft.row_keys, sampling_lib.TEACHER_DRAW, there(draft.positions)
  )
  if rule.replace != "residual":
    return sampling_lib.draw(logits, how, uniform)[0]
  if student is None:
    raise ValueError("replace = 'residual': must have a student that drafted")
  hidden = there(draft.proposal.hidden, draft.proposal.tokens.shape[1] - 1)
  proposed = sampling_lib.warp(student.logits(hidden), student.sampling)
  target = rule.target_fn(
    proposed, logits, teacher.sampling, there(draft.thresholds)
  )
  log_probs = jnp.where(
    there(is_generated)[:, None],
    sampling_lib.warp(logits, how),
    residual_log_probs(target, proposed),
  )
  return sampling_lib.draw_token(log_probs, uniform)
