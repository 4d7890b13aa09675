"""A whole run on conversations of several turns, with a system turn."""

import json

import pytest

from skd_jax import train
from tests import tiny_run

pytestmark = pytest.mark.slow


def write_talks(folder):
  """Rows of two sums each: the system turn says what is added to both."""
  lines = []
  for number in range(40):
    a, b, more = number % 5, number % 7, number % 2
    turns = [("system", f"Add {more}.")]
    for one, other in ((a, b), (b, a + 1)):
      turns += [("user", f"{one} + {other}")]
      turns += [("assistant", f"{one + other + more}")]
    messages = [{"role": role, "content": text} for role, text in turns]
    lines.append(json.dumps({"messages": messages}) + "\n")
  (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")


def test_run_on_conversations_scores_every_turn_of_the_assistant(tmp_path):
  write_talks(tmp_path)
  config = tiny_run.config(tmp_path)
  config.seeds = (0,)
  config.data.update(
    kind="messages",
    turns="all",
    train_split="train[:-16]",
    validation_split="train[-16:-8]",
    test_split="train[-8:]",
    max_prompt_length=48,
    length_multiple=48,
    metrics=("accuracy",),
  )
  report = train.train_and_evaluate(config, tmp_path / "workdir")
  assert report["metrics"]["student"]["accuracy"] >= 0
  answers = tmp_path / "workdir" / "answers" / "distill_seed_0.txt"
  # Parts of a split are counted in examples, of which a row has two.
  assert len(answers.read_text("utf-8").splitlines()) == 8
  samples = (tmp_path / "workdir" / "samples.html").read_text("utf-8")
  assert "system: Add 0." in samples
