"""Any text, vocabulary, template and row is kept, or refused in one line."""

import json
import unicodedata

import hypothesis
import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models
from transformers.convert_slow_tokenizer import bytes_to_unicode

from skd_jax.data import conversations, sources, stop_strings, templates
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.decoding import stopping
from tests import reference
from tests.properties.outcome import outcome

SPECIAL = ["<pad>", "<s>", "</s>", "<sep>"]
SIZE = 100_000
LONG = st.sampled_from(["a", " ", "\n", "é", "e\u0301", "🙂", "a b "]).map(
  lambda text: (text * SIZE)[:SIZE]
)
SHORT = st.text() | st.lists(st.sampled_from([*SPECIAL, "a", " "])).map("".join)
TEXTS = st.integers(0, 20).flatmap(lambda n: SHORT if n else LONG)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  return tokenizer_lib.train_bpe(["a b é", "stop here"], 270, folder)


@pytest.fixture(scope="module")
def templated(tokenizer, tmp_path_factory):
  """The same, whose template is changed by the tests."""
  folder = tmp_path_factory.mktemp("templated")
  return tokenizer_lib.train_bpe(["a b é", "stop here"], 270, folder)


def _shown(text):
  """What is left of a text that went through our tokenizer."""
  for special in SPECIAL:
    text = text.replace(special, "")
  return text


# Tokens that begin and end anywhere, also inside a character.
PIECES = st.lists(st.sampled_from([*"ab", *"é🙂".encode()])).map(
  lambda parts: b"".join(
    part.encode() if isinstance(part, str) else bytes([part]) for part in parts
  )
)


@given(
  st.lists(PIECES | st.text(max_size=3).map(str.encode), min_size=1),
  st.lists(st.text("abé🙂", min_size=1, max_size=4), max_size=3),
  st.data(),
)
def test_responses_stop_where_the_text_does(pieces, stops, data):
  pieces = [b"", *pieces]
  stops = [stop.encode() for stop in stops]
  tokens = data.draw(st.lists(st.integers(0, len(pieces) - 1), max_size=12))
  table = stopping.make_stop_table(len(pieces), (0,), stops, pieces)
  # Not by `advance`, which compiles for each size of a table.
  next_state = np.asarray(table.next_state)
  state, count = 0, 0
  while state != stopping.DONE and count < len(tokens):
    state = next_state[state, tokens[count]]
    count += 1
  expected = reference.tokens_until_stop(pieces, tokens, (0,), stops)
  assert (count if state == stopping.DONE else None) == expected


@given(
  st.lists(st.binary(min_size=1, max_size=4), unique=True, min_size=1),
  st.data(),
)
def test_bytes_of_byte_level_tokens_are_what_they_decode_to(pieces, data):
  of_byte = bytes_to_unicode()
  vocab = {
    "".join(of_byte[byte] for byte in piece): token
    for token, piece in enumerate(pieces, 1)
  }
  tokenizer = _wrap({"</s>": 0} | vocab, decoders.ByteLevel())
  _assert_bytes_are_the_text(tokenizer, len(pieces), data)


@given(
  st.lists(
    st.text("ab▁é<0xA>", min_size=1, max_size=4)
    | st.integers(0, 255).map(lambda byte: f"<0x{byte:02X}>"),
    unique=True,
    min_size=1,
  ),
  st.data(),
)
def test_bytes_of_sentencepiece_tokens_are_what_they_decode_to(pieces, data):
  vocab = {piece: token for token, piece in enumerate(["</s>", *pieces])}
  steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
  tokenizer = _wrap(vocab, decoders.Sequence(steps))
  _assert_bytes_are_the_text(tokenizer, len(pieces), data)


def _wrap(vocab, decoder):
  core = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True))
  core.decoder = decoder
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=core, eos_token="</s>"
  )


def _assert_bytes_are_the_text(tokenizer, last, data):
  rows = last + data.draw(st.integers(1, 3))  # The head may be padded.
  found = stop_strings.token_bytes(tokenizer, rows)
  assert len(found) == rows
  ids = data.draw(st.lists(st.integers(1, last)))
  text = b"".join(found[token] for token in ids)
  try:
    expected = text.decode()
  except UnicodeDecodeError:
    return  # Programs differ in how they show it.
  assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == expected


@given(TEXTS, TEXTS, SHORT, SHORT)
@hypothesis.example(source="a", target="b </s> c", before="", end="")
def test_text_comes_back_or_is_refused(tokenizer, source, target, before, end):
  prompt = f"{before}{{source}}{end}"
  pairs, refusal = outcome(
    tokenizer_lib.encode_examples,
    tokenizer,
    [{"source": source, "target": target}],
    prompt,
  )
  if refusal:
    assert "goes on after '</s>'" in refusal
    assert target.partition("</s>")[2].strip()
    return
  ((ids, response),) = pairs
  (alone,) = tokenizer_lib.encode_prompts(tokenizer, [source], prompt)
  assert alone.tolist() == ids.tolist()
  whole = prompt.replace("{source}", source)
  found = tokenizer_lib.decode(tokenizer, [ids, response])
  for text, given_text in zip(found, (whole, target), strict=True):
    # One space before the first word of a stretch is of the tokenizer.
    expected = unicodedata.normalize("NFC", _shown(given_text))
    assert text.replace(" ", "") == expected.replace(" ", "")
  assert response[-1] == tokenizer.eos_token_id


NAMES = st.sampled_from(["x", "thinks", "ä", "messages", "a b", ""])


@given(NAMES, st.text() | st.booleans() | st.integers() | st.floats())
@hypothesis.example(name="x", value=float("nan"))
def test_template_arguments_are_what_the_template_reads(templated, name, value):
  shown = f"[{{{{ {name} }}}}]" if name.isidentifier() else ""
  templated.chat_template = shown + "{{ messages[0]['content'] }}"
  turns = [{"role": "user", "content": "Hallo"}]
  _, refusal = outcome(templates.set_arguments, templated, {name: value})
  if refusal:
    assert refusal.startswith("template_arguments")
    return
  assert templated.apply_chat_template(turns, tokenize=False) == (
    f"[{value}]Hallo"
  )


FRAGMENTS = (
  "{% for m in messages %}",
  "{{ m['content'] }}",
  "{% endfor %}",
  "{{ messages[0].content }}",
  "{{ messages[-1].content }}",
  "{% if add_generation_prompt %}",
  "{% endif %}",
  "<s>",
  "</s>",
  "a\n",
  "{{",
  "%}",
  "{{ 1 // 0 }}",
  "{{ ''.__class__.__mro__ }}",
  "{% for i in range(10**9) %}",
  "{{ x.y.z }}",
  "{{ {}['a'].b }}",
  "{{ messages + 1 }}",
  "{{ 5 | nofilter }}",
  "{{ raise_exception('no') }}",
  "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
)


def _encode(tokenizer):
  """What ends a response, and the ids of a prompt and its response."""
  ends = tokenizer_lib.eos_ids(tokenizer)
  example = {"source": "b é", "target": "stop here"}
  (pair,) = tokenizer_lib.encode_examples(tokenizer, [example], "{source}")
  return ends, *pair


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join))
def test_chat_template_is_used_or_refused_in_one_line(templated, template):
  templated.chat_template = template
  found, refusal = outcome(_encode, templated)
  if refusal:
    assert refusal.startswith("chat_template: ") or "no tokens" in refusal
    return
  ends, prompt, response = found
  assert len(prompt)
  assert response[-1] in ends
  (text,) = tokenizer_lib.decode(templated, [response])
  assert "stop here" in text


ODD = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
  ),
  max_leaves=6,
)
# With halves of characters, as JSON can spell them.
WILD = st.text(st.characters(), max_size=5)
ROWS = st.fixed_dictionaries(
  {"q": WILD | st.just("x") | ODD, "a": WILD | st.just("y")},
  optional={"other": ODD | WILD},
)
LINES = (
  st.builds(json.dumps, ROWS)
  | st.builds(json.dumps, ODD)
  | st.text(st.characters(codec="utf-8", exclude_characters="\n"))
  | st.sampled_from(["[" * 100_000, "1" * 5000, "{}", ""])
)
GOOD = json.dumps({"q": "x", "a": "y"})


def _example(line):
  """The example of a line, or None where it must be refused."""
  try:
    row = json.loads(line)
    json.dumps(row, ensure_ascii=False).encode()
  except (ValueError, RecursionError):
    return None
  if not isinstance(row, dict):
    return None
  texts = row.get("q"), row.get("a")
  if not all(isinstance(text, str) and text.strip() for text in texts):
    return None
  return dict(zip(("source", "target"), texts, strict=True))


@given(st.lists(st.just(GOOD) | LINES, max_size=6))
@hypothesis.example([GOOD, r'{"q": "\ud83d", "a": "y"}'])
@hypothesis.example([GOOD, "[" * 100_000])
@hypothesis.example([GOOD, '{"q": "x", "a": "y", "n": %s}' % ("1" * 5000)])
def test_row_is_used_or_refused_by_its_line(folder, lines):
  lines = [GOOD, *lines]
  path = folder / "dev.jsonl"
  path.write_bytes("".join(f"{line}\n" for line in lines).encode())
  expected = [_example(line.removesuffix("\r")) for line in lines]
  found, refusal = outcome(
    sources.load_examples,
    "jsonl",
    "dev",
    dir=str(folder),
    source_field="q",
    target_field="a",
  )
  if refusal:
    first = expected.index(None)
    assert refusal.startswith(f"{path}, line {first + 1}: ")
  else:
    assert found == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("rows")


TURN = st.fixed_dictionaries(
  {
    "role": st.sampled_from(conversations.ROLES) | ODD,
    "content": st.text() | ODD,
  },
  optional={"tool_calls": ODD, "weight": ODD, "name": ODD},
)


@given(st.lists(TURN, max_size=5) | ODD, st.sampled_from(conversations.TURNS))
def test_conversation_has_all_its_responses_or_is_refused(messages, turns):
  found, refusal = outcome(conversations.examples, messages, turns)
  if refusal:
    return
  responses = [
    turn["content"] or ""
    for turn in messages
    if turn["role"] == "assistant"
    and not turn.get("tool_calls")
    and (turn.get("weight") is None or turn["weight"] != 0)
  ]
  expected = responses if turns == "all" else responses[-1:]
  assert [example["target"] for example in found] == expected
