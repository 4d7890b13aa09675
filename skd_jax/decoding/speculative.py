"""Lossless speculative decoding: a student drafts for its teacher.

The loop is that of rollout.py, with two differences: the rule is lossless, so
that every token follows the teacher's law, and a draft that is accepted as a
whole is followed by one more token of the teacher's. G = 3:

  student reads   b  c  d  e      proposes  c  d  e
  teacher reads   b  c  d  e      judges    c  d  e  and knows what follows e
  all accepted                    emitted   c  d  e  F

So a teacher pass emits 1 to G + 1 tokens. arXiv 2211.17192, 2302.01318.
"""

import dataclasses

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.decoding import acceptance, loop, sampling, stopping
from skd_jax.decoding import rollout as rollout_lib
from skd_jax.decoding.rollout import Policy


def decode(
  student: Policy,
  teacher: Policy,
  batch: structs.Batch,
  row_keys: jax.Array,
  stop_table: stopping.StopTable,
  *,
  num_draft_tokens: int,
  max_new_tokens: int,
  batch_size: int | None = None,
) -> structs.Rollout:
  """Writes the teacher's responses with the student's help; to be jitted.

  A greedy teacher writes exactly what it writes alone; otherwise a response is
  a sample of the teacher's law, though not the one that it would draw alone
  from the same key.

  Args:
    student: drafts.
    teacher: decides.
    batch: the prompts [Q, P].
    row_keys: typed PRNG keys [Q].
    stop_table: EOS and stop sequences.
    num_draft_tokens: G, tokens drafted before one teacher pass.
    max_new_tokens: T.
    batch_size: B, as in `rollout.rollout`.

  Returns:
    Rollout [Q, T] without `teacher_hidden`; its source says which tokens were
    drafted.
  """

  def one_round(state):
    keys = row_keys[state.row]
    proposal, state = rollout_lib.propose(
      student, state, keys, num_draft_tokens
    )
    state = _read_last_draft(student, state, proposal)
    verdict, state = _verify(student, teacher, state, proposal, keys)
    return loop.commit(state, verdict, stop_table)

  return loop.run(
    ((student.model, student.params), (teacher.model, teacher.params)),
    batch,
    stop_table,
    one_round,
    batch_size=batch_size,
    max_new_tokens=max_new_tokens,
    num_draft_tokens=num_draft_tokens,
    keep_teacher_hidden=False,
  )


def _read_last_draft(
  student: Policy, state: structs.DecodeState, proposal: structs.Proposal
) -> structs.DecodeState:
  """Lets the student read its last draft, which nothing was drawn after.

  If all is accepted, the next round starts behind it, from the teacher's token:
  its slot would be empty.
  """
  num_draft_tokens = proposal.tokens.shape[1]
  slot = state.prompt_length - 1 + state.length + num_draft_tokens
  _, cache = student.model.apply(
    student.params, proposal.tokens[:, -1:], slot[:, None], state.caches[0]
  )
  return dataclasses.replace(state, caches=(cache, *state.caches[1:]))


@jax.named_scope("verify")
def _verify(
  student: Policy,
  teacher: Policy,
  state: structs.DecodeState,
  proposal: structs.Proposal,
  row_keys: jax.Array,
) -> tuple[structs.Verdict, structs.DecodeState]:
  """Judges a draft in one pass, and writes the token after what is accepted.

  Returns:
    (Verdict of G + 1 tokens, the state with the teacher's cache advanced).
  """
  num_draft_tokens = proposal.tokens.shape[1]
  offsets = jnp.arange(num_draft_tokens + 1)
  read = jnp.concatenate([state.last_token[:, None], proposal.tokens], axis=1)
  at = (state.prompt_length - 1 + state.length)[:, None] + offsets[None, :]
  hidden, cache = teacher.model.apply(teacher.params, read, at, state.caches[1])
  logits = teacher.logits(hidden)
  judged = logits[:, :-1]
  positions = state.length[:, None] + offsets[None, :-1]
  accept = acceptance.accept_lossless(
    acceptance.Evidence(
      tokens=proposal.tokens,
      teacher_logits=judged,
      student_log_prob=proposal.log_prob,
      teacher_log_probs=sampling.warp(judged, teacher.sampling),
      uniform=sampling.draw_uniform(row_keys, sampling.ACCEPT_DRAW, positions),
      draw_again=lambda: rollout_lib.draw_again(
        student, proposal, row_keys, positions
      ),
    ),
    jnp.float32(1),
  )
  num_accepted = jnp.sum(jnp.cumprod(accept.astype(jnp.int32), axis=1), axis=1)
  # Behind a draft that is accepted as a whole the student proposed nothing: its
  # law is zero there, and the residual is the teacher's law.
  proposed = num_accepted < num_draft_tokens
  rejected = jnp.minimum(num_accepted, num_draft_tokens - 1)[:, None, None]
  student_hidden = jnp.take_along_axis(proposal.hidden, rejected, axis=1)
  student_log_probs = jnp.where(
    proposed[:, None],
    sampling.warp(student.logits(student_hidden[:, 0]), student.sampling),
    -jnp.inf,
  )
  written = acceptance.draw_replacement(
    "residual",
    jnp.take_along_axis(logits, num_accepted[:, None, None], axis=1)[:, 0],
    student_log_probs,
    teacher.sampling,
    sampling.draw_uniform(
      row_keys, sampling.TEACHER_DRAW, state.length + num_accepted
    ),
  )
  is_written = offsets[None, :] == num_accepted[:, None]
  draft = jnp.pad(proposal.tokens, ((0, 0), (0, 1)))
  tokens = jnp.where(is_written, written[:, None], draft)
  verdict = structs.Verdict(
    tokens=tokens,
    num_tokens=num_accepted + 1,
    source=jnp.where(
      is_written, jnp.int8(structs.TEACHER), jnp.int8(structs.STUDENT)
    ),
    # Where nothing was proposed, the token stands for its own draft.
    draft_tokens=jnp.where(offsets[None, :] < num_draft_tokens, draft, tokens),
    teacher_hidden=None,
  )
  return verdict, dataclasses.replace(state, caches=(state.caches[0], cache))
