"""The table against an obvious search in the text."""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import decoders, models

from skd_jax.decoding import stopping


def run_table(table, tokens):
  """The number of tokens until DONE, that one included; None without."""
  state = jnp.zeros(1, jnp.int32)
  for count, token in enumerate(tokens, 1):
    state = stopping.advance(table, state, jnp.array([token]))
    if int(state[0]) == stopping.DONE:
      return count
  return None


def search_text(written, tokens, eos_ids, stop_strings):
  """The same by looking at the whole text after every token."""
  text = b""
  for count, token in enumerate(tokens, 1):
    text += written[token]
    if token in eos_ids or any(stop in text for stop in stop_strings):
      return count
  return None


@pytest.mark.parametrize("seed", range(6))
def test_random_tokenisations_stop_where_the_text_does(seed):
  rng = random.Random(seed)
  written = [b"", b"a", b"b", b"c"]
  written += [
    bytes(rng.choices(b"abc", k=rng.randint(2, 5))) for _ in range(20)
  ]
  stops = [
    bytes(rng.choices(b"abc", k=rng.randint(2, 7)))
    for _ in range(rng.randint(1, 5))
  ]
  table = stopping.make_stop_table(len(written), (0,), stops, written)
  ends = set()
  next_state = np.asarray(table.next_state)
  for _ in range(200):
    tokens = rng.choices(range(len(written)), k=12)
    state, count = 0, 0
    while state != stopping.DONE and count < len(tokens):
      state = next_state[state, tokens[count]]
      count += 1
    expected = search_text(written, tokens, (0,), stops)
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
    assert run_table(table, range(len(pieces))) == expected


def test_stop_string_inside_another_one_ends_first():
  stops = ["abcd", "bc"]
  table = stopping.make_stop_table(5, (), stops, ["a", "b", "c", "d", "abx"])
  assert run_table(table, [0, 1, 2, 3]) == 3
  assert run_table(table, [4, 1, 2]) == 3
  assert run_table(table, [4, 2, 3]) is None


def test_eos_ends_from_every_state_and_stays_ended():
  table = stopping.make_stop_table(4, (2, 3), ["ab"], ["a", "b", "ab?", ""])
  assert np.asarray(table.next_state)[:, [2, 3]].tolist() == [[-1, -1]] * 2
  state = jnp.array([0, 1, stopping.DONE])
  after = stopping.advance(table, state, jnp.array([3, 3, 0]))
  assert after.tolist() == [stopping.DONE] * 3


def test_tokens_that_write_nothing_do_not_interrupt_a_stop_string():
  table = stopping.make_stop_table(3, (), ["ab"], ["a", "b", ""])
  assert run_table(table, [0, 2, 2, 1]) == 4


def test_empty_stop_list_leaves_eos_alone():
  table = stopping.make_stop_table(5, (4,))
  assert table.next_state.tolist() == [[0, 0, 0, 0, stopping.DONE]]


def test_sequences_of_ids_are_the_default():
  table = stopping.make_stop_table(6, (5,), [(1, 2, 1), (3,)])
  assert run_table(table, [1, 2, 2, 1, 2, 1, 0]) == 6
  assert run_table(table, [1, 3]) == 2
  assert run_table(table, [2, 1, 2, 5]) == 4


def test_joined_tables_keep_the_stop_strings_of_each_task():
  written = ["a", "b", "c", "ab"]
  tables = [
    stopping.make_stop_table(4, (), stops, written)
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


def wrap(vocab, decoder):
  core = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True))
  core.decoder = decoder
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=core, eos_token="</s>"
  )
  return tokenizer


def test_sentencepiece_tokens_write_spaces_and_bytes():
  pieces = ["</s>", "▁Ja", "▁", "<0x0A>", "<0xC3>", "<0x9C>", "Q:", "<0xyz>"]
  vocab = {piece: i for i, piece in enumerate(pieces)}
  decoder = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  tokenizer = wrap(vocab, decoder)
  written = stopping.token_bytes(tokenizer, 10)
  expected = [b"", b" Ja", b" ", b"\n", b"\xc3", b"\x9c", b"Q:", b"<0xyz>"]
  assert written == [*expected, b"", b""]
  table = stopping.stop_table_for(tokenizer, 10, (0,), ["\nQ:", "Ü"])
  assert run_table(table, [1, 3, 9, 6]) == 4  # 9 is padding of the head.
  assert run_table(table, [4, 5]) == 2
  assert run_table(table, [4, 2, 5]) is None


def test_byte_level_tokens_write_what_they_decode_to(tmp_path):
  from skd_jax.data import tokenizer as tokenizer_lib

  texts = ["Größe: 3\n\nFrage: naïve 北京?", "the end of the story"] * 3
  tokenizer = tokenizer_lib.train_bpe(texts, 300, tmp_path)
  tokenizer.add_tokens(["é<think>"])
  size = len(tokenizer)
  written = stopping.token_bytes(tokenizer, size)
  assert written[:4] == [b""] * 4
  assert written[-1] == "é<think>".encode()
  ids = tokenizer("a\n\nFrage: 北京", add_special_tokens=False)["input_ids"]
  assert b"".join(written[i] for i in ids).decode() == " a\n\nFrage: 北京"
  table = stopping.stop_table_for(tokenizer, size, (2,), ["\n\nFrage", "北"])
  assert run_table(table, ids) == search_text(
    written, ids, (2,), [b"\n\nFrage", "北".encode()]
  )


def test_unknown_kind_of_tokenizer_is_an_error_unless_it_is_not_needed():
  tokenizer = wrap({"</s>": 0, "a": 1}, decoders.WordPiece())
  with pytest.raises(ValueError, match="WordPiece"):
    stopping.stop_table_for(tokenizer, 2, (0,), ["a"])
  table = stopping.stop_table_for(tokenizer, 2, (0,), [])
  assert table.next_state.tolist() == [[stopping.DONE, 0]]
