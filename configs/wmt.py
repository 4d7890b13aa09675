"""German to English.

python -m skd_jax.main --config=configs/wmt.py            the demo
python -m skd_jax.main --config=configs/wmt.py:multi30k   real data
"""

import ml_collections

from skd_jax.config import default_config


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
  return config


def multi30k() -> ml_collections.ConfigDict:
  """WMT16 multimodal task 1; --config.data.dir is its folder."""
  config = default_config()
  config.task = "Multi30k German to English"
  config.data.kind = "parallel"
  config.data.validation_split = "val"
  config.data.test_split = "test_2016_flickr"
  return config
