"""A whole run with an encoder in front, from folders of the hub to export."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from configs import nllb
from skd_jax import experiment, methods, models, train
from skd_jax.data import encoder_templates, sources, templates
from skd_jax.data import tokenizer as tokenizer_lib
from tests import command_lines, hub_folders
from tests.models.test_huggingface import torch_modules

LANGUAGES = {"source_language": "deu_Latn", "target_language": "eng_Latn"}
SMALL = {
  "data.max_train_examples": 32,
  "data.max_validation_examples": 8,
  "data.max_test_examples": 8,
  "data.max_prompt_length": 64,
  "data.max_new_tokens": 48,
  "data.length_multiple": 64,
  "student.remat": True,
  "data.long_prompts": "leave_out",
  "rollout.threshold": 3.0,
  "rollout.num_draft_tokens": 2,
  "rollout.batch_size": 4,
  "distill.num_steps": 4,
  "distill.batch_size": 8,
  "distill.learning_rate": 0.01,
  "distill.evaluate_every_steps": 4,
  "distill.log_every_steps": 1,
  "evaluate.batch_size": 8,
  "evaluate.num_samples": 2,
}
generate = command_lines.load("skd_jax.generate")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  """Folders of a teacher and a smaller student, as the hub has them."""
  folder = tmp_path_factory.mktemp("pair")
  examples = sources.load_examples(
    "embedded", "train", source_language="de", target_language="en"
  )[:200]
  texts = [e[side] for e in examples for side in ("source", "target")]
  tokenizer = hub_folders.train_nllb_tokenizer(texts)
  hub_folders.write_nllb(folder / "teacher", tokenizer, seed=0)
  hub_folders.write_nllb(
    folder / "student", tokenizer, seed=1, num_encoder_layers=1, num_layers=1
  )
  return folder


def test_prompt_is_what_transformers_gives_encoder_and_decoder(pair):
  tokenizer = tokenizer_lib.load_tokenizer(pair / "teacher")
  templates.set_arguments(tokenizer, LANGUAGES)
  encoder_templates.check_template(tokenizer)
  (found,) = tokenizer_lib.encode_examples(
    tokenizer, [{"source": "Ein Hund.", "target": "A dog."}], "{source}"
  )
  published = hub_folders.transformers.AutoTokenizer.from_pretrained(
    pair / "teacher", src_lang="deu_Latn", tgt_lang="eng_Latn"
  )
  encoded = published("Ein Hund.", text_target="A dog.")
  german, english, end = published.convert_tokens_to_ids(
    ["deu_Latn", "eng_Latn", "</s>"]
  )
  assert encoded["input_ids"][0] == german
  assert encoded["labels"][0] == english
  prompt, response = (ids.tolist() for ids in found)
  assert prompt == [*encoded["input_ids"], end, english]
  assert response == encoded["labels"][1:]
  assert tokenizer_lib.eos_ids(tokenizer, pair / "teacher") == (end,)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({}, "must have source_language and target_language"),
    ({"source_language": "deu_Latn"}, "must have source_language and"),
    (LANGUAGES | {"target_language": "en"}, "must be languages of the"),
    (LANGUAGES | {"source_language": "german"}, "must be languages of the"),
  ],
)
def test_missing_or_unknown_language_is_refused(pair, arguments, message):
  tokenizer = tokenizer_lib.load_tokenizer(pair / "teacher")
  templates.set_arguments(tokenizer, arguments)
  with pytest.raises(ValueError, match=message):
    encoder_templates.check_template(tokenizer)


def test_published_files_hold_what_was_written(pair):
  config = models.load_config(pair / "student")
  params = models.load_params(pair / "student", config)
  want = hub_folders.weights(config, 1)
  jax.tree.map(np.testing.assert_array_equal, params, want)


def test_export_generates_what_transformers_does(pair, tmp_path):
  tokenizer = tokenizer_lib.load_tokenizer(pair / "teacher")
  templates.set_arguments(tokenizer, LANGUAGES)
  loaded = models.load_model(pair / "teacher")
  models.save_model(tmp_path / "export", loaded, tokenizer)
  questions = ["Ein Hund sieht den Ball.", "Der Mann.", "Zwei Frauen kochen."]
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  settings = {"model": str(tmp_path / "export"), "max_new_tokens": 12}
  with flagsaver.flagsaver(**settings, batch_size=4):
    answers = list(generate.make_generator().answers(questions))

  torch, transformers = torch_modules()
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
    tmp_path / "export"
  )
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    tmp_path / "export", src_lang="deu_Latn"
  )
  inputs = tokenizer(questions, return_tensors="pt", padding=True)
  unused = range(tokenizer_lib.num_ids(tokenizer), loaded.config.vocab_size)
  with torch.no_grad():
    ids = model.float().generate(
      **inputs,
      forced_bos_token_id=tokenizer.convert_tokens_to_ids("eng_Latn"),
      max_new_tokens=13,  # With the language.
      do_sample=False,
      num_beams=1,
      suppress_tokens=list(unused),
    )
  texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
  assert answers == [" ".join(text.split()) for text in texts]
  assert all(answers)


@pytest.mark.parametrize(
  ("setting", "value", "message"),
  [
    (
      "teacher.quantization",
      "int8",
      "teacher.quantization = 'int8': must be '' for an encoder-decoder",
    ),
    (
      "student.fit.packed_length",
      200,
      "student.fit.packed_length = 200: must be 0, as teacher.path is an "
      "encoder-decoder",
    ),
  ],
)
def test_what_an_encoder_decoder_cannot_have_is_refused(
  pair, tmp_path, setting, value, message
):
  config = methods.change(
    nllb.get_config("embedded"),
    {
      **SMALL,
      "teacher.path": str(pair / "teacher"),
      "student.path": str(pair / "student"),
      setting: value,
    },
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    experiment.open_experiment(config, tmp_path / "w")
  assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_pair_of_the_hub_is_distilled_and_exported(pair, tmp_path):
  config = methods.change(
    nllb.get_config("embedded"),
    {
      **SMALL,
      "teacher.path": str(pair / "teacher"),
      "student.path": str(pair / "student"),
    },
  )
  report = train.train_and_evaluate(config, tmp_path / "workdir")
  assert 0 < report["rollout"]["replacement_rate"] < 1
  lines = (tmp_path / "workdir" / "metrics.jsonl").read_text("utf-8")
  losses = [json.loads(x)["loss"] for x in lines.splitlines() if '"loss"' in x]
  assert losses[-1] < losses[0]
  export = models.load_config(tmp_path / "workdir" / "export")
  assert export == dataclasses.replace(
    models.load_config(pair / "student"),
    vocab_size=tokenizer_lib.num_ids(
      tokenizer_lib.load_tokenizer(pair / "student")
    ),
  )
  card = (tmp_path / "workdir" / "export" / "README.md").read_text("utf-8")
  assert "pipeline_tag: text2text-generation" in card
