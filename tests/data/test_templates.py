"""Arguments of chat templates, and templates that write the date."""

import signal

import pytest

from skd_jax.data import tasks, templates
from skd_jax.data import tokenizer as tokenizer_lib
from tests.data import published
from tests.data.test_tasks import settings

EXAMPLE = {"source": "Hallo", "target": "Hello there"}
QWEN3 = published.template("qwen3")
# How Llama 3.2's begins.
LLAMA32 = r"""{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string + "\n" }}
{%- for m in messages %}{{ m['content'] }}<sep>{%- endfor %}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer")
  tokenizer_lib.train_bpe(["Hallo", "Hello there"], 280, path)
  return path


@pytest.fixture
def tokenizer(folder):
  return tokenizer_lib.load_tokenizer(folder)


@pytest.fixture
def qwen3(tokenizer):
  tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
  tokenizer.add_tokens(["<think>", "</think>"])
  tokenizer.chat_template = QWEN3
  return tokenizer


def rendered(tokenizer):
  """The texts of a prompt and of the response that follows it."""
  (pair,) = tokenizer_lib.encode_examples(tokenizer, [EXAMPLE], "{source}")
  # Our BPE puts a space before what follows an added token.
  return [tokenizer.decode(ids).strip(" ").replace("> ", ">") for ids in pair]


def test_thoughts_of_qwen3_are_in_the_prompt_if_it_is_not_to_think(qwen3):
  prompt, response = rendered(qwen3)
  assert prompt.endswith("<|im_start|>assistant\n")
  assert response == "<think>\n\n</think>\n\nHello there<|im_end|>"
  templates.set_arguments(qwen3, {"enable_thinking": False})
  prompt, response = rendered(qwen3)
  assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
  assert response == "Hello there<|im_end|>"
  assert tokenizer_lib.eos_ids(qwen3) == (
    2,
    qwen3.convert_tokens_to_ids("<|im_end|>"),
  )


def test_line_feed_as_stop_string_of_qwen3_needs_the_argument(qwen3, tmp_path):
  for split in ("train", "dev", "test"):
    (tmp_path / f"{split}.jsonl").write_text('{"q": "Hallo", "a": "Hello"}\n')
  task = settings(tmp_path, prompt="{source}", stop_strings=("\n",))

  def make_task_set():
    return tasks.make_task_set(
      {"data": task},
      {"data": tasks.load_split("data", task, "train")},
      qwen3,
      vocab_size=tokenizer_lib.num_ids(qwen3),
      eos_ids=tokenizer_lib.eos_ids(qwen3),
      mixing_temperature=1.0,
    )

  with pytest.raises(ValueError, match="must occur in no reference") as caught:
    make_task_set()
  message = str(caught.value)
  assert message.startswith(r"data.stop_strings has '\n', at which the refer")
  assert "would end as '<think>'" in message
  assert "tokenizer.template_arguments = {'enable_thinking': False}" in message
  assert "\n" not in message
  templates.set_arguments(qwen3, {"enable_thinking": False})
  task_set = make_task_set()
  (only,) = task_set.tasks
  assert task_set.texts(only, only.test.responses) == ["Hello"]


def test_export_has_the_arguments_as_defaults(qwen3, tmp_path):
  templates.set_arguments(qwen3, {"enable_thinking": False})
  qwen3.save_pretrained(tmp_path)
  again = tokenizer_lib.load_tokenizer(tmp_path)
  assert rendered(again) == rendered(qwen3)
  # The last word is that of the caller, then of the newest default.
  chat = [{"role": "user", "content": "Hallo"}]
  options = {"tokenize": False, "add_generation_prompt": True}
  thinks = again.apply_chat_template(chat, enable_thinking=True, **options)
  assert thinks.endswith("assistant\n")
  templates.set_arguments(again, {"enable_thinking": True})
  assert again.apply_chat_template(chat, **options) == thinks


@pytest.mark.parametrize(
  "value", ['it\'s {%} "x" \\ \n é 🙂 {{ 1 }}', True, None, -3, 1e-05]
)
def test_argument_is_what_the_template_reads(tokenizer, value):
  shown = "{{ x.__class__ if x is none else x }}"
  tokenizer.chat_template = f"\n  <s>{shown}{{{{ x is none }}}}"
  chat = [{"role": "user", "content": "Hallo"}]
  expected = tokenizer.apply_chat_template(chat, tokenize=False, x=value)
  templates.set_arguments(tokenizer, {"x": value})
  assert tokenizer.apply_chat_template(chat, tokenize=False) == expected
  assert expected.startswith("\n  <s>")


def test_default_of_several_templates_has_the_arguments(tokenizer):
  tokenizer.chat_template = {"default": "{{ x }}", "rag": "{{ x }}"}
  templates.set_arguments(tokenizer, {"x": "y"})
  chat = [{"role": "user", "content": "Hallo"}]
  assert tokenizer.apply_chat_template(chat, tokenize=False) == "y"
  assert tokenizer.chat_template["rag"] == "{{ x }}"


@pytest.mark.parametrize("template", [QWEN3, None])
def test_argument_that_no_template_reads_is_refused(tokenizer, template):
  tokenizer.chat_template = template
  with pytest.raises(ValueError, match="has 'thinking': the chat template of"):
    templates.set_arguments(tokenizer, {"thinking": False})


@pytest.mark.parametrize(
  ("template", "reason"),
  [
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "is unsafe"),
    ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ("{{ 1 // 0 }}", "division"),
    ("{{", "unexpected"),
  ],
)
def test_template_that_fails_is_one_line(tokenizer, template, reason):
  tokenizer.chat_template = template
  for function, arguments in (
    (tokenizer_lib.eos_ids, ()),
    (tokenizer_lib.encode_prompts, (["Hallo"], "{source}")),
  ):
    with pytest.raises(ValueError, match=r"^chat_template: refuses ") as caught:
      function(tokenizer, *arguments)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_template_that_loops_on_is_ended_by_an_interrupt(tokenizer):
  loop = "{% for i in range(99999) %}"
  tokenizer.chat_template = loop * 3 + "{% endfor %}" * 3

  def interrupt(*_):
    raise KeyboardInterrupt

  before = signal.signal(signal.SIGALRM, interrupt)
  signal.setitimer(signal.ITIMER_REAL, 0.2)
  try:
    with pytest.raises(KeyboardInterrupt):
      tokenizer_lib.encode_prompts(tokenizer, ["Hallo"], "{source}")
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"messages": "x"}, "template_arguments has 'messages': must be a name"),
    ({"a b": "x"}, "template_arguments has 'a b': must be a name"),
    ({"x": [1]}, r"template_arguments\.x = \[1\]: must be a text, a number"),
    (
      {"x": float("nan")},
      r"template_arguments\.x = nan: must be a text, a num",
    ),
  ],
)
def test_bad_argument_is_named(arguments, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    templates.check_arguments(arguments)


def test_date_of_today_is_refused_unless_it_is_given(tokenizer):
  templates.check_dateless(tokenizer)
  tokenizer.chat_template = LLAMA32
  with pytest.raises(ValueError, match="writes that of today") as caught:
    templates.check_dateless(tokenizer)
  assert str(caught.value).startswith("template_arguments: must have the date")
  assert "'date_string'" in str(caught.value)
  templates.set_arguments(tokenizer, {"date_string": "26 Jul 2024"})
  templates.check_dateless(tokenizer)
  prompt, _ = rendered(tokenizer)
  assert prompt.startswith("Today Date: 26 Jul 2024\n")


def test_template_with_arguments_is_from_the_one_without(qwen3):
  templates.set_arguments(qwen3, {"enable_thinking": False})
  assert templates.is_from(qwen3.chat_template, QWEN3)
  assert not templates.is_from(QWEN3, qwen3.chat_template)
  assert templates.is_from(None, None)
  assert not templates.is_from(QWEN3, None)
