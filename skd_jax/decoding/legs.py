"""Interventions under a budget: the teacher has N tokens, M times at most.

After a rejection the teacher generates a leg of N tokens itself, the rejected
position first; once a response has had M interventions, the student goes on
alone. N = 3, M = 1, the round's draft has G = 4:

  round 1   drafted  c d e f          c accepted, d rejected
            emitted  c T              leg_left = 2, count = 1
  round 2   drafted  g h i j          what the teacher draws there: g k . .
            emitted  g k              g by chance its own token; leg_left = 0
  round 3   drafted  l m n o          count = M: all accepted

Inside a leg the draft is a guess of what the teacher draws: it is kept as far
as it is right, so that a leg costs fewer rounds than tokens, and the tokens are
the teacher's for every G.
"""

import jax
import jax.numpy as jnp

from skd_jax import structs


def start(num_rows: int) -> structs.Interventions:
  """Returns the counts of B responses that have no token yet."""
  zeros = jnp.zeros(num_rows, jnp.int32)
  return structs.Interventions(count=zeros, leg_left=zeros)


def positions(before: structs.Interventions, num_tokens: int) -> jax.Array:
  """Returns which of the next n positions a leg still covers: bool [B, n]."""
  return jnp.arange(num_tokens)[None, :] < before.leg_left[:, None]


def judge_by_budget(
  accept: jax.Array,
  tokens: jax.Array,
  teacher_tokens: jax.Array | None,
  before: structs.Interventions,
  max_interventions: int | None,
) -> jax.Array:
  """Decides again where the budget is spent, or a leg goes on.

  What is said of a position is right if every token before it stays: no
  intervention can have begun in between.

  Args:
    accept: bool [B, G], by the acceptance rule.
    tokens: int32 [B, G], the draft.
    teacher_tokens: int32 [B, G], what the teacher draws at each position; None
      where legs have one token.
    before: [B], before the round.
    max_interventions: M; None: no limit.

  Returns:
    bool [B, G], which tokens stay.
  """
  if max_interventions is not None:
    accept |= (before.count >= max_interventions)[:, None]
  if teacher_tokens is None:
    return accept
  in_leg = positions(before, tokens.shape[1])
  return jnp.where(in_leg, tokens == teacher_tokens, accept)


def advance(
  before: structs.Interventions,
  num_tokens: jax.Array,
  intervened: jax.Array,
  leg_length: int,
) -> structs.Interventions:
  """Returns the counts after a round.

  Args:
    before: [B].
    num_tokens: int32 [B], emitted in the round.
    intervened: bool [B], whether its last token begins an intervention.
    leg_length: N.
  """
  return structs.Interventions(
    count=before.count + intervened.astype(jnp.int32),
    leg_left=jnp.where(
      intervened, leg_length - 1, jnp.maximum(before.leg_left - num_tokens, 0)
    ),
  )
