"""example.txt shows what the models read of the first example."""

from skd_jax import experiment, preview
from tests import tiny_run


def test_first_example_is_shown_with_its_tokens_loss_and_ends(tmp_path):
  tiny_run.write_data(tmp_path)
  config = tiny_run.config(tmp_path)
  config.data.stop_strings = ("\n\n",)
  opened = experiment.open_experiment(config, tmp_path / "w")
  preview.write_example(opened)
  text = (tmp_path / "w" / "example.txt").read_text("utf-8")
  train, tokenizer = opened.tasks.train, opened.tasks.tokenizer
  (eos,) = opened.tasks.eos_ids
  assert f"\n{tokenizer.decode(train.prompts[0])}\n" in text
  assert f"Prompt, {len(train.prompts[0])} of at most 32 tokens, none" in text
  assert "Der Hund sieht den Hund." in text
  # The end is a token that is learned.
  assert text.index("The dog sees the dog.") < text.index(f" {eos}:'")
  assert f"one of the tokens {eos}:'{tokenizer.decode([eos])}'" in text
  assert r"one of the texts: '\n\n'; or after 16 tokens." in text
