"""The shapes of published checkpoints have the published parameter counts."""

import pytest

from benchmarks.tpu import checkpoints

# Billions, by the model cards on the Hugging Face hub.
PUBLISHED = {
  "google/gemma-7b-it": 8.54,
  "google/gemma-2b-it": 2.51,
  "google/gemma-2-9b-it": 9.24,
  "google/gemma-2-2b-it": 2.61,
  "Qwen/Qwen2-7B-Instruct": 7.62,
  "Qwen/Qwen2-0.5B-Instruct": 0.494,
  "Qwen/Qwen3-8B": 8.19,
  "Qwen/Qwen3-0.6B": 0.596,
  "meta-llama/Llama-3.1-8B-Instruct": 8.03,
  "meta-llama/Llama-3.2-1B-Instruct": 1.24,
  "HuggingFaceTB/SmolLM2-135M-Instruct": 0.135,
  "facebook/nllb-200-3.3B": 3.34,
  "facebook/nllb-200-distilled-600M": 0.615,
  "google/flan-t5-xl": 2.85,
  "google/flan-t5-base": 0.248,
}


def test_every_shape_has_a_published_count():
  assert set(PUBLISHED) == set(checkpoints.published())


@pytest.mark.parametrize(
  "name",
  [
    name
    if name == "google/gemma-2b-it"
    else pytest.param(name, marks=pytest.mark.slow)
    for name in PUBLISHED
  ],
)
def test_number_of_parameters_is_the_published_one(name):
  config, _ = checkpoints.load(name)
  count = checkpoints.num_params(config) / 1e9
  assert count == pytest.approx(PUBLISHED[name], rel=0.01)


def test_a_pair_keeps_the_rows_that_both_tokenizers_know():
  pair = checkpoints.load_pair(
    "Qwen/Qwen2-7B-Instruct", "Qwen/Qwen2-0.5B-Instruct"
  )
  assert [config.vocab_size for config in pair] == [151_646, 151_646]


def test_unknown_checkpoint_names_those_that_are_known():
  with pytest.raises(ValueError, match=r"checkpoint = 'x/y'.*gemma-7b-it"):
    checkpoints.load("x/y")
