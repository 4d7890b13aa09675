"""Lossless speculative decoding: a drafter proposes, its teacher decides.

The loop is that of rollout.py, with two differences: the rule is lossless, so
that every token follows the teacher's distribution, and a draft that is
accepted as a whole is followed by one more token of the teacher's. G = 3:

  drafter proposes   c  d  e
  teacher reads   b  c  d  e      judges    c  d  e  and knows what follows e
  all accepted                    emitted   c  d  e  F

So a teacher pass emits 1 to G + 1 tokens. arXiv 2211.17192, 2302.01318. If no
row drafts, the teacher generates one token per row, as it does alone.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.decoding import loop, rollout, stopping, verification
from skd_jax.decoding.drafters import Drafter
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
    draft_cost: float32 [], the time to propose and judge one more token, in
      passes of the teacher alone. A row whose drafts are rejected too often to
      pay for that drafts fewer tokens, and at last none; with 0 every row
      always drafts G.

  Returns:
    Rollout [Q, T] without `teacher_hidden`; its source says which tokens were
    drafted.
  """

  def one_round(state):
    keys = row_keys[state.row]
    lengths = jnp.where(
      drafter.can_draft(state, batch) & ~state.done,
      _best_lengths(state, draft_cost, num_draft_tokens),
      0,
    )

    def drafted(state):
      proposal, state = drafter.propose(
        state, batch, keys, lengths, num_draft_tokens
      )
      verdict, state = _verify(drafter, teacher, state, proposal, lengths, keys)
      return loop.commit(state, verdict, stop_table)

    def alone(state):
      *others, cache = state.caches
      verdict, after = rollout.generate_token(
        teacher,
        dataclasses.replace(state, caches=(cache,)),
        keys,
        structs.TEACHER,
      )
      state = dataclasses.replace(state, caches=(*others, *after.caches))
      return loop.commit(state, verdict, stop_table)

    return _choose(jnp.any(lengths > 0), drafted, alone, state)

  policies = [p for p in (drafter.policy, teacher) if p is not None]
  return loop.run(
    tuple((policy.model, policy.params) for policy in policies),
    batch,
    stop_table,
    one_round,
    batch_size=batch_size,
    max_new_tokens=max_new_tokens,
    num_draft_tokens=num_draft_tokens,
    keep_teacher_hidden=False,
  )


def measured_draft_cost(
  alone_seconds: float, round_seconds: float, num_draft_tokens: int
) -> float:
  """Returns the `draft_cost` of measured times, at least 0.

  Args:
    alone_seconds: of a pass of the teacher alone.
    round_seconds: of a round in which G tokens are drafted and judged.
    num_draft_tokens: G.
  """
  return max(round_seconds / alone_seconds - 1, 0.0) / num_draft_tokens


def _best_lengths(
  state: structs.DecodeState,
  draft_cost: jax.Array | float,
  num_draft_tokens: int,
) -> jax.Array:
  """Returns how many tokens are worth drafting for each row, int32 [B].

  If a drafted token is accepted with probability a, a round with n of them
  emits 1 + a + ... + a^n tokens and costs 1 + c n (arXiv 2211.17192, theorem
  3.8). The best n in 0..G is taken; a is the row's own rate so far, with one
  more accepted token. Only a row's own draws decide, so rows stay independent.
  A row that has stopped drafting sees nothing new and does not start again.
  """
  accepted = (state.length - state.num_rounds).astype(jnp.float32) + 1
  rejected = state.interventions.count.astype(jnp.float32)
  rate = accepted / (accepted + rejected)
  # The longest come first, as the first of equals is taken.
  lengths = jnp.arange(num_draft_tokens, -1, -1, dtype=jnp.float32)[None, :]
  emitted = jnp.cumsum(rate[:, None] ** lengths[:, ::-1], axis=1)[:, ::-1]
  speed = emitted / (1 + draft_cost * lengths)
  return num_draft_tokens - jnp.argmax(speed, axis=1).astype(jnp.int32)


def _choose(
  which: jax.Array,
  if_true: _RoundFn,
  if_false: _RoundFn,
  state: structs.DecodeState,
) -> structs.DecodeState:
  """Returns what one of two functions makes of the state.

  They are loops of one turn or none, which work on the caches in place, where
  `jax.lax.cond` would copy them.
  """
  turns = which.astype(jnp.int32)
  state = jax.lax.fori_loop(0, turns, lambda _, s: if_true(s), state)
  return jax.lax.fori_loop(turns, 1, lambda _, s: if_false(s), state)


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
    drafter.rule,
  )
  before = state.interventions
  rejected = (verdict.num_tokens <= lengths).astype(jnp.int32)
  after = dataclasses.replace(before, count=before.count + rejected)
  return dataclasses.replace(verdict, interventions=after), state
