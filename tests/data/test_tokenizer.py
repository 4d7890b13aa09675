"""Text to ids and back, with chat templates of several habits."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, processors

from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.reporting import manifest
from tests import damage

TEXTS = [
  "Zwei junge Männer sind im Freien in der Nähe vieler Büsche.",
  "Two young men are outside near many bushes.",
  "A man in a blue shirt is standing on a ladder cleaning a window.",
] * 5

QWEN = (
  "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind."
  "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
  "{{ m['content'] }}<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
  "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
  "{{ raise_exception('System role not supported') }}{% endif %}"
  "{% for m in messages %}<|im_start|>"
  "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
  "{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
NO_END = "{% for m in messages %}{{ m['content'] }}<sep>\n{% endfor %}"
NO_TURN = (
  "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer")
  tokenizer_lib.train_bpe(TEXTS, 360, path)
  return path


@pytest.fixture
def tokenizer(folder):
  return tokenizer_lib.load_tokenizer(folder)


@pytest.fixture
def chat_tokenizer(tokenizer):
  tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
  tokenizer.chat_template = QWEN
  return tokenizer


def text_of(tokenizer, ids):
  return tokenizer.decode(np.asarray(ids).tolist())


def test_special_tokens_have_the_first_ids(tokenizer):
  ids = tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>", "<sep>"])
  assert ids == [0, 1, 2, 3]
  assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
  assert len(tokenizer) == 360


@pytest.mark.parametrize(
  "text",
  ["A man.", "naïve  façade\n\n北京 🙂", 'Ça m² ﬁn {x} \\ "y" \' .', "!"],
)
def test_text_comes_back_from_its_ids(tokenizer, text):
  (pair,) = tokenizer_lib.encode_examples(
    tokenizer, [{"source": text, "target": text}], "{source}"
  )
  assert tokenizer_lib.decode(tokenizer, pair) == [text, text]
  assert [ids.dtype for ids in pair] == [np.int32, np.int32]


def test_text_is_put_in_composed_form(tokenizer):
  ids = tokenizer_lib.encode_prompts(
    tokenizer, ["Ma\u0308nner", "M\u00e4nner"], "{source}"
  )
  assert ids[0].tolist() == ids[1].tolist()


@pytest.mark.slow
def test_training_again_gives_the_same_files(folder, tmp_path):
  code = (
    "import json, sys; from skd_jax.data import tokenizer;"
    "tokenizer.train_bpe(json.load(sys.stdin), 360, sys.argv[1])"
  )
  subprocess.run(
    [sys.executable, "-c", code, tmp_path],
    input=json.dumps(TEXTS).encode(),
    check=True,
    env={"PYTHONHASHSEED": "7", "PYTHONPATH": "."},
  )
  for path in folder.iterdir():
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_vocabulary_without_room_for_bytes_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=r"vocab_size = 259.* at least 260"):
    tokenizer_lib.train_bpe(TEXTS, 259, tmp_path)


def test_own_template_wraps_both_sides(tokenizer):
  example = {"source": "A man", "target": "Two men"}
  ((prompt, response),) = tokenizer_lib.encode_examples(
    tokenizer, [example], "say {source}"
  )
  assert (prompt[0], prompt[-1], response[-1]) == (1, 3, 2)
  assert tokenizer_lib.decode(tokenizer, [prompt]) == ["say A man"]
  (alone,) = tokenizer_lib.encode_prompts(tokenizer, ["A man"], "say {source}")
  assert alone.tolist() == prompt.tolist()


def test_chat_template_is_tokenised_without_second_bos(chat_tokenizer):
  chat_tokenizer.chat_template = GEMMA
  start = processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
  )
  chat_tokenizer.backend_tokenizer.post_processor = start
  (prompt,) = tokenizer_lib.encode_prompts(chat_tokenizer, ["A"], "{source}")
  assert prompt.tolist().count(1) == 1
  assert 2 not in prompt


@pytest.mark.parametrize("template", [QWEN, GEMMA])
def test_response_ends_with_the_turn_and_nothing_after_it(
  chat_tokenizer, template
):
  chat_tokenizer.chat_template = template
  end = chat_tokenizer.convert_tokens_to_ids("<|im_end|>")
  example = {"source": "A man", "target": "Two men"}
  ((prompt, response),) = tokenizer_lib.encode_examples(
    chat_tokenizer, [example], "{source}"
  )
  assert response[-1] == end
  assert response.tolist().count(end) == 1
  assert text_of(chat_tokenizer, prompt).count("<|im_end|>") >= 1
  assert tokenizer_lib.decode(chat_tokenizer, [response]) == ["Two men"]
  assert tokenizer_lib.eos_ids(chat_tokenizer) == (2, end)


def test_template_that_trims_loses_nothing_else(chat_tokenizer):
  chat_tokenizer.chat_template = GEMMA
  example = {"source": " A man \n", "target": "  Two men\n"}
  ((prompt, response),) = tokenizer_lib.encode_examples(
    chat_tokenizer, [example], "{source}"
  )
  assert tokenizer_lib.decode(chat_tokenizer, [response]) == ["Two men"]
  assert " user\nA man<|im_end|>" in text_of(chat_tokenizer, prompt)


def test_token_across_the_end_of_the_prompt_does_not_change_the_prompt(
  chat_tokenizer,
):
  # Without a mark between the turns, "stand" and "ing" merge.
  chat_tokenizer.chat_template = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
  )
  example = {"source": "I stand", "target": "ing on"}
  assert len(chat_tokenizer("standing")["input_ids"]) < len(
    chat_tokenizer("stand")["input_ids"] + chat_tokenizer("ing")["input_ids"]
  )
  ((prompt, response),) = tokenizer_lib.encode_examples(
    chat_tokenizer, [example], "{source}"
  )
  (alone,) = tokenizer_lib.encode_prompts(
    chat_tokenizer, ["I stand"], "{source}"
  )
  assert prompt.tolist() == alone.tolist()
  decoded = tokenizer_lib.decode(chat_tokenizer, [prompt, response])
  assert decoded == ["I stand", "ing on"]


def test_template_without_end_of_turn_gets_eos(tokenizer):
  tokenizer.chat_template = NO_TURN
  ((_, response),) = tokenizer_lib.encode_examples(
    tokenizer, [{"source": "A man", "target": "Two"}], "{source}"
  )
  assert tokenizer_lib.decode(tokenizer, [response]) == ["assistant: Two "]
  assert response[-1] == tokenizer.eos_token_id
  assert tokenizer_lib.eos_ids(tokenizer) == (2,)


def test_template_that_does_not_continue_its_prompt_is_an_error(tokenizer):
  tokenizer.chat_template = (
    NO_TURN + "{% if add_generation_prompt %}think: {% endif %}"
  )
  example = {"source": "A man", "target": "Two"}
  with pytest.raises(ValueError, match="does not continue"):
    tokenizer_lib.encode_examples(tokenizer, [example], "{source}")


def test_template_that_leaves_out_the_answer_is_an_error(tokenizer):
  tokenizer.chat_template = "<s>{{ messages[0]['content'] }}<sep>"
  example = {"source": "A man", "target": "Two"}
  for function, arguments in (
    (tokenizer_lib.eos_ids, ()),
    (tokenizer_lib.encode_examples, ([example], "{source}")),
  ):
    with pytest.raises(ValueError, match="leaves out the turn of the assist"):
      function(tokenizer, *arguments)


@pytest.mark.parametrize("template", [QWEN, None])
def test_target_that_its_end_would_cut_is_named(chat_tokenizer, template):
  chat_tokenizer.chat_template = template

  def encode(target):
    examples = [{"source": "A", "target": text} for text in ("Two", target)]
    return tokenizer_lib.encode_examples(chat_tokenizer, examples, "{source}")

  with pytest.raises(ValueError, match=r"^example 1: its target goes on"):
    encode("Two </s> men")
  _, (_, response) = encode("Two men</s>\n")  # Nothing is lost.
  assert tokenizer_lib.decode(chat_tokenizer, [response]) == ["Two men"]


def test_separator_as_end_of_turn_ends_responses(tokenizer):
  tokenizer.chat_template = NO_END
  ((_, response),) = tokenizer_lib.encode_examples(
    tokenizer, [{"source": "A man", "target": "Two"}], "{source}"
  )
  assert response[-1] == 3
  assert tokenizer_lib.eos_ids(tokenizer) == (2, 3)


def test_no_template_means_bos_prompt_and_response_with_eos(tokenizer):
  tokenizer.chat_template = None
  both = processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
  )
  example = {"source": "A man", "target": "Two"}
  pairs = []
  for processor in (None, both):
    if processor:
      tokenizer.backend_tokenizer.post_processor = processor
    pairs += tokenizer_lib.encode_examples(tokenizer, [example], "{source}\n")
  plain, wrapped = pairs
  assert wrapped[0].tolist() == [1, *plain[0]]
  assert wrapped[1].tolist() == plain[1].tolist()
  assert plain[1][-1] == 2
  assert tokenizer_lib.decode(tokenizer, [plain[0]]) == ["A man\n"]


def test_braces_are_data(tokenizer):
  source = "{source} {0} {{x}} {% raw %}"
  (ids,) = tokenizer_lib.encode_prompts(tokenizer, [source], '{"q": {source}}')
  expected = ['{"q": {source} {0} {{x}} {% raw %}}']
  assert tokenizer_lib.decode(tokenizer, [ids]) == expected


def test_prompt_without_source_is_an_error(tokenizer):
  with pytest.raises(ValueError, match=r"prompt = 'Translate' *: must contain"):
    tokenizer_lib.encode_prompts(tokenizer, ["A"], "Translate")


def test_no_examples_give_no_pairs(tokenizer):
  assert tokenizer_lib.encode_examples(tokenizer, [], "{source}") == []
  assert tokenizer_lib.decode(tokenizer, []) == []


@pytest.mark.parametrize("text", [b"", b'{"eos_token_id": [1', b"[]", b"\xff"])
def test_damaged_file_with_eos_ids_is_named(tokenizer, tmp_path, text):
  path = tmp_path / "generation_config.json"
  path.write_bytes(text)
  with pytest.raises(ValueError, match=f"^{path}: is no JSON object"):
    tokenizer_lib.eos_ids(tokenizer, tmp_path)


def test_eos_ids_join_the_files_of_the_folder(tokenizer, tmp_path):
  assert tokenizer_lib.eos_ids(tokenizer, tmp_path) == (2,)
  (tmp_path / "config.json").write_text('{"eos_token_id": 9}')
  (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
  assert tokenizer_lib.eos_ids(tokenizer, tmp_path) == (2, 7, 9)
  (tmp_path / "config.json").write_text('{"eos_token_id": null}')
  assert tokenizer_lib.eos_ids(tokenizer, tmp_path) == (2, 7)
  (tmp_path / "config.json").write_text('{"eos_token_id": "</s>"}')
  with pytest.raises(ValueError, match=r"config.json: eos_token_id = '</s>'"):
    tokenizer_lib.eos_ids(tokenizer, tmp_path)


def test_missing_files_are_named(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
    tokenizer_lib.load_tokenizer(tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match=r"none of tokenizer\.json"):
    tokenizer_lib.load_tokenizer(tmp_path)
  (tmp_path / "tokenizer.json").write_text("{")
  with pytest.raises(ValueError, match="cannot be loaded"):
    tokenizer_lib.load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", damage.KINDS)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_file_of_a_trained_tokenizer_is_named(tmp_path, kind, name):
  tokenizer_lib.train_bpe(TEXTS, 280, tmp_path)
  damage.KINDS[kind](tmp_path / name)
  with pytest.raises(ValueError, match=f"^{tmp_path / name}: .*to accept"):
    tokenizer_lib.load_tokenizer(tmp_path)


@pytest.fixture
def hostile(folder, tmp_path, monkeypatch):
  """A folder of which evil.py makes evil.marker where it is run."""
  path = tmp_path / "hostile"
  shutil.copytree(folder, path)
  (path / manifest.NAME).unlink()
  code = f"open({str(path / 'evil.marker')!r}, 'w').close()\n"
  (path / "evil.py").write_text(code)
  # What a user types for `skd_jax.generate`, or pipes to it.
  monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
  return path


def change_json(path, **changes):
  value = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps(value | changes))


def test_tokenizer_that_is_code_is_refused(hostile):
  change_json(
    hostile / "tokenizer_config.json",
    tokenizer_class="Evil",
    auto_map={"AutoTokenizer": [None, "evil.Evil"]},
  )
  with pytest.raises(ValueError, match="contains custom code") as caught:
    tokenizer_lib.load_tokenizer(hostile)
  assert not (hostile / "evil.marker").exists()
  assert str(caught.value).startswith(f"tokenizer folder {hostile}: cannot be")
  assert "\n" not in str(caught.value)


def test_model_that_is_code_is_not_run_for_its_tokenizer(hostile):
  change_json(hostile / "tokenizer_config.json", tokenizer_class=None)
  change_json(
    hostile / "config.json",
    model_type="evil",
    auto_map={"AutoConfig": "evil.Evil"},
  )
  assert tokenizer_lib.load_tokenizer(hostile).eos_token_id == 2
  assert not (hostile / "evil.marker").exists()


def test_several_templates_need_a_default(tokenizer, tmp_path):
  tokenizer.chat_template = {"tool_use": QWEN, "rag": QWEN}
  tokenizer.save_pretrained(tmp_path)
  with pytest.raises(ValueError, match=r"\['rag', 'tool_use'\], but no 'def"):
    tokenizer_lib.load_tokenizer(tmp_path)


def word_tokenizer(words, step=1):
  """A tokenizer in which `step` - 1 ids after each word are unused."""
  ids = {word: step * i for i, word in enumerate(words)}
  core = tokenizers.Tokenizer(models.WordLevel(ids, words[0]))
  core.pre_tokenizer = pre_tokenizers.Whitespace()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=core, eos_token=words[0]
  )


def test_padded_heads_share_the_tokenizer():
  one, two = word_tokenizer(["e", "a", "b"]), word_tokenizer(["e", "a", "b"])
  assert tokenizer_lib.check_same_vocabulary(one, two, 8, 16) == 3
  assert tokenizer_lib.check_same_vocabulary(one, two, 16, 2) == 2
  for tokenizer in (one, two):
    tokenizer.add_tokens(["c"])
  assert tokenizer_lib.check_same_vocabulary(one, two, 8, 16) == 4


def test_unused_ids_count_as_rows():
  gaps = word_tokenizer(["e", "a", "b"], step=3)
  assert gaps.convert_tokens_to_ids("b") == 6
  assert tokenizer_lib.num_ids(gaps) == 7
  assert tokenizer_lib.check_same_vocabulary(gaps, gaps, 8, 8) == 7


def test_differing_vocabularies_name_the_first_token():
  words = ["e", "a", "b", "c", "d"]
  swapped = ["e", "a", "c", "b", "d"]
  with pytest.raises(ValueError, match=r"'b' is 2 for the teacher .* and 3 "):
    tokenizer_lib.check_same_vocabulary(
      word_tokenizer(words), word_tokenizer(swapped), 8, 8
    )
  with pytest.raises(
    ValueError, match=r"'d' is missing .*\(4 tokens\) and 4 .*\(5 tokens\)"
  ):
    tokenizer_lib.check_same_vocabulary(
      word_tokenizer(words[:4]), word_tokenizer(words), 8, 8
    )
