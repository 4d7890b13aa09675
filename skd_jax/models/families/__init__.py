"""The model families: what config.json says in each, one small file a kin."""

from skd_jax.models.families import gemma, gpt2, llama, olmo, phi, qwen
from skd_jax.models.families.options import Family

# By model_type.
FAMILIES: dict[str, Family] = {
  **llama.FAMILIES,
  **qwen.FAMILIES,
  **gemma.FAMILIES,
  **olmo.FAMILIES,
  **phi.FAMILIES,
  **gpt2.FAMILIES,
}

__all__ = ["FAMILIES", "Family"]
