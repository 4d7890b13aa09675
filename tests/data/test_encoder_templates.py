"""The templates of encoder-decoders put what their tokenizers do."""

import json

import pytest
import transformers

from skd_jax.data import encoder_templates
from skd_jax.data import tokenizer as tokenizer_lib

PIECES = ["▁", "▁Ein", "▁Hund", ".", "▁A", "▁dog", "a", "b", "c", "d"]


@pytest.fixture
def folder(tmp_path):
  """A tokenizer of T5 beside the config.json of a model."""
  vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
  vocabulary += [(piece, -2.0) for piece in PIECES]
  tokenizer = transformers.T5Tokenizer(vocab=vocabulary, extra_ids=2)
  tokenizer.save_pretrained(tmp_path)
  config = {"model_type": "t5", "eos_token_id": 1}
  (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
  return tmp_path


def test_prompt_of_t5_ends_with_what_its_decoder_starts_from(folder):
  tokenizer = tokenizer_lib.load_tokenizer(folder)
  encoder_templates.check_template(tokenizer)
  ((prompt, response),) = tokenizer_lib.encode_examples(
    tokenizer, [{"source": "Ein Hund.", "target": "A dog."}], "{source}"
  )
  published = transformers.AutoTokenizer.from_pretrained(folder)
  start = tokenizer.convert_tokens_to_ids("<pad>")
  assert prompt.tolist() == [*published("Ein Hund.")["input_ids"], start]
  assert response.tolist() == published("A dog.")["input_ids"]
  assert tokenizer_lib.decode(tokenizer, [response]) == ["A dog."]


def test_conversation_of_several_turns_is_refused(folder):
  tokenizer = tokenizer_lib.load_tokenizer(folder)
  turns = [{"role": r, "content": "a"} for r in ("user", "assistant", "user")]
  with pytest.raises(ValueError, match="answers one turn of the user"):
    tokenizer_lib.encode_examples(
      tokenizer, [{"source": "", "target": "b", "messages": turns}], "{source}"
    )


def test_template_of_a_folder_and_other_models_stay_as_they_are(folder):
  tokenizer = tokenizer_lib.load_tokenizer(folder)
  tokenizer.chat_template = "{{ messages }}"
  encoder_templates.add_template(tokenizer, folder)
  assert tokenizer.chat_template == "{{ messages }}"
  (folder / "config.json").write_text('{"model_type": "llama"}', "utf-8")
  assert tokenizer_lib.load_tokenizer(folder).chat_template is None
