"""German to English.

python -m skd_jax.main --config=configs/wmt.py            the demo
python -m skd_jax.main --config=configs/wmt.py:multi30k   real data
"""

import ml_collections

from skd_jax.config import default_config, fit_config


def get_config(variant: str = "demo") -> ml_collections.ConfigDict:
  """Returns the config of one variant."""
  variants = {"demo": demo, "multi30k": multi30k}
  if variant not in variants:
    raise ValueError(
      f"configs/wmt.py:{variant}: the variant must be one of {list(variants)}"
    )
  return variants[variant]()


def demo() -> ml_collections.ConfigDict:
  """The embedded corpus; no download, no accelerator."""
  config = default_config()
  config.task = "embedded German to English"
  config.seeds = (0, 1, 2)
  config.data.max_validation_examples = 256
  config.data.max_prompt_length = 48
  config.data.max_new_tokens = 48
  config.data.length_multiple = 24
  config.tokenizer.vocab_size = 3000
  config.teacher.update(
    hidden_size=128,
    intermediate_size=384,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
  )
  config.teacher.fit = fit_config(
    num_steps=1200,
    batch_size=32,
    learning_rate=4e-3,
    warmup_steps=100,
    decay="cosine",
  )
  config.student.update(
    hidden_size=64,
    intermediate_size=192,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
  )
  config.student.fit = fit_config(
    num_steps=800,
    batch_size=32,
    learning_rate=5e-3,
    warmup_steps=100,
    decay="cosine",
  )
  config.distill = fit_config(num_steps=250, batch_size=64, learning_rate=2e-3)
  return config


def multi30k() -> ml_collections.ConfigDict:
  """WMT16 multimodal task 1; --config.data.dir is its folder."""
  config = default_config()
  config.task = "Multi30k German to English"
  config.data.kind = "parallel"
  config.data.validation_split = "val"
  config.data.test_split = "test_2016_flickr"
  config.data.max_validation_examples = 256
  config.data.length_multiple = 8
  config.tokenizer.vocab_size = 4000
  config.teacher.update(
    hidden_size=192,
    intermediate_size=576,
    num_layers=3,
    num_heads=6,
    num_kv_heads=3,
  )
  config.teacher.fit = fit_config(
    num_steps=6500,
    batch_size=32,
    learning_rate=2e-3,
    warmup_steps=400,
    decay="cosine",
    checkpoint_every_steps=500,
    evaluate_every_steps=1300,
  )
  config.student.update(
    hidden_size=96,
    intermediate_size=256,
    num_layers=2,
    num_heads=3,
    num_kv_heads=3,
  )
  config.student.fit = fit_config(
    num_steps=3000,
    batch_size=32,
    learning_rate=3e-3,
    warmup_steps=300,
    decay="cosine",
    checkpoint_every_steps=500,
    evaluate_every_steps=1000,
  )
  config.distill = fit_config(
    num_steps=1500,
    batch_size=64,
    learning_rate=1e-3,
    evaluate_every_steps=300,
  )
  return config
