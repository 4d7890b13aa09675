"""OLMo 2: norms only after attention and MLP, and over all heads at once."""

from skd_jax.models.families.names import POST_NORM
from skd_jax.models.families.options import (
  ACTIVATION,
  ATTENTION_BIAS,
  SIZES,
  Family,
)
from skd_jax.models.families.ropes import ROPE

FAMILIES = {
  "olmo2": Family(
    "Olmo2ForCausalLM",
    (SIZES, ROPE, ACTIVATION, ATTENTION_BIAS),
    {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
    {
      "pre_norm": False,
      "post_norm": True,
      "qk_norm": True,
      "qk_norm_of_all_heads": True,
    },
    POST_NORM,
  )
}
