"""Lossless speculative decoding: a student drafts for its teacher.

The loop is that of rollout.py, with two differences: the rule is lossless, so
that every token follows the teacher's distribution, and a draft that is
accepted as a whole is followed by one more token of the teacher's. G = 3:

  student reads   b  c  d  e      proposes  c  d  e
  teacher reads   b  c  d  e      judges    c  d  e  and knows what follows e
  all accepted                    emitted   c  d  e  F

So a teacher pass emits 1 to G + 1 tokens. arXiv 2211.17192, 2302.01318.
"""

import dataclasses

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.decoding import acceptance, loop, stopping, verification
from skd_jax.decoding.policy import Policy
from skd_jax.decoding.rollout import propose

_LOSSLESS = acceptance.Rule("lossless", "residual")


def speculative_decode(
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
  """Generates the teacher's responses with the student's help; to be jitted.

  A greedy teacher generates exactly what it generates alone; otherwise a
  response is a sample of the teacher's distribution, though not the one that it
  would draw alone from the same key.

  Args:
    student: drafts.
    teacher: decides.
    batch: the prompts [Q, P].
    row_keys: typed PRNG keys [Q].
    stop_table: EOS and stop sequences.
    num_draft_tokens: G, tokens drafted before one teacher pass.
    max_new_tokens: T.
    batch_size: B, as in `rollout`.

  Returns:
    Rollout [Q, T] without `teacher_hidden`; its source says which tokens were
    drafted.
  """

  def one_round(state):
    keys = row_keys[state.row]
    proposal, state = propose(student, state, keys, num_draft_tokens)
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
  """Judges a draft in one pass, and draws the token after what is accepted.

  Returns:
    (Verdict of G + 1 tokens, the state with the teacher's cache advanced).
  """
  read = jnp.concatenate([state.last_token[:, None], proposal.tokens], axis=1)
  hidden, state = verification.read_with_teacher(teacher, state, read)
  verdict = verification.judge(
    student,
    teacher,
    teacher.logits(hidden),
    proposal,
    row_keys,
    state.length,
    jnp.float32(1),
    _LOSSLESS,
  )
  return verdict, state
