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
import numpy as np
from flax import struct

from skd_jax import structs
from skd_jax.decoding import loop, rollout, stopping, verification
from skd_jax.decoding.drafters import AS_DRAWN, Drafter
from skd_jax.decoding.policy import Policy

_RoundFn = Callable[[structs.DecodeState], structs.DecodeState]

# The last arguments of `speculative_decode`, where all drafts have G tokens.
FULL_DRAFTS = {"draft_cost": 0.0, "round_cost": 0.0, "expected_acceptance": 1.0}

# A drafter that is switched off is tried in a round so late that the trial
# costs a small part of the rounds before it; then four times as late, and on.
# Of a prompt that it has not read yet, four tokens cost a pass over one.
_FIRST_TRIAL = 16
_ROUNDS_PER_COST = 32
_NUM_TRIALS = 10
_TOKENS_PER_PASS = 4
_NEVER = np.iinfo(np.int32).max
# Tokens of a row that weigh as much as what the batch shows of it.
_TOKENS_OF_BATCH = 4


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

  Returns:
    Rollout [Q, T] without `teacher_hidden`; its source says which tokens were
    drafted.
  """

  costs = _Costs(draft_cost, round_cost)

  def one_round(state):
    keys = row_keys[state.row]
    plan = _plan(
      state,
      drafter.can_draft(state, batch) & ~state.done,
      costs,
      expected_acceptance,
      num_draft_tokens,
      by_batch=same_responses(drafter, teacher),
      are_waiting=state.next_row < batch.prompt.shape[0],
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
    rate = jnp.reshape(jnp.float32(expected_acceptance), 1)
    best = costs.best_length(rate, jnp.ones_like(rate), num_draft_tokens)
    first_waits = best[0] == 0
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


def measured_costs(
  alone_seconds: float,
  round_seconds: float,
  num_draft_tokens: int,
  draft_cost: float = 0.0,
) -> dict[str, float]:
  """Returns {"draft_cost", "round_cost"} of measured times, at least 0.

  Args:
    alone_seconds: of a pass of the teacher alone.
    round_seconds: of a round in which G tokens are drafted and judged.
    num_draft_tokens: G.
    draft_cost: of one drafted token, as known or estimated.
  """
  total = max(round_seconds / alone_seconds - 1, 0.0)
  draft_cost = min(draft_cost, total / num_draft_tokens)
  return {
    "draft_cost": draft_cost,
    "round_cost": total - draft_cost * num_draft_tokens,
  }


@dataclasses.dataclass(frozen=True)
class _Costs:
  """See `speculative_decode`."""

  draft_cost: jax.Array | float
  round_cost: jax.Array | float

  def best_length(
    self, rate: jax.Array, share: jax.Array, num_draft_tokens: int
  ) -> jax.Array:
    """Returns the draft length that emits the most per time.

    If a drafted token is accepted with probability a, a draft of n tokens emits
    1 + a + ... + a^n (arXiv 2211.17192, theorem 3.8); a row without a draft
    emits 1.

    Args:
      rate: float32 [B], a.
      share: float32 [B], of the rows that would draft.
      num_draft_tokens: G.

    Returns:
      int32 [B], in 0..G; the longest of equals.
    """
    lengths = jnp.arange(num_draft_tokens + 1, dtype=jnp.float32)[None, :]
    accepted = jnp.cumsum(rate[:, None] ** lengths, axis=1) - 1
    costs = jnp.where(lengths > 0, self.round_cost, 0.0)
    costs += self.draft_cost * lengths
    speed = (1 + share[:, None] * accepted) / (1 + costs)
    shortening = jnp.argmax(speed[:, ::-1], axis=1).astype(jnp.int32)
    return num_draft_tokens - shortening

  def rounds_to_trial(
    self, num_rounds: jax.Array, num_unread: jax.Array
  ) -> jax.Array:
    """Returns after how many rounds a drafter that is off is tried, int32 [B].

    To draft and to judge one token, and to read the prompt, adds at most
    1 / _ROUNDS_PER_COST to the rounds before. What the drafter reads of the
    tokens that it has missed comes on top: one pass for _CHUNK of them, see
    drafters.py.

    Args:
      num_rounds: int32 [B], of the response so far.
      num_unread: int32 [B], tokens of the prompt that the drafter has to read.
    """
    reading = num_unread.astype(jnp.float32) / _TOKENS_PER_PASS
    cost = self.draft_cost * (1 + reading) + self.round_cost
    first = jnp.maximum(jnp.ceil(_ROUNDS_PER_COST * cost), _FIRST_TRIAL)
    later = 4.0 ** jnp.arange(_NUM_TRIALS, dtype=jnp.float32)
    trials = first[:, None] * later[None, :]
    left = trials - num_rounds[:, None].astype(jnp.float32)
    left = jnp.min(jnp.where(left < 0, jnp.inf, left), axis=1)
    return jnp.minimum(left, _NEVER // 2).astype(jnp.int32)


@struct.dataclass
class _Plan:
  """What the next rounds do.

  lengths: int32 [B], in 0..G, how many tokens each row drafts in the next one.
  num_alone: int32 [], for how many rounds no row drafts, if none is done
    before; 0 where a row drafts.
  """

  lengths: jax.Array
  num_alone: jax.Array


def _plan(
  state: structs.DecodeState,
  can_draft: jax.Array,
  costs: _Costs,
  expected_acceptance: jax.Array | float,
  num_draft_tokens: int,
  *,
  by_batch: bool,
  are_waiting: jax.Array,
) -> _Plan:
  """Decides how many tokens each row drafts.

  The rate of acceptance is that of all tokens judged so far. A round takes as
  long for one row that drafts as for all, so the rows decide together where
  that changes no response; else each by itself, so that no row depends on
  those beside it. If no prompt waits for a slot, the batch ends with its
  slowest row, and it is the rate of that one that decides. Where drafting does
  not pay it is tried with one token now and then, if it can pay at all.

  Args:
    state: what was generated so far.
    can_draft: bool [B], the rows that have a proposal.
    costs: of drafting.
    expected_acceptance: in [0, 1], of the first tokens.
    num_draft_tokens: G.
    by_batch: whether the rows decide together.
    are_waiting: bool [], whether prompts wait for a slot.
  """
  accepted = (state.length - state.num_rounds).astype(jnp.float32)
  judged = accepted + state.interventions.count.astype(jnp.float32)
  num_rounds = state.num_rounds
  # What is unread beyond one token a round is the prompt.
  num_unread = jnp.maximum(state.unread - num_rounds, 0)
  rate = (accepted + expected_acceptance) / (judged + 1)
  share = jnp.ones(can_draft.shape, jnp.float32)
  if by_batch:
    of_all = (jnp.sum(accepted) + expected_acceptance) / (jnp.sum(judged) + 1)
    weight = judged / (judged + _TOKENS_OF_BATCH)
    of_rows = weight * rate + (1 - weight) * of_all
    slowest = jnp.min(jnp.where(state.done, 1, of_rows))
    rate = jnp.where(are_waiting, of_all, slowest)[None]
    num_rounds = jnp.max(jnp.where(state.done, 0, num_rounds))[None]
    num_unread = jnp.max(jnp.where(state.done, 0, num_unread))[None]
    num_live = jnp.sum((~state.done).astype(jnp.float32))
    drafting = jnp.sum(can_draft.astype(jnp.float32))
    share = (drafting / jnp.maximum(num_live, 1))[None]
  lengths = costs.best_length(rate, share, num_draft_tokens)
  all_rows, surely = jnp.ones_like(share), jnp.ones_like(rate)
  can_pay = costs.best_length(surely, share, num_draft_tokens) > 0
  to_trial = costs.rounds_to_trial(num_rounds, num_unread)
  is_tried = (lengths == 0) & (to_trial == 0) & can_pay
  lengths = jnp.where(can_draft, jnp.where(is_tried, 1, lengths), 0)

  # Off, whichever rows have a proposal: so it stays until the next trial, as
  # the rate changes with judged tokens and with rows that are done alone.
  off = costs.best_length(rate, all_rows, num_draft_tokens) == 0
  may_pay = costs.best_length(surely, all_rows, num_draft_tokens) > 0
  num_off = jnp.where(off, jnp.where(may_pay, to_trial, _NEVER), 0)
  num_alone = jnp.maximum(jnp.min(jnp.where(state.done, _NEVER, num_off)), 1)
  return _Plan(lengths, jnp.where(jnp.any(lengths > 0), 0, num_alone))


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
