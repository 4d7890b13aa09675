"""The model families: one small file for those whose config.json is alike."""

from skd_jax.models.families import gemma, gpt2, llama, mixtral, olmo, phi, qwen
from skd_jax.models.families.options import Family

# By model_type.
FAMILIES: dict[str, Family] = {
  **llama.FAMILIES,
  **mixtral.FAMILIES,
  **qwen.FAMILIES,
  **gemma.FAMILIES,
  **olmo.FAMILIES,
  **phi.FAMILIES,
  **gpt2.FAMILIES,
}

__all__ = ["FAMILIES", "Family"]
