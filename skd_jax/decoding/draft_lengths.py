"""How many tokens each row drafts: as many as pay, or none.

If a drafted token is accepted with probability a, a draft of n tokens emits
1 + a + ... + a^n (arXiv 2211.17192, theorem 3.8). What it costs is measured. A
drafter that does not pay at any length is switched off, and tried with one
token now and then:

  round   0      1      2 .. 15        16    17 ...
  draft   3      1      -              1     -           rejected each time
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax import structs

# The last arguments of `speculative_decode`, where all drafts have G tokens; as
# many as in later batches, so that nothing is compiled again for these.
FULL_DRAFTS = {
  "draft_cost": 0.0,
  "round_cost": 0.0,
  "expected_acceptance": 1.0,
  "slowest_acceptance": 1.0,
}

# A drafter that is switched off is tried in a round so late that the trial
# costs a small part of the rounds before it; then four times as late, and on.
# Of a prompt that it has not read yet, four tokens cost a pass over one.
_FIRST_TRIAL = 16
_ROUNDS_PER_COST = 32
_NUM_TRIALS = 10
_TOKENS_PER_PASS = 4
_NO_TRIAL = 2.0**30  # Rounds until it.
# Tokens of a row that weigh as much as what is expected of the slowest row.
_TOKENS_OF_SLOWEST = 8


def measured_costs(
  alone_seconds: float,
  round_seconds: float,
  num_draft_tokens: int,
  draft_cost: float = 0.0,
) -> dict[str, float]:
  """Returns {"draft_cost", "round_cost"} of measured times, at least 0.

  Both are floats of Python: a numpy float has another type inside jit.

  Args:
    alone_seconds: of a pass of the teacher alone.
    round_seconds: of a round in which G tokens are drafted and judged.
    num_draft_tokens: G.
    draft_cost: of one drafted token, as known or estimated.
  """
  total = max(round_seconds / alone_seconds - 1, 0.0)
  draft_cost = min(draft_cost, total / num_draft_tokens)
  return {
    "draft_cost": float(draft_cost),
    "round_cost": float(total - draft_cost * num_draft_tokens),
  }


@dataclasses.dataclass(frozen=True)
class Adaptation:
  """What decides how long drafts are.

  num_draft_tokens: G, the most.
  draft_cost, round_cost, expected_acceptance, slowest_acceptance: see
    `speculative_decode`.
  """

  num_draft_tokens: int
  draft_cost: jax.Array | float
  round_cost: jax.Array | float
  expected_acceptance: jax.Array | float
  slowest_acceptance: jax.Array | float | None = None

  def starts_off(self, *, by_batch: bool, are_waiting: bool) -> jax.Array:
    """Returns whether no row drafts at first, bool []; arguments as of plan."""
    rate = self.expected_acceptance
    if by_batch and not are_waiting and self.slowest_acceptance is not None:
      rate = self.slowest_acceptance
    rate = jnp.reshape(jnp.float32(rate), 1)
    return self.best_length(rate, jnp.ones_like(rate))[0] == 0

  def best_length(self, rate: jax.Array, share: jax.Array) -> jax.Array:
    """Returns the draft length that emits the most per time.

    A row without a draft emits one token.

    Args:
      rate: float32 [B], the probability that a token is accepted.
      share: float32 [B], of the rows that would draft.

    Returns:
      int32 [B], in 0..G; the longest of equals.
    """
    most = self.num_draft_tokens
    lengths = jnp.arange(most + 1, dtype=jnp.float32)[None, :]
    accepted = jnp.cumsum(rate[:, None] ** lengths, axis=1) - 1
    costs = jnp.where(lengths > 0, self.round_cost, 0.0)
    costs += self.draft_cost * lengths
    speed = (1 + share[:, None] * accepted) / (1 + costs)
    shortening = jnp.argmax(speed[:, ::-1], axis=1).astype(jnp.int32)
    return most - shortening

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
    rounds = num_rounds.astype(jnp.float32)
    left = first[:, None] * later[None, :] - rounds[:, None]
    left = jnp.min(jnp.where(left < 0, _NO_TRIAL, left), axis=1)
    return jnp.minimum(left, _NO_TRIAL).astype(jnp.int32)


@struct.dataclass
class Plan:
  """What the next rounds do.

  lengths: int32 [B], in 0..G, how many tokens each row drafts in the next one.
  num_alone: int32 [], for how many rounds no row drafts, if none is done
    before; 0 where a row drafts.
  """

  lengths: jax.Array
  num_alone: jax.Array


def plan(
  state: structs.DecodeState,
  can_draft: jax.Array,
  adaptation: Adaptation,
  *,
  by_batch: bool,
  are_waiting: jax.Array,
) -> Plan:
  """Decides how many tokens each row drafts.

  A round takes as long for one row that drafts as for all, so the rows decide
  together where that changes no response; else each by itself, so that no row
  depends on those beside it.

  Args:
    state: what was generated so far.
    can_draft: bool [B], the rows that have a proposal.
    adaptation: what decides.
    by_batch: whether the rows decide together.
    are_waiting: bool [], whether prompts wait for a slot.
  """
  rate = _acceptance(
    state, adaptation, by_batch=by_batch, are_waiting=are_waiting
  )
  num_rounds = state.num_rounds
  # What is unread beyond one token a round is the prompt.
  num_unread = jnp.maximum(state.unread - num_rounds, 0)
  share = jnp.ones_like(rate)
  if by_batch:
    num_rounds, num_unread = (
      jnp.max(jnp.where(state.done, 0, x))[None]
      for x in (num_rounds, num_unread)
    )
    num_live = jnp.sum((~state.done).astype(jnp.float32))
    drafting = jnp.sum(can_draft.astype(jnp.float32))
    share = (drafting / jnp.maximum(num_live, 1))[None]

  # Off, whichever rows have a proposal: so it stays until the next trial, as
  # the rate changes with judged tokens and with rows that are done alone.
  is_off = adaptation.best_length(rate, jnp.ones_like(share)) == 0
  to_trial = adaptation.rounds_to_trial(num_rounds, num_unread)
  can_pay = adaptation.best_length(jnp.ones_like(rate), share) > 0
  is_tried = is_off & (to_trial == 0) & can_pay
  lengths = adaptation.best_length(rate, share)
  lengths = jnp.where(can_draft, jnp.where(is_tried, 1, lengths), 0)
  # A row that is done waits for nothing.
  rounds = jnp.where(is_off, to_trial, 0)
  rounds = jnp.min(jnp.where(state.done, int(_NO_TRIAL), rounds))
  return Plan(
    lengths, jnp.where(jnp.any(lengths > 0), 0, jnp.maximum(rounds, 1))
  )


def _acceptance(
  state: structs.DecodeState,
  adaptation: Adaptation,
  *,
  by_batch: bool,
  are_waiting: jax.Array,
) -> jax.Array:
  """Estimates how much is accepted, from all tokens that were judged so far.

  If no prompt waits for a slot, a batch ends with its slowest row, and it is
  the rate of that one that decides.

  Args:
    state: see plan; so are the others.
    adaptation: with what is expected.
    by_batch: for the batch as one.
    are_waiting: bool [].

  Returns:
    float32 [B], or [1] for the batch.
  """
  expected = adaptation.expected_acceptance
  accepted = (state.length - state.num_rounds).astype(jnp.float32)
  judged = accepted + state.interventions.count.astype(jnp.float32)
  rate = (accepted + expected) / (judged + 1)
  if not by_batch:
    return rate
  of_all = (jnp.sum(accepted) + expected) / (jnp.sum(judged) + 1)
  # Of many rows one looks slow by chance: the fewer of its tokens were judged,
  # the more counts what such a row had in other batches, or what this one has.
  usual = adaptation.slowest_acceptance
  usual = of_all if usual is None else usual
  weight = judged / (judged + _TOKENS_OF_SLOWEST)
  of_rows = weight * rate + (1 - weight) * usual
  slowest = jnp.min(jnp.where(state.done, 1, of_rows))
  return jnp.where(are_waiting, of_all, slowest)[None]
