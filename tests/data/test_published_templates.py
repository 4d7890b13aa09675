"""What is learned of a conversation, drawn for published chat templates."""

import importlib

import pytest

from configs import _paper
from skd_jax.data import conversations, stop_strings, templates
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.decoding import stopping
from tests.conftest import tokens_until_done
from tests.data import published

CHAT = [
  {"role": "system", "content": "Be kind."},
  {"role": "user", "content": "One?"},
  {"role": "assistant", "content": "Two."},
  {"role": "user", "content": "Three?"},
  {"role": "assistant", "content": "Four."},
]
CALL = {"name": "add", "arguments": {"a": 1}}
TOOLS = [
  *CHAT[:2],
  {"role": "assistant", "content": None, "tool_calls": [{"function": CALL}]},
  {"role": "tool", "content": "3"},
  CHAT[2],
]

LLAMA3 = [
  """\
<|begin_of_text|><|start_header_id|>system<|end_header_id|>

Be kind.<|eot_id|><|start_header_id|>user<|end_header_id|>

One?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

[Two.<|eot_id|>]""",
  """\
<|begin_of_text|><|start_header_id|>system<|end_header_id|>

Be kind.<|eot_id|><|start_header_id|>user<|end_header_id|>

One?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

Two.<|eot_id|><|start_header_id|>user<|end_header_id|>

Three?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

[Four.<|eot_id|>]""",
]
# Its system turn is there always, with a date that is not today's.
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
LLAMA3_1 = [text.replace("Be kind.", DATES + "Be kind.") for text in LLAMA3]
CHATML = [
  """\
<|im_start|>system
Be kind.<|im_end|>
<|im_start|>user
One?<|im_end|>
<|im_start|>assistant
[Two.<|im_end|>]
""",
  """\
<|im_start|>system
Be kind.<|im_end|>
<|im_start|>user
One?<|im_end|>
<|im_start|>assistant
Two.<|im_end|>
<|im_start|>user
Three?<|im_end|>
<|im_start|>assistant
[Four.<|im_end|>]
""",
]
# The last turn of the assistant has thoughts, an earlier one has none.
THOUGHTS = "<think>\n\n</think>\n\n"
QWEN3 = [text.replace("[", "[" + THOUGHTS) for text in CHATML]
GEMMA2 = [
  """\
<bos><start_of_turn>user
One?<end_of_turn>
<start_of_turn>model
[Two.<end_of_turn>]
""",
  """\
<bos><start_of_turn>user
One?<end_of_turn>
<start_of_turn>model
Two.<end_of_turn>
<start_of_turn>user
Three?<end_of_turn>
<start_of_turn>model
[Four.<end_of_turn>]
""",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer")
  tokenizer_lib.train_bpe(["One? Two. Three? Four."], 280, path)
  return path


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("llama3", LLAMA3),
    ("llama3_1", LLAMA3_1),
    ("qwen2", CHATML),
    ("qwen2_5", CHATML),
    ("qwen3", QWEN3),
    ("gemma2", GEMMA2),
    ("smollm2", CHATML),
  ],
)
def test_turns_of_the_assistant_are_learned_with_their_end_alone(
  folder, name, expected
):
  tokenizer = published.load(folder, name)
  chat = CHAT[1:] if name == "gemma2" else CHAT
  for turns, drawn in (("last", expected[1:]), ("all", expected)):
    found = conversations.examples(chat, turns)
    assert published.drawn(tokenizer, found) == drawn


def test_gemma_has_no_system_turn_and_wants_turns_that_alternate(folder):
  tokenizer = published.load(folder, "gemma2")
  with pytest.raises(ValueError) as caught:
    published.drawn(tokenizer, conversations.examples(CHAT, "last"))
  assert str(caught.value) == (
    "chat_template: refuses the turns ['system', 'user', 'assistant', 'user'] "
    "of example 0: System role not supported"
  )
  twice = [CHAT[1], CHAT[1], CHAT[2]]
  with pytest.raises(ValueError, match="roles must alternate"):
    published.drawn(tokenizer, conversations.examples(twice, "last"))


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    (
      "llama3_1",
      f"""\
<|begin_of_text|><|start_header_id|>system<|end_header_id|>

{DATES}Be kind.<|eot_id|><|start_header_id|>user<|end_header_id|>

One?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

{{"name": "add", "parameters": {{"a": 1}}}}<|eot_id|>\
<|start_header_id|>ipython<|end_header_id|>

"3"<|eot_id|><|start_header_id|>assistant<|end_header_id|>

[Two.<|eot_id|>]""",
    ),
    *(
      (
        name,
        f"""\
<|im_start|>system
Be kind.<|im_end|>
<|im_start|>user
One?<|im_end|>
<|im_start|>assistant
<tool_call>
{{"name": "add", "arguments": {{"a": 1}}}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
3
</tool_response><|im_end|>
<|im_start|>assistant
[{thoughts}Two.<|im_end|>]
""",
      )
      for name, thoughts in (("qwen2_5", ""), ("qwen3", THOUGHTS))
    ),
  ],
)
def test_tools_and_their_calls_are_never_learned(folder, name, expected):
  tokenizer = published.load(folder, name)
  for turns in conversations.TURNS:
    found = conversations.examples(TOOLS, turns)
    assert published.drawn(tokenizer, found) == [expected]


@pytest.mark.parametrize("name", ["llama3", "qwen2", "smollm2"])
def test_template_that_leaves_the_calls_of_tools_out_is_refused(folder, name):
  tokenizer = published.load(folder, name)
  found = conversations.examples(TOOLS, "last")
  with pytest.raises(
    ValueError, match="leaves out the tool calls of example 0"
  ):
    published.drawn(tokenizer, found)


# Whose template a pair has: that of its teacher.
TEMPLATES = {
  "google/gemma-7b-it": "gemma2",
  "google/gemma-2-9b-it": "gemma2",
  "Qwen/Qwen2-7B-Instruct": "qwen2",
  "Qwen/Qwen3-8B": "qwen3",
  "meta-llama/Llama-3.1-8B-Instruct": "llama3_1",
  "HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2",
}
HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
SMOLLM = (
  "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
  "Hugging Face<|im_end|>\n"
)
# The whole text of a question Q and an answer A, and what ends a response.
DRAWN = {
  "gemma2": (
    "<bos><start_of_turn>user\nQ<end_of_turn>\n"
    "<start_of_turn>model\n[A<end_of_turn>]\n",
    {"<eos>", "<end_of_turn>"},
  ),
  "qwen2": (
    HELPFUL + "<|im_start|>user\nQ<|im_end|>\n"
    "<|im_start|>assistant\n[A<|im_end|>]\n",
    {"<|im_end|>"},
  ),
  # Without thoughts, as the shipped configs have it.
  "qwen3": (
    "<|im_start|>user\nQ<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n[A<|im_end|>]\n",
    {"<|im_end|>"},
  ),
  "llama3_1": (
    f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{DATES}"
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[A<|eot_id|>]",
    {"<|eot_id|>"},
  ),
  "smollm2": (
    SMOLLM + "<|im_start|>user\nQ<|im_end|>\n"
    "<|im_start|>assistant\n[A<|im_end|>]\n",
    {"<|im_end|>"},
  ),
}
# What an answer is like, and what a student may generate after it.
LINE = ("Ein Haus.", "A house.", "\nNote")
WORKED = ("2 + 2?", "2 + 2 = <<2+2=4>>4\n#### 4", "\n\nQ: 3 + 3?")
SUMMARY = ("#A: Hi.\n#B: Hi.", "A and B greet.", "\nuser")
BOXED = ("2 + 2?", "The sum is 4.\n\nSo it is \\boxed{4}.", None)
TALK = ("One?", "Two.\n\nuser is a word.", None)


def test_every_shipped_teacher_has_its_template_here():
  teachers = {teacher for teacher, _, _ in _paper.PAIRS.values()}
  assert {*teachers, _paper.smollm2().teacher.checkpoint} == set(TEMPLATES)


@pytest.mark.parametrize(
  ("file", "variant", "case"),
  [
    *(
      ("wmt", variant, LINE)
      for variant in ("gemma", "gemma2", "qwen", "qwen3", "llama")
    ),
    *(("gsm8k", variant, WORKED) for variant in ("smollm2", "gemma", "qwen")),
    *(
      ("summarization", variant, SUMMARY)
      for variant in ("dialogsum", "dialogsum_smollm2", "samsum", "xsum")
    ),
    *(("instructions", variant, TALK) for variant in ("smollm2", "qwen3")),
    *(("math", variant, BOXED) for variant in ("qwen", "gemma")),
  ],
)
def test_shipped_pair_learns_the_answer_and_ends_with_it(
  folder, file, variant, case
):
  config = importlib.import_module(f"configs.{file}").get_config(variant)
  source, target, more = case
  name = TEMPLATES[config.teacher.checkpoint]
  tokenizer = published.load(folder, name)
  templates.set_arguments(tokenizer, config.tokenizer.template_arguments)
  templates.check_dateless(tokenizer)
  example = {"source": source, "target": target}
  whole, ends = DRAWN[name]
  question = config.data.prompt.replace("{source}", source)
  assert published.drawn(tokenizer, [example], config.data.prompt) == [
    whole.replace("Q", question, 1).replace("[A", f"[{target}")
  ]
  eos_ids = tokenizer_lib.eos_ids(tokenizer)
  assert set(tokenizer.convert_ids_to_tokens(eos_ids)) == ends

  stops = config.data.stop_strings
  token_bytes = stop_strings.token_bytes(tokenizer, len(tokenizer))
  table = stopping.make_stop_table(
    len(tokenizer), eos_ids, [stop.encode() for stop in stops], token_bytes
  )
  ((_, response),) = tokenizer_lib.encode_examples(
    tokenizer, [example], config.data.prompt
  )
  words = tokenizer(target, add_special_tokens=False)["input_ids"]
  assert response.tolist()[:-1] == words
  assert response[-1] in eos_ids
  # The answer is generated whole: nothing in it ends a response before EOS.
  assert tokens_until_done(table, response) == len(response)
  assert bool(stops) == bool(more)
  for stop in stops:
    assert stop not in target
    on = tokenizer(target + more, add_special_tokens=False)["input_ids"]
    size = tokens_until_done(table, on)
    assert tokenizer.decode(on[:size]) == target + stop
