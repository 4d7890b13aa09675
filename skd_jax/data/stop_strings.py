"""Stop strings on the host: the bytes that each token stands for.

The search itself is decoding/stopping.py, which knows no tokenizer:

  token_bytes(tokenizer, V) -> make_stop_table(V, eos_ids, [b"\\n"], ...)
"""

import json
import re
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from skd_jax.data import tokenizer as tokenizer_lib


def _decoder_kinds(decoder: dict[str, Any] | None) -> set[str]:
  """Returns the names of the steps that turn tokens into text."""
  if decoder is None:
    return set()
  if decoder["type"] == "Sequence":
    return set().union(*map(_decoder_kinds, decoder["decoders"]))
  return {decoder["type"]}


def token_bytes(tokenizer: Any, vocab_size: int) -> list[bytes]:
  """Returns the UTF-8 bytes of each id; none for special and unused ids.

  A sentencepiece tokenizer drops the space before the first word of a text;
  here it counts.

  Args:
    tokenizer: A fast tokenizer: byte-level BPE, or sentencepiece (with or
      without byte tokens such as <0x0A>).
    vocab_size: V, which may be larger than the tokenizer.

  Raises:
    ValueError: The tokenizer is of neither kind.
  """
  description = json.loads(tokenizer.backend_tokenizer.to_str())
  kinds = _decoder_kinds(description["decoder"])
  byte_level = "ByteLevel" in kinds
  if not byte_level and not kinds & {"Metaspace", "Replace", "ByteFallback"}:
    raise ValueError(
      f"stop strings: the tokenizer decodes by {sorted(kinds)}; must be "
      "byte-level BPE or sentencepiece"
    )
  of_character = {char: byte for byte, char in bytes_to_unicode().items()}
  special = tokenizer_lib.special_ids(tokenizer)
  added = tokenizer.added_tokens_decoder
  pieces = [b""] * vocab_size
  for text, token in tokenizer.get_vocab().items():
    if token >= vocab_size or token in special:
      continue
    byte = re.fullmatch("<0x([0-9A-F]{2})>", text)
    if byte and not byte_level:
      pieces[token] = bytes.fromhex(byte[1])
    elif not byte_level:
      pieces[token] = text.replace("▁", " ").encode()  # U+2581 is a space.
    elif token in added or not all(c in of_character for c in text):
      pieces[token] = text.encode()
    else:
      pieces[token] = bytes([of_character[c] for c in text])
  return pieces
