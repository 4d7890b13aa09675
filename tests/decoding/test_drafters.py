"""What a drafter proposes, and how drafts are counted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import structs
from skd_jax.decoding import draft_stats, loop
from skd_jax.decoding.drafters import PromptLookup, sequences
from tests import reference
from tests.conftest import make_batch

pytestmark = pytest.mark.usefixtures("strict")

G, T = 4, 9


def make_state(prompts, responses):
  """A state in which slot b holds row b of Q = B rows, in another order."""
  order = np.random.default_rng(0).permutation(len(prompts))
  batch = make_batch([prompts[i] for i in np.argsort(order)], 6)
  state = loop.init_state(
    (),
    batch,
    batch_size=len(prompts),
    max_new_tokens=T,
    num_draft_tokens=G,
    keep_teacher_hidden=False,
  )
  stale = [x + [1] * (T - len(x)) for x in responses]
  tokens = (
    jnp.zeros((len(prompts), T), jnp.int32)
    .at[order]
    .set(jnp.asarray(stale, jnp.int32))
  )
  return batch, dataclasses.replace(
    state,
    row=jnp.asarray(order, jnp.int32),
    prompt_length=jnp.asarray([len(x) for x in prompts], jnp.int32),
    length=jnp.asarray([len(x) for x in responses], jnp.int32),
    rollout=dataclasses.replace(state.rollout, tokens=tokens),
  )


@pytest.mark.parametrize("max_ngram", [1, 3])
def test_lookup_proposes_what_the_plain_search_finds(max_ngram):
  rng = np.random.default_rng(1)

  def text(least, most):
    return rng.integers(1, 4, rng.integers(least, most + 1)).tolist()

  prompts = [text(1, 6) for _ in range(200)]
  responses = [text(0, T) for _ in range(200)]
  batch, state = make_state(prompts, responses)
  lookup = PromptLookup(max_ngram)

  @jax.jit
  def propose(state, batch):
    lengths = jnp.full(len(prompts), G)
    proposal, _ = lookup.propose(state, batch, None, lengths, G)
    can_draft = lookup.can_draft(state, batch)
    return proposal.tokens, can_draft, sequences(state, batch)

  found, can_draft, tokens = propose(state, batch)
  for b, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
    text_so_far = prompt + response
    assert tokens[b, : len(text_so_far)].tolist() == text_so_far
    expected = reference.prompt_lookup(text_so_far, max_ngram, G)
    assert can_draft[b] == bool(expected)
    if expected:
      assert found[b].tolist() == expected
  assert 0 < np.sum(can_draft) < len(prompts)


def test_lookup_of_no_token_is_refused():
  with pytest.raises(ValueError, match="max_ngram = 0: must be at least 1"):
    PromptLookup(0)


def make_rollout(rows, num_rounds):
  """Rows of (token, source, draft), as the example of DraftStats."""
  size = max(map(len, rows))
  padded = np.array([[*row, *[(0, 0, 0)] * (size - len(row))] for row in rows])
  return structs.Rollout(
    tokens=padded[..., 0],
    length=np.array([len(row) for row in rows]),
    source=padded[..., 1].astype(np.int8),
    draft_tokens=padded[..., 2],
    stopped=np.zeros(len(rows), bool),
    num_rounds=np.array(num_rounds),
    teacher_hidden=None,
  )


def test_drafts_are_counted_by_place():
  kept, follows, replaced = (5, 0, 5), (5, 1, 5), (5, 1, 6)
  rows = [
    [kept, replaced, kept, kept, kept, follows, replaced],
    # One that drafted nothing at first, and one that ends within a draft.
    [follows, kept, kept],
    [],
  ]
  stats = draft_stats.count(make_rollout(rows, [3, 2, 0]), 3)
  # The first row has the most rounds: k R k k k f R, 6 judged.
  assert stats == draft_stats.DraftStats((4, 3, 1), (3, 2, 1), 6, 4, 10, 5)
  assert stats.expectations == pytest.approx(
    {"expected_acceptance": 6 / 8, "slowest_acceptance": 4 / 6}
  )
  assert stats.acceptance == pytest.approx(6 / 8)
  assert stats.acceptance_by_position == pytest.approx([3 / 4, 2 / 3, 1])
  assert stats.tokens_per_pass == 2
  twice = stats + stats
  assert twice == draft_stats.DraftStats((8, 6, 2), (6, 4, 2), 12, 8, 20, 10)
  assert draft_stats.DraftStats() + stats == stats
  assert draft_stats.DraftStats().acceptance == 0


def test_nothing_is_expected_where_nothing_was_judged():
  kept, follows = (5, 0, 5), (5, 1, 5)
  stats = draft_stats.count(make_rollout([[follows] * 3], [3]), 3)
  assert stats.expectations == {}
  # The slowest row drafted nothing: what is known is that of the others.
  stats = draft_stats.count(make_rollout([[follows] * 3, [kept]], [3, 1]), 3)
  assert set(stats.expectations.values()) == {1}
