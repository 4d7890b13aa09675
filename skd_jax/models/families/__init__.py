"""The model families: what config.json says in each, one small file a kin."""

from skd_jax.models.families import gemma, llama, qwen
from skd_jax.models.families.options import Family

# By model_type.
FAMILIES: dict[str, Family] = {
  **llama.FAMILIES,
  **qwen.FAMILIES,
  **gemma.FAMILIES,
}

__all__ = ["FAMILIES", "Family"]
