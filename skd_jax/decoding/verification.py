"""The teacher's half of a round: one pass over a draft, and the verdict.

  Proposal -> read_with_teacher -> judge -> Verdict

`judge` serves `rollout`, where a fully accepted draft is all that a round
emits, and `speculative_decode`, where one more token of the teacher's follows.
"""

import dataclasses

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.decoding import acceptance
from skd_jax.decoding import sampling as sampling_lib
from skd_jax.decoding.policy import Policy
from skd_jax.parallel import sharding


def _draw_again(
  student: Policy,
  proposal: structs.Proposal,
  row_keys: jax.Array,
  positions: jax.Array,
) -> jax.Array:
  """Draws each token of a draft once more, from the same distribution.

  Args:
    student: who proposed.
    proposal: [B, G].
    row_keys: typed PRNG keys [B].
    positions: int32 [B, G], in the response.

  Returns:
    int32 [B, G].
  """
  log_probs = sampling_lib.warp(
    student.logits(proposal.hidden), student.sampling
  )
  uniform = sampling_lib.draw_uniform(
    row_keys, sampling_lib.SECOND_DRAW, positions
  )
  tokens = sampling_lib.draw_token(
    log_probs.reshape(-1, log_probs.shape[-1]), uniform.reshape(-1)
  )
  return tokens.reshape(positions.shape)


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
  hidden, cache = teacher.model.apply(
    teacher.params, tokens, slots, state.caches[1]
  )
  return hidden, dataclasses.replace(state, caches=(state.caches[0], cache))


def judge(
  student: Policy,
  teacher: Policy,
  teacher_logits: jax.Array,
  proposal: structs.Proposal,
  row_keys: jax.Array,
  length: jax.Array,
  threshold: jax.Array,
  rule: acceptance.Rule,
) -> structs.Verdict:
  """Decides which drafted tokens stay, and what follows them.

  G = 3. With n = G logits a draft that is accepted as a whole is all that a
  round emits; with n = G + 1 one more token of the teacher's follows it:

    drafted      c d e          c d e            c d e
    accepted?    y n y          y y y            y y y    n = G + 1
    emitted      c T            c d e            c d e T

  Args:
    student: proposed.
    teacher: gives its sampling distribution.
    teacher_logits: float32 [B, n, V], raw; entry g judges drafted token g.
    proposal: [B, G].
    row_keys: typed PRNG keys [B].
    length: int32 [B], response tokens before the draft.
    threshold: float32 [], the parameter of the acceptance rule.
    rule: the rule and the replacement.

  Returns:
    Verdict of n tokens, without `teacher_hidden`.
  """
  num_draft_tokens = proposal.tokens.shape[1]
  num_logits = teacher_logits.shape[1]
  offsets = jnp.arange(num_logits)
  num_accepted = _count_accepted(
    student,
    teacher,
    teacher_logits[:, :num_draft_tokens],
    proposal,
    row_keys,
    length,
    threshold,
    rule,
  )
  # Of a draft that is accepted as a whole with n = G, the draw at G - 1 is
  # made and not used.
  at = jnp.minimum(num_accepted, num_logits - 1)
  replacement = acceptance.draw_replacement(
    rule.replace,
    jnp.take_along_axis(teacher_logits, at[:, None, None], axis=1)[:, 0],
    _proposal_log_probs(student, proposal, at, num_logits)
    if rule.replace == "residual"
    else None,
    teacher.sampling,
    sampling_lib.draw_uniform(row_keys, sampling_lib.TEACHER_DRAW, length + at),
  )
  replaced = offsets[None, :] == num_accepted[:, None]
  draft = proposal.tokens
  if num_logits > num_draft_tokens:
    draft = jnp.pad(draft, ((0, 0), (0, 1)))
  tokens = jnp.where(replaced, replacement[:, None], draft)
  # Where nothing was proposed, the token stands for its own draft.
  is_drafted = offsets[None, :] < num_draft_tokens
  return structs.Verdict(
    tokens=tokens,
    num_tokens=at + 1,
    source=jnp.where(
      replaced, jnp.int8(structs.TEACHER), jnp.int8(structs.STUDENT)
    ),
    draft_tokens=jnp.where(is_drafted, draft, tokens),
    teacher_hidden=None,
  )


def _count_accepted(
  student: Policy,
  teacher: Policy,
  teacher_logits: jax.Array,
  proposal: structs.Proposal,
  row_keys: jax.Array,
  length: jax.Array,
  threshold: jax.Array,
  rule: acceptance.Rule,
) -> jax.Array:
  """Returns how many drafted tokens stay, int32 [B]; logits [B, G, V]."""
  offsets = jnp.arange(proposal.tokens.shape[1])
  positions = length[:, None] + offsets[None, :]
  accept = rule.accept_fn(
    acceptance.VerificationInputs(
      tokens=proposal.tokens,
      teacher_logits=teacher_logits,
      student_log_prob=proposal.log_prob,
      teacher_log_probs=sampling_lib.warp(teacher_logits, teacher.sampling),
      uniform=sampling_lib.draw_uniform(
        row_keys, sampling_lib.ACCEPT_DRAW, positions
      ),
      draw_again=lambda: _draw_again(student, proposal, row_keys, positions),
    ),
    threshold,
  )
  # y y n y  ->  1 1 0 0: what follows a rejected token was drafted after the
  # wrong prefix and is dropped, whatever the rule says of it.
  kept = jnp.cumprod(accept.astype(jnp.int32), axis=1)
  return jnp.sum(kept, axis=1)


def _proposal_log_probs(
  student: Policy, proposal: structs.Proposal, at: jax.Array, num_logits: int
) -> jax.Array:
  """The distribution that drafted token `at` [B] was drawn from: [B, V].

  Behind a draft that is accepted as a whole the student proposed nothing: its
  probabilities are zero there, and the residual is the teacher's distribution.
  """
  num_draft_tokens = proposal.tokens.shape[1]
  last = jnp.minimum(at, num_draft_tokens - 1)[:, None, None]
  hidden = jnp.take_along_axis(proposal.hidden, last, axis=1)[:, 0]
  log_probs = sampling_lib.warp(student.logits(hidden), student.sampling)
  if num_logits > num_draft_tokens:
    is_drafted = (at < num_draft_tokens)[:, None]
    log_probs = jnp.where(is_drafted, log_probs, -jnp.inf)
  return log_probs
