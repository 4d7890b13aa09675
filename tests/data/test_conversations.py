"""Conversations, and what of them is learned under published chat templates.

The templates are those of the families, without tools' schemas and dates.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import decoders, pre_tokenizers

from skd_jax.data import conversations, sources, templates
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

LLAMA3 = (
  "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
  "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
  "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
  "{% if add_generation_prompt %}"
  "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
SMOLLM2 = (
  "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
  "{{ '<|im_start|>system\nYou are SmolLM.<|im_end|>\n' }}{% endif %}"
  "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
  "{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN25 = (
  "{%- if messages[0]['role'] != 'system' %}"
  "{{- '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{%- endif %}"
  "{%- for m in messages %}{%- if m.role == 'tool' %}"
  "{{- '<|im_start|>user\n<tool_response>\n' + m.content }}"
  "{{- '\n</tool_response><|im_end|>\n' }}"
  "{%- else %}{{- '<|im_start|>' + m.role }}"
  "{%- if m.content %}{{- '\n' + m.content }}{%- endif %}"
  "{%- for call in m.tool_calls %}{{- '\n<tool_call>\n' }}"
  "{{- call.function | tojson }}{{- '\n</tool_call>' }}{%- endfor %}"
  "{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
  "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
QWEN3 = (
  "{%- set ns = namespace(last=0) %}{%- for m in messages %}"
  "{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}"
  "{%- endfor %}{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
  "{%- if m.role == 'assistant' %}"
  "{%- if loop.index0 > ns.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
  "{{- m.content.split('</think>')[-1].lstrip('\n') }}"
  "{%- else %}{{- m.content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
  "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
  "{%- if enable_thinking is defined and enable_thinking is false %}"
  "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
GEMMA2 = (
  "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
  "{{ raise_exception('System role not supported') }}{% endif %}"
  "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0)"
  " %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
  "{% if m['role'] == 'assistant' %}{% set role = 'model' %}"
  "{% else %}{% set role = m['role'] %}{% endif %}"
  "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + "
  "'<end_of_turn>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
SPECIAL = [
  *("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"),
  *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer")
  tokenizer_lib.train_bpe(["One? Two. Three? Four."], 280, path)
  return path


@pytest.fixture
def tokenizer(folder):
  """One that writes text as it is, without a space in front."""
  found = tokenizer_lib.load_tokenizer(folder)
  backend = found.backend_tokenizer
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  found.add_tokens(SPECIAL, special_tokens=True)
  return found


def drawn(tokenizer, messages, turns="last"):
  """The whole text of each example, what is learned of it in brackets."""
  found = conversations.examples(messages, turns)
  pairs = tokenizer_lib.encode_examples(tokenizer, found, "{source}")
  texts = []
  for example, (prompt, response) in zip(found, pairs, strict=True):
    answer = {"role": "assistant", "content": example["target"]}
    (whole,) = templates.render(tokenizer, [[*example["messages"], answer]])
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    size = len(prompt) + len(response)
    assert ids[:size] == [*prompt, *response]
    parts = [tokenizer.decode(p) for p in (prompt, response, ids[size:])]
    assert "".join(parts) == whole
    texts.append("{}[{}]{}".format(*parts))
  return texts


@pytest.mark.parametrize(
  ("template", "expected"),
  [
    (
      LLAMA3,
      "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
      "<|start_header_id|>user<|end_header_id|>\n\nOne?<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\nTwo.<|eot_id|>"
      "<|start_header_id|>user<|end_header_id|>\n\nThree?<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n[Four.<|eot_id|>]",
    ),
    *(
      (
        template,
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nOne?<|im_end|>\n"
        "<|im_start|>assistant\nTwo.<|im_end|>\n"
        "<|im_start|>user\nThree?<|im_end|>\n"
        f"<|im_start|>assistant\n[{thoughts}Four.<|im_end|>]\n",
      )
      for template, thoughts in (
        (SMOLLM2, ""),
        (QWEN25, ""),
        (QWEN3, "<think>\n\n</think>\n\n"),
      )
    ),
  ],
  ids=["llama3", "smollm2", "qwen25", "qwen3"],
)
def test_last_turn_is_learned_and_all_before_it_is_the_prompt(
  tokenizer, template, expected
):
  tokenizer.chat_template = template
  assert drawn(tokenizer, CHAT) == [expected]


@pytest.mark.parametrize(
  "template", [LLAMA3, SMOLLM2, QWEN25, QWEN3, GEMMA2, None]
)
def test_every_turn_of_the_assistant_is_learned_once(tokenizer, template):
  if template:  # Else the one of our own tokenizers.
    tokenizer.chat_template = template
  chat = CHAT[1:] if template == GEMMA2 else CHAT
  first, second = drawn(tokenizer, chat, "all")
  assert second == drawn(tokenizer, chat)[0]
  assert first == drawn(tokenizer, chat[:-2])[0]
  learned = [
    text.partition("[")[2].partition("]")[0] for text in (first, second)
  ]
  assert "Two." in learned[0]
  assert "Four." in learned[1]
  for text in learned:
    assert not any(word in text for word in ("kind", "user", "?"))


def test_gemma_has_no_system_turn_and_wants_turns_that_alternate(tokenizer):
  tokenizer.chat_template = GEMMA2
  assert drawn(tokenizer, CHAT[1:]) == [
    "<s><start_of_turn>user\nOne?<end_of_turn>\n"
    "<start_of_turn>model\nTwo.<end_of_turn>\n"
    "<start_of_turn>user\nThree?<end_of_turn>\n"
    "<start_of_turn>model\n[Four.<end_of_turn>]\n"
  ]
  with pytest.raises(ValueError) as caught:
    drawn(tokenizer, CHAT)
  assert str(caught.value) == (
    "chat_template: refuses the turns ['system', 'user', 'assistant', 'user'] "
    "of example 0: System role not supported"
  )
  with pytest.raises(ValueError, match="roles must alternate"):
    drawn(tokenizer, [ASK, ASK, SAY])


def test_thoughts_that_are_switched_off_are_part_of_the_prompt(tokenizer):
  tokenizer.chat_template = QWEN3
  templates.set_arguments(tokenizer, {"enable_thinking": False})
  (text,) = drawn(tokenizer, CHAT)
  assert text.endswith("assistant\n<think>\n\n</think>\n\n[Four.<|im_end|>]\n")


def test_tools_and_their_calls_are_never_learned(tokenizer):
  tokenizer.chat_template = QWEN25
  expected = (
    "<|im_start|>system\nYou are Qwen.<|im_end|>\n"
    "<|im_start|>user\nOne?<|im_end|>\n"
    '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}'
    "\n</tool_call><|im_end|>\n"
    "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n[Two.<|im_end|>]\n"
  )
  assert drawn(tokenizer, TOOLS, "all") == [expected]
  # A template that knows no tools refuses them.
  tokenizer.chat_template = GEMMA2
  with pytest.raises(ValueError, match="refuses the turns"):
    drawn(tokenizer, TOOLS)


def test_template_that_leaves_the_system_turn_out_is_refused(tokenizer):
  tokenizer.chat_template = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}"
    "<sep>{% endif %}{% endfor %}"
  )
  assert drawn(tokenizer, CHAT[1:])
  with pytest.raises(ValueError, match="leaves out the system turn of example"):
    drawn(tokenizer, CHAT)


def test_conversation_without_a_template_is_refused(tokenizer):
  tokenizer.chat_template = None
  found = conversations.examples(CHAT, "last")
  with pytest.raises(ValueError, match="has none; example 0 is a conversation"):
    tokenizer_lib.encode_examples(tokenizer, found, "{source}")


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
