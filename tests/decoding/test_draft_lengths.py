"""Drafts are as long as pays; where none does, the drafter is tried seldom."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.decoding.draft_lengths import Adaptation, measured_costs, plan

pytestmark = pytest.mark.usefixtures("strict")

G = 4
NO_ROWS_WAIT = {"by_batch": True, "are_waiting": jnp.bool_(False)}


def make_state(accepted, rejected, alone=0, prompt_unread=0, done=False):
  """What `plan` reads of a state: counts of each row."""
  accepted, rejected, alone, prompt_unread, done = np.broadcast_arrays(
    *map(np.atleast_1d, (accepted, rejected, alone, prompt_unread, done))
  )
  num_rounds = rejected + alone
  return types.SimpleNamespace(
    length=jnp.asarray(accepted + num_rounds),
    num_rounds=jnp.asarray(num_rounds),
    interventions=types.SimpleNamespace(count=jnp.asarray(rejected)),
    unread=jnp.asarray(prompt_unread + alone),
    done=jnp.asarray(done),
  )


def test_cost_of_a_draft_is_what_a_round_takes_longer():
  costs = measured_costs(2.0, 5.0, 3, draft_cost=0.2)
  assert costs == pytest.approx({"draft_cost": 0.2, "round_cost": 0.9})
  # No more than what was measured.
  costs = measured_costs(2.0, 5.0, 3, draft_cost=0.7)
  assert costs == pytest.approx({"draft_cost": 0.5, "round_cost": 0.0})
  costs = measured_costs(2.0, 1.9, 3, draft_cost=0.2)
  assert costs == {"draft_cost": 0, "round_cost": 0}


def test_measured_costs_have_the_type_of_those_before_them():
  # Of times that are divided by numpy's integers.
  measured = np.float64([2.0, 5.0])
  for costs in (
    measured_costs(*measured, 3, draft_cost=0.2),
    measured_costs(*measured[::-1], 3, draft_cost=np.float64(0.2)),
  ):
    assert {type(cost) for cost in costs.values()} == {float}


def test_best_length_is_the_best_of_all_that_are_tried_out():
  rng = np.random.default_rng(0)
  found = set()
  for rate, share, draft_cost, round_cost in rng.uniform(size=(200, 4)):
    adaptation = Adaptation(G, 0.5 * draft_cost, round_cost, 1.0)
    length = adaptation.best_length(
      jnp.float32([rate]), jnp.float32([share])
    ).item()
    speeds = [
      (1 + share * sum(rate**i for i in range(1, n + 1)))
      / (1 + (n > 0) * round_cost + n * 0.5 * draft_cost)
      for n in range(G + 1)
    ]
    assert speeds[length] == pytest.approx(max(speeds), rel=1e-6)
    found.add(length)
  assert found == set(range(G + 1))


def test_trials_add_a_small_part_to_the_rounds_before():
  adaptation = Adaptation(G, 0.25, 0.75, 0.0)

  def left(num_rounds, num_unread):
    return adaptation.rounds_to_trial(
      jnp.int32(num_rounds), jnp.int32(num_unread)
    ).tolist()

  assert left([0, 31, 32, 33, 129], [0] * 5) == [32, 1, 0, 95, 383]
  # A prompt of 40 tokens is ten passes of the drafter.
  assert left([0], [40]) == [32 * (0.25 * 11 + 0.75)]
  # Where a trial costs nothing, it is not made at once either.
  assert Adaptation(G, 0.0, 0.0, 0.0).rounds_to_trial(
    jnp.int32([0]), jnp.int32([0])
  ).tolist() == [16]


@pytest.mark.parametrize("prompt_unread", [0, 12])
def test_rounds_alone_are_those_in_which_no_row_would_draft(prompt_unread):
  adaptation = Adaptation(G, 0.3, 0.4, 0.1)
  can_draft = jnp.ones(2, bool)

  def planned(alone):
    # One row is done, and counts for nothing.
    state = make_state(0, [3, 9], [alone, 0], prompt_unread, [False, True])
    return plan(state, can_draft, adaptation, **NO_ROWS_WAIT)

  for start in (0, 7, 100):
    skipped = int(planned(start).num_alone)
    assert skipped > 1
    for alone in range(start, start + skipped):
      assert not planned(alone).lengths.any()
    after = planned(start + skipped)
    assert after.lengths.tolist() == [1, 1]
    assert int(after.num_alone) == 0


def test_drafter_that_can_never_pay_is_not_tried():
  never = Adaptation(G, 1.5, 0.0, 1.0)
  assert never.starts_off(by_batch=True, are_waiting=False)
  state = make_state(0, 0, 48)  # Where it would be tried.
  found = plan(state, jnp.ones(1, bool), never, **NO_ROWS_WAIT)
  assert found.lengths.tolist() == [0]
  assert int(found.num_alone) >= 1


def test_rows_without_a_proposal_do_not_switch_a_drafter_off():
  adaptation = Adaptation(G, 0.0, 0.5, 1.0)
  assert not adaptation.starts_off(by_batch=True, are_waiting=False)
  found = plan(
    make_state([3, 3], 0), jnp.zeros(2, bool), adaptation, **NO_ROWS_WAIT
  )
  # The next round may have one.
  assert int(found.num_alone) == 1


@pytest.mark.parametrize(
  ("by_batch", "are_waiting", "drafts"),
  [(True, False, False), (True, True, True), (False, False, True)],
)
def test_usual_slowest_row_decides_first_where_a_batch_ends_with_it(
  by_batch, are_waiting, drafts
):
  # A draft of one token pays from 0.5 on.
  adaptation = Adaptation(1, 0.0, 0.5, 0.8, slowest_acceptance=0.4)
  assert drafts != adaptation.starts_off(
    by_batch=by_batch, are_waiting=are_waiting
  )
  found = plan(
    make_state([0, 0], 0),
    jnp.ones(2, bool),
    adaptation,
    by_batch=by_batch,
    are_waiting=jnp.bool_(are_waiting),
  )
  assert found.lengths.tolist() == [drafts, drafts]


def test_few_rejections_do_not_make_a_row_slower_than_the_usual_slowest():
  adaptation = Adaptation(G, 0.0, 0.5, 0.8, slowest_acceptance=0.7)

  def lengths(rejected):
    state = make_state([8, 9, 0], [1, 0, rejected])
    return plan(state, jnp.ones(3, bool), adaptation, **NO_ROWS_WAIT).lengths

  assert lengths(3).tolist() == [G] * 3
  # As many as are no chance: 8 tokens weigh as much as what is usual.
  assert lengths(24).tolist() == [0] * 3
