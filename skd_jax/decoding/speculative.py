"""Lossless speculative decoding: a drafter proposes, its teacher decides.

The loop is that of rollout.py, with two differences: the rule is lossless, so
that every token follows the teacher's distribution, and a draft that is
accepted as a whole is followed by one more token of the teacher's. G = 3:

  drafter proposes   c  d  e
  teacher reads   b  c  d  e      judges    c  d  e  and knows what follows e
  all accepted                    emitted   c  d  e  F

So a teacher pass emits 1 to G + 1 tokens. arXiv 2211.17192, 2302.01318. If no
row drafts, the teacher generates one token per row, as it does alone: so a
drafter that does not pay is switched off, and tried again now and then. One of
which it is known before does not even read the prompts until it is tried.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.decoding import (
  draft_lengths,
  loop,
  rollout,
  stopping,
  verification,
)
from skd_jax.decoding.drafters import AS_DRAWN, Drafter
from skd_jax.decoding.policy import Policy

_RoundFn = Callable[[structs.DecodeState], structs.DecodeState]


def speculative_decode(
  drafter: Drafter,
  teacher: Policy,
  batch: structs.Batch,
  row_keys: jax.Array,
  stop_table: stopping.StopTable,
  *,
  num_draft_tokens: int,
  max_new_tokens: int,
  batch_size: int | None = None,
  draft_cost: jax.Array | float = 0.0,
  round_cost: jax.Array | float = 0.0,
  expected_acceptance: jax.Array | float = 1.0,
  slowest_acceptance: jax.Array | float | None = None,
) -> structs.Rollout:
  """Generates the teacher's responses with a drafter's help; to be jitted.

  A greedy teacher generates exactly what it generates alone. Otherwise a
  response is a sample of the teacher's distribution: with `PromptLookup` the
  sample that `decode` draws from the same key with source TEACHER, with
  `ModelDrafter` a different one.

  Args:
    drafter: proposes tokens.
    teacher: the model whose distribution the responses follow.
    batch: the prompts [Q, P].
    row_keys: typed PRNG keys [Q].
    stop_table: EOS and stop sequences.
    num_draft_tokens: G, the most tokens drafted before one teacher pass.
    max_new_tokens: T.
    batch_size: B, as in `rollout`.
    draft_cost: float32 [], the time to propose one more token, in passes of the
      teacher alone. Drafts that are rejected too often to pay for their costs
      get shorter, and at last there are none; without costs all have G tokens.
    round_cost: float32 [], how much longer than alone the teacher takes to
      judge a draft, in passes alone; the same for 1 to G tokens.
    expected_acceptance: float32 [], in [0, 1], of the first drafted tokens; it
      counts as much as one token that was judged.
    slowest_acceptance: the same of the row that a batch ends with, which
      decides where no prompt waits for a slot; None: not known.

  Returns:
    Rollout [Q, T] without `teacher_hidden`; its source says which tokens were
    drafted.
  """
  adaptation = draft_lengths.Adaptation(
    num_draft_tokens,
    draft_cost,
    round_cost,
    expected_acceptance,
    slowest_acceptance,
  )
  by_batch = same_responses(drafter, teacher)
  num_prompts = batch.prompt.shape[0]

  def one_round(state):
    keys = row_keys[state.row]
    plan = draft_lengths.plan(
      state,
      drafter.can_draft(state, batch) & ~state.done,
      adaptation,
      by_batch=by_batch,
      are_waiting=state.next_row < num_prompts,
    )

    def drafted(state):
      proposal, state = drafter.propose(
        state, batch, keys, plan.lengths, num_draft_tokens
      )
      verdict, state = _verify(
        drafter, teacher, state, proposal, plan.lengths, keys
      )
      state = dataclasses.replace(state, unread=jnp.zeros_like(state.unread))
      return loop.commit(state, verdict, stop_table)

    def alone(state):
      *others, cache = state.caches
      verdict, after = rollout.generate_token(
        teacher,
        dataclasses.replace(state, caches=(cache,)),
        keys,
        structs.TEACHER,
      )
      state = dataclasses.replace(
        state, caches=(*others, *after.caches), unread=state.unread + 1
      )
      return loop.commit(state, verdict, stop_table)

    state = jax.lax.fori_loop(
      0, 1 - jnp.minimum(plan.num_alone, 1), lambda _, s: drafted(s), state
    )
    return _until_a_row_is_done(alone, state, plan.num_alone)

  policies = [p for p in (drafter.policy, teacher) if p is not None]
  first_waits = None
  if drafter.policy is not None and drafter.policy.model.reads_one_sequence:
    first_waits = adaptation.starts_off(
      by_batch=by_batch, are_waiting=num_prompts > (batch_size or num_prompts)
    )
  return loop.run(
    tuple((policy.model, policy.params) for policy in policies),
    batch,
    stop_table,
    one_round,
    batch_size=batch_size,
    max_new_tokens=max_new_tokens,
    num_draft_tokens=num_draft_tokens,
    keep_teacher_hidden=False,
    first_waits=first_waits,
  )


def same_responses(drafter: Drafter, teacher: Policy) -> bool:
  """Whether the responses are the teacher's own, however much is drafted.

  So it is where the teacher is greedy, or emits what it draws itself. Otherwise
  a row with other drafts has another response of the same distribution.
  """
  return teacher.sampling.temperature == 0 or drafter.policy is None


def _until_a_row_is_done(
  one_round: _RoundFn, state: structs.DecodeState, num_rounds: jax.Array
) -> structs.DecodeState:
  """Runs at most `num_rounds` rounds; int32 [], 0: none."""
  done = state.done

  def goes_on(carry):
    left, state = carry
    return (left > 0) & jnp.all(state.done == done)

  return jax.lax.while_loop(
    goes_on,
    lambda carry: (carry[0] - 1, one_round(carry[1])),
    (num_rounds, state),
  )[1]


@jax.named_scope("verify")
def _verify(
  drafter: Drafter,
  teacher: Policy,
  state: structs.DecodeState,
  proposal: structs.Proposal,
  lengths: jax.Array,
  row_keys: jax.Array,
) -> tuple[structs.Verdict, structs.DecodeState]:
  """Judges a draft in one pass, and draws the token after what is accepted.

  Args:
    drafter: proposed.
    teacher: decides.
    state: what was generated so far.
    proposal: [B, G].
    lengths: int32 [B], its tokens of each row.
    row_keys: typed PRNG keys [B].

  Returns:
    (Verdict of G + 1 tokens that counts rejections as interventions, the state
    with the teacher's cache advanced).
  """
  read = jnp.concatenate([state.last_token[:, None], proposal.tokens], axis=1)
  hidden, state = verification.read_with_teacher(teacher, state, read)
  verdict = verification.judge(
    drafter.policy,
    teacher,
    teacher.logits(hidden),
    proposal,
    row_keys,
    state.length,
    jnp.float32(1),
    # A greedy teacher accepts its own token alone, whoever proposed it: this
    # takes no look at what the drafter held of the others.
    AS_DRAWN if teacher.sampling.temperature == 0 else drafter.rule,
  )
  before = state.interventions
  rejected = (verdict.num_tokens <= lengths).astype(jnp.int32)
  after = dataclasses.replace(before, count=before.count + rejected)
  return dataclasses.replace(verdict, interventions=after), state
