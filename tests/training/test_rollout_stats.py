"""Counts of rollouts, against plain numpy."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import structs
from skd_jax.reporting import boards
from skd_jax.training import rollout_stats
from skd_jax.training.rollout_stats import RolloutStats

FIRSTS = [0, 1, 2, 4, 8, 16, 32, 64]  # The first position of each bucket.


def make_rollout(**fields):
  rows = len(fields["length"])
  defaults = {
    "tokens": np.zeros(np.shape(fields["source"]), np.int32),
    "stopped": np.ones(rows, bool),
    "num_rounds": np.ones(rows, np.int32),
    "teacher_hidden": None,
  }
  defaults["draft_tokens"] = defaults["tokens"]
  fields = {k: np.asarray(v) for k, v in fields.items()}
  return structs.Rollout(**defaults | fields)


def random_rollout(seed, rows=30, size=70):
  rng = np.random.default_rng(seed)
  source = rng.integers(0, 2, (rows, size)).astype(np.int8)
  # Some rows are references, all of them at once.
  is_reference = rng.random(rows) < 0.3
  source[is_reference] = structs.REFERENCE
  return make_rollout(
    tokens=rng.integers(0, 3, (rows, size)).astype(np.int32),
    draft_tokens=rng.integers(0, 3, (rows, size)).astype(np.int32),
    source=source,
    length=rng.integers(0, size + 1, rows).astype(np.int32),
    stopped=rng.random(rows) < 0.5,
    num_rounds=np.where(is_reference, 0, rng.integers(1, 9, rows)),
  )


def count_by_hand(rollout):
  """The counts, token by token."""
  counts = dict.fromkeys(
    ("rows", "emitted", "replaced", "changed", "repeated", "truncated"), 0
  )
  by_position = {
    name: dict.fromkeys(FIRSTS, 0) for name in ("emitted", "replaced", "length")
  }
  for row, length in enumerate(rollout.length):
    tokens = [
      t for t in range(length) if rollout.source[row, t] != structs.REFERENCE
    ]
    counts["rows"] += bool(tokens)
    counts["truncated"] += bool(tokens) and not rollout.stopped[row]
    for t in tokens:
      bucket = max(first for first in FIRSTS if first <= t)
      is_replaced = rollout.source[row, t] == structs.TEACHER
      counts["emitted"] += 1
      counts["replaced"] += is_replaced
      counts["changed"] += (
        rollout.tokens[row, t] != rollout.draft_tokens[row, t]
      )
      counts["repeated"] += any(
        np.array_equal(
          rollout.tokens[row, t - 3 : t + 1],
          rollout.tokens[row, t - 3 - p : t + 1 - p],
        )
        for p in range(1, min(16, t - 3) + 1)
      )
      by_position["emitted"][bucket] += 1
      by_position["replaced"][bucket] += is_replaced
    if tokens:
      by_position["length"][max(f for f in FIRSTS if f <= length)] += 1
  return counts | {"rounds": rollout.num_rounds.sum()}, by_position


def count(rollout):
  _, stats = rollout_stats.trim_and_count(jax.tree.map(jnp.asarray, rollout), 1)
  return stats


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_plain_numpy(seed):
  rollout = random_rollout(seed)
  stats = count(rollout)
  counts, by_position = count_by_hand(rollout)
  assert {name: getattr(stats, name) for name in counts} == counts
  for name, expected in by_position.items():
    of = "rows_by_length" if name == "length" else f"{name}_by_position"
    found = getattr(stats, of)
    assert found[: len(FIRSTS)] == tuple(expected.values())
    assert not any(found[len(FIRSTS) :])
  assert stats.replacement_by_position() == {
    first: by_position["replaced"][first] / emitted
    for first, emitted in by_position["emitted"].items()
    if emitted
  }


def test_counts_are_of_what_models_generated():
  rollout = make_rollout(
    source=np.array([[0, 1, 0, 0, 1], [2] * 5, [1, 0, 1, 1, 1]], np.int8),
    length=np.array([5, 3, 2], np.int32),
    # Of three replacements two are another token than the proposed one.
    draft_tokens=np.array([[0, 7, 0, 0, 0], [0] * 5, [8, 0, 9, 9, 9]]),
    stopped=np.array([False, True, True]),
    num_rounds=np.array([3, 0, 1], np.int32),
  )
  rest = (0,) * 13
  assert count(rollout) == RolloutStats(
    rows=2,
    emitted=7,
    replaced=3,
    changed=2,
    repeated=1,  # All tokens are the same: the fifth one of the first row.
    truncated=1,
    rounds=4,
    # Positions 0, 1, 2 and 3, and 4.
    emitted_by_position=(2, 2, 2, 1, *rest),
    replaced_by_position=(1, 1, 0, 1, *rest),
    # Lengths 2 and 5.
    rows_by_length=(0, 0, 1, 1, *rest),
  )


@pytest.mark.parametrize(
  ("tokens", "expected"),
  [
    ([5, 6, 5, 6, 5, 6, 7, 8], [5]),
    ([3] * 8, [4, 5, 6, 7]),
    (range(8), []),
    # Three tokens alike are not enough.
    ([1, 2, 3, 9, 1, 2, 3, 8], []),
    # Period 17 is too long; no token of these stands twice within 16.
    ([*range(17), *range(17)], []),
    ([*range(16), *range(16)], range(19, 32)),
  ],
)
def test_repeated_tokens_end_four_that_stand_before(tokens, expected):
  found = rollout_stats._repeats(jnp.asarray([list(tokens)]))
  assert np.flatnonzero(found[0]).tolist() == list(expected)


def test_references_alone_count_nothing():
  rollout = make_rollout(
    source=np.full((3, 4), structs.REFERENCE, np.int8),
    length=np.array([4, 2, 0], np.int32),
    stopped=np.zeros(3, bool),
    num_rounds=np.zeros(3, np.int32),
  )
  stats = count(rollout)
  assert stats == RolloutStats()
  assert stats.rates() == {}
  assert stats.replacement_by_position() == {}


def test_late_positions_are_in_the_last_bucket():
  size = 2**16
  rollout = make_rollout(
    source=np.zeros((1, size), np.int8), length=np.array([size], np.int32)
  )
  emitted = count(rollout).emitted_by_position
  assert emitted == (1, *(2**k for k in range(15)), size - 2**15)
  assert sum(emitted) == size


def test_sums_on_the_host_do_not_overflow():
  most = 2**31 - 1
  # As it comes from the device: int32, whose sum would wrap around.
  on_device = RolloutStats(
    **{name: np.int32(most) for name in vars(RolloutStats())}
    | dict.fromkeys(
      ("emitted_by_position", "replaced_by_position", "rows_by_length"),
      np.full(17, most, np.int32),
    )
  )
  total = RolloutStats()
  for _ in range(3):
    total = total + rollout_stats.to_host(on_device)
  assert total.emitted == total.rounds == 3 * most
  assert total.replaced_by_position == (3 * most,) * 17


def test_rates_need_a_judge_and_something_emitted():
  stats = RolloutStats(
    rows=4,
    emitted=50,
    replaced=10,
    changed=5,
    repeated=5,
    truncated=1,
    rounds=16,
  )
  assert stats.rates() == {
    "truncated": 0.25,
    "repeated": 0.1,
    "replacement_rate": 0.2,
    "changed_rate": 0.1,
    "accepted_per_round": 2.5,
  }
  alone = dataclasses.replace(stats, rounds=0)
  assert alone.rates() == {"truncated": 0.25, "repeated": 0.1}


def test_histograms_end_at_the_last_bucket_that_holds_something():
  rest = (0,) * 13
  stats = RolloutStats(
    rows=3,
    emitted=7,
    rounds=4,
    emitted_by_position=(2, 2, 2, 1, *rest),
    replaced_by_position=(1, 0, 1, 0, *rest),
    rows_by_length=(0, 0, 1, 2, *rest),
  )
  drawn = stats.histograms()
  assert drawn["response_length"] == boards.Histogram(
    (0, 1, 2, 4, 8), (0, 0, 1, 2)
  )
  # Of positions 0, 1, 2 and 3: half of each is as high as wide.
  assert drawn["replaced_by_position"] == boards.Histogram(
    (0, 1, 2, 4), (0.5, 0, 1.0)
  )
  alone = dataclasses.replace(stats, rounds=0)
  assert set(alone.histograms()) == {"response_length"}
  assert RolloutStats().histograms() == {}


def test_counts_of_an_earlier_version_are_read():
  plain = RolloutStats(rows=2).to_plain()
  del plain["rows_by_length"]
  assert RolloutStats.from_plain(plain) == RolloutStats(rows=2)


def test_counts_come_back_from_json():
  stats = count(random_rollout(0))
  plain = json.loads(json.dumps(stats.to_plain()))
  assert RolloutStats.from_plain(plain) == stats


@pytest.mark.parametrize(
  ("longest", "multiple", "width"),
  [(5, 4, 8), (4, 4, 4), (9, 8, 10), (0, 4, 4)],
)
def test_buffer_is_cut_to_a_multiple_of_the_longest(longest, multiple, width):
  source = np.zeros((2, 10), np.int8)
  rollout = make_rollout(
    source=source,
    length=np.array([longest, 0], np.int32),
    teacher_hidden=np.ones((2, 10, 3), np.float32),
  )
  top = structs.TeacherTop(*np.ones((3, 2, 10, 4), np.float32))
  rollout = dataclasses.replace(rollout, teacher_top=top)
  trimmed, _ = rollout_stats.trim_and_count(
    jax.tree.map(jnp.asarray, rollout), multiple
  )
  assert trimmed.tokens.shape == trimmed.source.shape == (2, width)
  assert trimmed.draft_tokens.shape == (2, width)
  assert trimmed.teacher_hidden.shape == (2, width, 3)
  assert trimmed.teacher_top.ids.shape == (2, width, 4)
