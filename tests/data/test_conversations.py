"""Conversations: examples of them, and what is none."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skd_jax.data import conversations, sources
from skd_jax.data import tokenizer as tokenizer_lib

SYSTEM, ASK, SAY, ASK_AGAIN, SAY_AGAIN = CHAT = [
  {"role": "system", "content": "Be kind."},
  {"role": "user", "content": "One?"},
  {"role": "assistant", "content": "Two."},
  {"role": "user", "content": "Three?"},
  {"role": "assistant", "content": "Four."},
]
CALL = {"name": "add", "arguments": {"a": 1}}
TOOLS = [
  ASK,
  {"role": "assistant", "content": None, "tool_calls": [{"function": CALL}]},
  {"role": "tool", "content": "3"},
  SAY,
]


@pytest.fixture
def tokenizer(tmp_path):
  return tokenizer_lib.train_bpe(["One? Two. Three? Four."], 280, tmp_path)


def encode(tokenizer, messages):
  found = conversations.examples(messages, "last")
  return tokenizer_lib.encode_examples(tokenizer, found, "{source}")


def test_template_of_our_own_tokenizers_ends_every_turn(tokenizer):
  ((prompt, response),) = encode(tokenizer, CHAT)
  assert tokenizer.decode(prompt) == (
    "Be kind.</s><s> One?<sep> Two.</s><s> Three?<sep>"
  )
  assert tokenizer.decode(response) == "Four.</s>"


def test_template_that_leaves_the_system_turn_out_is_refused(tokenizer):
  tokenizer.chat_template = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}"
    "<sep>{% endif %}{% endfor %}"
  )
  assert encode(tokenizer, CHAT[1:])
  with pytest.raises(ValueError, match="leaves out the system turn of example"):
    encode(tokenizer, CHAT)


def test_conversation_without_a_template_is_refused(tokenizer):
  tokenizer.chat_template = None
  with pytest.raises(ValueError, match="has none; example 0 is a conversation"):
    encode(tokenizer, CHAT)


def test_source_shows_the_turns_to_people():
  first, second = conversations.examples(CHAT[1:], "all")
  assert (first["source"], first["target"]) == ("One?", "Two.")
  assert second["source"] == "user: One?\n\nassistant: Two.\n\nuser: Three?"


def test_turns_of_weight_0_and_after_the_last_response_are_not_learned():
  chat = [ASK, SAY, ASK_AGAIN, SAY_AGAIN | {"weight": 0}, ASK]
  (only,) = conversations.examples(chat, "all")
  assert only["target"] == "Two."
  assert only["messages"] == [ASK]


def test_columns_that_are_null_are_left_out():
  chat = [turn | {"tool_calls": None, "name": None} for turn in CHAT]
  assert conversations.examples(chat, "all") == conversations.examples(
    CHAT, "all"
  )


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ({"messages": None}, "is None: must be a list of messages"),
    ({"chat": CHAT}, "is None: must be a list of messages"),
    ({"messages": []}, "has no turn of the assistant to learn"),
    ({"messages": CHAT[:2]}, "has no turn of the assistant to learn"),
    ({"messages": TOOLS[:3]}, "has no turn of the assistant to learn"),
    ({"messages": CHAT[2:]}, "begins with the assistant's turn"),
    ({"messages": [ASK, "x"]}, "message 2 is 'x': must have a role, one of s"),
    (
      {"messages": [{"role": "human", "content": "x"}]},
      r"message 1 is \{'role': 'human', 'content': 'x'\}: must have a role",
    ),
    (
      {"messages": [ASK, SAY | {"content": [{"text": "x"}]}]},
      r"message 2 has the content \[\{'text': 'x'\}\]: must be a text",
    ),
    (
      {"messages": [ASK, SAY | {"content": None}]},
      "message 2 has the content None",
    ),
  ],
)
def test_what_is_no_conversation_is_named_with_its_line(tmp_path, row, message):
  lines = [json.dumps({"messages": CHAT}), json.dumps(row)]
  (tmp_path / "train.jsonl").write_text("\n".join(lines))
  with pytest.raises(
    ValueError, match=rf"train\.jsonl, line 2, field 'messages': {message}"
  ):
    read(tmp_path)


def test_blank_answers_and_unused_tools_are_named(tmp_path):
  for row, message in (
    ({"messages": [ASK, SAY | {"content": " "}]}, "line 1: the target is bl"),
    ({"messages": CHAT, "tools": [CALL]}, "line 1: has 'tools', which no pro"),
  ):
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=message):
      read(tmp_path)


def read(folder, turns="last", field="messages"):
  return sources.load_examples(
    "messages", "train", dir=str(folder), source_field=field, turns=turns
  )


def test_conversations_of_lines_and_of_tables_are_the_same(tmp_path):
  rows = [{"chat": {"turns": CHAT}}, {"chat": {"turns": CHAT[1:3]}}]
  lines, table = tmp_path / "lines", tmp_path / "table"
  for folder in (lines, table):
    folder.mkdir()
  (lines / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
  pq.write_table(
    pa.Table.from_pylist(rows), table / "train-00000-of-00001.parquet"
  )
  found = read(lines, "all", "chat.turns")
  assert found == read(table, "all", "chat.turns")
  assert [e["target"] for e in found] == ["Two.", "Four.", "Two."]
