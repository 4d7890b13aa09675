"""Mixtral: every MLP has experts, which are as wide as `intermediate_size`."""

from skd_jax.models.families.names import EXPERTS, FUSED_EXPERTS
from skd_jax.models.families.options import (
  ACTIVATION,
  SIZES,
  WINDOW,
  Family,
  Option,
)
from skd_jax.models.families.ropes import ROPE

_EXPERTS = Option(
  lambda hf: {
    "num_experts": hf["num_local_experts"],
    "experts_per_token": hf["num_experts_per_tok"],
    "expert_size": hf["intermediate_size"],
  },
  lambda config: {
    "num_local_experts": config.num_experts,
    "num_experts_per_tok": config.experts_per_token,
  },
)
_SPARSE = "model.layers.{}.block_sparse_moe"

FAMILIES = {
  "mixtral": Family(
    "MixtralForCausalLM",
    (SIZES, ROPE, ACTIVATION, WINDOW, _EXPERTS),
    {
      "max_position_embeddings": 131072,
      "num_key_value_heads": 8,
      "num_experts_per_tok": 2,
      "num_local_experts": 8,
      "rms_norm_eps": 1e-5,
      "rope_theta": 1e6,
      "sliding_window": None,
    },
    names={
      **EXPERTS,
      "layers/mlp/router": f"{_SPARSE}.gate",
      "layers/mlp/expert_gate": f"{_SPARSE}.experts.{{}}.w1",
      "layers/mlp/expert_up": f"{_SPARSE}.experts.{{}}.w3",
      "layers/mlp/expert_down": f"{_SPARSE}.experts.{{}}.w2",
    },
    fused_names=FUSED_EXPERTS,
  ),
}
