"""What a tree of drafts would bring at best, without building one.

The draft of a greedy student is a chain. A tree has at each place the student's
second choice as well, which its logits already tell, and the teacher judges all
of them in one pass. G = 3, T is what the teacher generates after them:

  chain    c  d  e        d is wrong                  emitted   c T
  tree     c  d  e        d is wrong, but d' right    emitted   c d' T
           c' d' e'

A bound: the pass over 2 G + 1 tokens is timed as if they were a chain, and
nothing is counted for moving the keys and values of d' to their place.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.draft_costs import PassCosts
from skd_jax import structs
from skd_jax.decoding.policy import Policy


def count_rounds(
  ranks: Sequence[int], num_draft_tokens: int, num_choices: int
) -> int:
  """Returns the rounds that one greedy response takes.

  Args:
    ranks: of each token of the response by the student: 0 is its first choice.
    num_draft_tokens: G.
    num_choices: 1 is a chain, 2 the tree above.
  """
  rounds = start = 0
  while start < len(ranks):
    draft = ranks[start : start + num_draft_tokens]
    accepted = len(list(itertools.takewhile(lambda rank: rank == 0, draft)))
    if accepted < len(draft) and draft[accepted] < num_choices:
      accepted += 1
    start += accepted + 1
    rounds += 1
  return rounds


def bound(
  student: Policy,
  batches: Sequence[structs.Batch],
  rollouts: Sequence[structs.Rollout],
  costs: PassCosts,
) -> float:
  """Predicts how many times as fast as alone the teacher is with a tree.

  Args:
    student: that drafts, greedily.
    batches: the prompts, of [B, P].
    rollouts: [B, T], what the greedy teacher generates from each.
    costs: of the passes.
  """
  rounds = [
    most_rounds(student, batch, rollout, costs.num_draft_tokens, 2)
    for batch, rollout in zip(batches, rollouts, strict=True)
  ]
  longest = [int(np.max(rollout.length)) for rollout in rollouts]
  return costs.of_tree.speedup(longest, rounds)


def most_rounds(
  student: Policy,
  batch: structs.Batch,
  rollout: structs.Rollout,
  num_draft_tokens: int,
  num_choices: int,
) -> int:
  """Returns the rounds of the row of a batch that needs most of them.

  Args:
    student: that drafts, greedily.
    batch: the prompts [B, P].
    rollout: [B, T], what a greedy teacher generates.
    num_draft_tokens: G.
    num_choices: as in count_rounds.
  """
  ranks = np.asarray(_ranks(student, batch, rollout.tokens))
  return max(
    count_rounds(row[:length], num_draft_tokens, num_choices)
    for row, length in zip(
      ranks.tolist(), np.asarray(rollout.length).tolist(), strict=True
    )
  )


@jax.jit
def _ranks(
  student: Policy, batch: structs.Batch, tokens: jax.Array
) -> jax.Array:
  """How many tokens the student finds likelier than each of [B, T]."""
  hidden = student.model.response_hidden(
    student.params, batch.prompt, batch.prompt_length, tokens
  )
  logits = student.logits(hidden)
  of_token = jnp.take_along_axis(logits, tokens[..., None], axis=-1)
  return jnp.sum(logits > of_token, axis=-1, dtype=jnp.int32)
