"""The model families: one small file for those whose config.json is alike."""

from skd_jax.models.families import (
  gemma,
  gpt2,
  llama,
  m2m100,
  mixtral,
  olmo,
  phi,
  phi3_small,
  qwen,
  t5,
)
from skd_jax.models.families.options import Family

# By model_type.
FAMILIES: dict[str, Family] = {
  **llama.FAMILIES,
  **mixtral.FAMILIES,
  **qwen.FAMILIES,
  **gemma.FAMILIES,
  **olmo.FAMILIES,
  **phi.FAMILIES,
  **phi3_small.FAMILIES,
  **gpt2.FAMILIES,
  **m2m100.FAMILIES,
  **t5.FAMILIES,
}

__all__ = ["FAMILIES", "Family"]
