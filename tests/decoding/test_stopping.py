"""The table against an obvious search in the text."""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.decoding import stopping
from tests import reference
from tests.conftest import tokens_until_done


@pytest.mark.parametrize("seed", range(6))
def test_random_tokenisations_stop_where_the_text_does(seed):
  rng = random.Random(seed)
  token_bytes = [b"", b"a", b"b", b"c"]
  token_bytes += [
    bytes(rng.choices(b"abc", k=rng.randint(2, 5))) for _ in range(20)
  ]
  stops = [
    bytes(rng.choices(b"abc", k=rng.randint(2, 7)))
    for _ in range(rng.randint(1, 5))
  ]
  table = stopping.make_stop_table(len(token_bytes), (0,), stops, token_bytes)
  ends = set()
  next_state = np.asarray(table.next_state)
  for _ in range(200):
    tokens = rng.choices(range(len(token_bytes)), k=12)
    state, count = 0, 0
    while state != stopping.DONE and count < len(tokens):
      state = next_state[state, tokens[count]]
      count += 1
    expected = reference.tokens_until_stop(token_bytes, tokens, (0,), stops)
    assert (count if state == stopping.DONE else None) == expected
    ends.add(expected)
  assert len(ends) > 2  # The search was not trivial.


def test_one_text_cut_in_many_ways_stops_at_the_same_place():
  text, stop = b"xababacaby", b"abac"
  end = text.index(stop) + len(stop)
  rng = random.Random(0)
  for _ in range(100):
    cuts = sorted(rng.sample(range(1, len(text)), rng.randint(0, 6)))
    bounds = [0, *cuts, len(text)]
    pieces = [text[i:j] for i, j in itertools.pairwise(bounds)]
    table = stopping.make_stop_table(len(pieces), (), [stop], pieces)
    expected = sum(bound < end for bound in bounds)
    assert tokens_until_done(table, range(len(pieces))) == expected


def test_stop_string_inside_another_one_ends_first():
  stops = ["abcd", "bc"]
  table = stopping.make_stop_table(5, (), stops, ["a", "b", "c", "d", "abx"])
  assert tokens_until_done(table, [0, 1, 2, 3]) == 3
  assert tokens_until_done(table, [4, 1, 2]) == 3
  assert tokens_until_done(table, [4, 2, 3]) is None


def test_eos_ends_from_every_state_and_stays_ended():
  table = stopping.make_stop_table(4, (2, 3), ["ab"], ["a", "b", "ab?", ""])
  assert np.asarray(table.next_state)[:, [2, 3]].tolist() == [[-1, -1]] * 2
  state = jnp.array([0, 1, stopping.DONE])
  after = stopping.advance(table, state, jnp.array([3, 3, 0]))
  assert after.tolist() == [stopping.DONE] * 3


def test_tokens_without_text_do_not_interrupt_a_stop_string():
  table = stopping.make_stop_table(3, (), ["ab"], ["a", "b", ""])
  assert tokens_until_done(table, [0, 2, 2, 1]) == 4


def test_empty_stop_list_leaves_eos_alone():
  table = stopping.make_stop_table(5, (4,))
  assert table.next_state.tolist() == [[0, 0, 0, 0, stopping.DONE]]


def test_sequences_of_ids_are_the_default():
  table = stopping.make_stop_table(6, (5,), [(1, 2, 1), (3,)])
  assert tokens_until_done(table, [1, 2, 2, 1, 2, 1, 0]) == 6
  assert tokens_until_done(table, [1, 3]) == 2
  assert tokens_until_done(table, [2, 1, 2, 5]) == 4


def test_joined_tables_keep_the_stop_strings_of_each_task():
  token_text = ["a", "b", "c", "ab"]
  tables = [
    stopping.make_stop_table(4, (), stops, token_text)
    for stops in (["ab"], [], ["bc", "cab"])
  ]
  joined = stopping.join_stop_tables(tables)
  assert joined.start.shape == (3,)
  rng = random.Random(0)
  for _ in range(50):
    tokens = rng.choices(range(4), k=8)
    state = joined.start
    alone = [table.start for table in tables]
    for token in tokens:
      state = stopping.advance(joined, state, jnp.full(3, token))
      alone = [
        stopping.advance(table, of_task, jnp.array([token]))
        for table, of_task in zip(tables, alone, strict=True)
      ]
      done = [int(of_task[0]) == stopping.DONE for of_task in alone]
      assert (np.asarray(state) == stopping.DONE).tolist() == done
  # A table of one task stays as it is.
  same = stopping.join_stop_tables(tables[:1])
  np.testing.assert_array_equal(same.next_state, tables[0].next_state)


def test_rows_stop_one_by_one_inside_a_jitted_while_loop():
  table = stopping.make_stop_table(3, (2,), ["abab"], ["ab", "b", ""])
  tokens = jnp.array([[0, 0, 1, 1], [1, 0, 1, 1], [1, 2, 0, 0]])

  @jax.jit
  def lengths(table, tokens):
    def live(carry):
      step, state, _ = carry
      return (step < tokens.shape[1]) & jnp.any(state != stopping.DONE)

    def body(carry):
      step, state, length = carry
      length += state != stopping.DONE
      return step + 1, stopping.advance(table, state, tokens[:, step]), length

    zeros = jnp.zeros(tokens.shape[0], jnp.int32)
    return jax.lax.while_loop(live, body, (0, zeros, zeros))[2]

  assert lengths(table, tokens).tolist() == [2, 4, 2]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((4, (4,)), "eos_ids: 4"),
    ((4, (-1,)), "eos_ids: -1"),
    ((4, (), ["ab", ""]), r"stop_sequences\[1\] is empty"),
    ((4, (), ["ab"], ["a", "b"]), "2 entries: must be 4"),
  ],
)
def test_bad_arguments_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    stopping.make_stop_table(*arguments)
