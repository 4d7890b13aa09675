"""Llama 2 and 3, SmolLM2; and Mistral, whose layers all have a window."""

from skd_jax.models.families.options import (
  ACTIVATION,
  ATTENTION_BIAS,
  MLP_BIAS,
  SIZES,
  WINDOW,
  Family,
)
from skd_jax.models.families.ropes import ROPE

FAMILIES = {
  "llama": Family(
    "LlamaForCausalLM",
    (SIZES, ROPE, ACTIVATION, ATTENTION_BIAS, MLP_BIAS),
    defaults={"max_position_embeddings": 2048},
  ),
  "mistral": Family(
    "MistralForCausalLM",
    (SIZES, ROPE, ACTIVATION, WINDOW),
    defaults={
      "max_position_embeddings": 131072,
      "num_key_value_heads": 8,
      "sliding_window": 4096,
    },
  ),
}
