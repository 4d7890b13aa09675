"""The bytes of each token, and stop strings found in them."""

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models

from skd_jax.data import stop_strings
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.decoding import stopping
from tests import reference
from tests.conftest import tokens_until_done


def wrap(vocab, decoder):
  core = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True))
  core.decoder = decoder
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=core, eos_token="</s>"
  )


def make_table(token_bytes, eos_ids, stops):
  return stopping.make_stop_table(
    len(token_bytes), eos_ids, [stop.encode() for stop in stops], token_bytes
  )


def sentencepiece():
  pieces = ["</s>", "▁Ja", "▁", "<0x0A>", "<0xC3>", "<0x9C>", "Q:", "<0xyz>"]
  return wrap(
    {piece: i for i, piece in enumerate(pieces)},
    decoders.Sequence(
      [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    ),
  )


def test_sentencepiece_tokens_stand_for_spaces_and_bytes():
  found = stop_strings.token_bytes(sentencepiece(), 10)
  expected = [b"", b" Ja", b" ", b"\n", b"\xc3", b"\x9c", b"Q:", b"<0xyz>"]
  assert found == [*expected, b"", b""]
  table = make_table(found, (0,), ["\nQ:", "Ü"])
  # 9 is padding of the head.
  assert tokens_until_done(table, [1, 3, 9, 6]) == 4
  assert tokens_until_done(table, [4, 5]) == 2
  assert tokens_until_done(table, [4, 2, 5]) is None


def test_head_smaller_than_the_tokenizer_has_its_first_tokens():
  whole = stop_strings.token_bytes(sentencepiece(), 8)
  assert stop_strings.token_bytes(sentencepiece(), 3) == whole[:3]


def test_tokens_of_a_metaspace_decoder_stand_for_spaces():
  tokenizer = wrap({"</s>": 0, "▁a": 1, "b▁▁": 2}, decoders.Metaspace())
  assert stop_strings.token_bytes(tokenizer, 3) == [b"", b" a", b"b  "]


def test_byte_level_tokens_stand_for_what_they_decode_to(tmp_path):
  texts = ["Größe: 3\n\nFrage: naïve 北京?", "the end of the story"] * 3
  tokenizer = tokenizer_lib.train_bpe(texts, 300, tmp_path)
  tokenizer.add_tokens(["é<think>"])
  found = stop_strings.token_bytes(tokenizer, len(tokenizer))
  assert found[:4] == [b""] * 4
  assert found[-1] == "é<think>".encode()
  ids = tokenizer("a\n\nFrage: 北京", add_special_tokens=False)["input_ids"]
  assert b"".join(found[i] for i in ids).decode() == " a\n\nFrage: 北京"
  stops = ["\n\nFrage", "北"]
  assert tokens_until_done(
    make_table(found, (2,), stops), ids
  ) == reference.tokens_until_stop(
    found, ids, (2,), [stop.encode() for stop in stops]
  )


def test_unknown_kind_of_tokenizer_is_an_error():
  tokenizer = wrap({"</s>": 0, "a": 1}, decoders.WordPiece())
  with pytest.raises(ValueError, match="WordPiece"):
    stop_strings.token_bytes(tokenizer, 2)
