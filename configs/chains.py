"""Arithmetic step by step, on data made on the spot.

python -m skd_jax.main --config=configs/chains.py
"""

import ml_collections

from skd_jax.config import default_config, fit_config


def get_config(variant: str = "demo") -> ml_collections.ConfigDict:
  """Returns the config of one variant."""
  variants = {"demo": demo}
  if variant not in variants:
    raise ValueError(
      f"configs/chains.py:{variant}: the variant must be one of "
      f"{list(variants)}"
    )
  return variants[variant]()


def demo() -> ml_collections.ConfigDict:
  """Chains of five steps; no download, no accelerator. Not run yet.

  python -m skd_jax.main --config=configs/chains.py

  The student has the width of the teacher and half its layers, so that it can
  start from layers of the teacher. Every character is a token: a problem of H
  steps takes at most 2 H + 5 tokens with the template, its answer 8 H + 9. For
  other lengths than five, give --config.data.num_steps together with
  --config.data.max_prompt_length and --config.data.max_new_tokens.
  """
  config = default_config()
  config.task = "chains of sums"
  config.seeds = (0, 1, 2)
  config.data.kind = "chains"
  config.data.num_steps = 5
  config.data.max_validation_examples = 256
  config.data.max_test_examples = 500
  config.data.max_prompt_length = 16
  config.data.max_new_tokens = 50
  config.data.length_multiple = 50  # One width, one compilation.
  config.data.metrics = ("accuracy", "steps")
  # The bytes and four marks, the least there is: nothing is merged, so that a
  # number is its digits.
  config.tokenizer.vocab_size = 260
  shape = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_heads": 4,
    "num_kv_heads": 4,
  }
  config.teacher.update(shape, num_layers=4)
  config.teacher.fit = fit_config(
    num_steps=2000,
    batch_size=32,
    learning_rate=2e-3,
    warmup_steps=100,
    decay="cosine",
  )
  config.student.update(shape, num_layers=2)
  config.student.fit = fit_config(
    num_steps=300,
    batch_size=32,
    learning_rate=2e-3,
    warmup_steps=30,
    decay="cosine",
  )
  # Of 16 characters, 25 would be all. The teacher is sure of nearly every one:
  # what is not among its first two is wrong.
  config.rollout.threshold = 2.0
  # The nucleus is the most expensive part of a draw on a CPU, and at this
  # temperature it changes little.
  config.rollout.student_top_p = 1.0
  config.loss.chunk_size = 128
  config.distill = fit_config(num_steps=220, batch_size=32, learning_rate=2e-3)
  return config
