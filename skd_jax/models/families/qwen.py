"""Qwen2, Qwen2.5 and Qwen3, and Qwen3 with experts."""

from collections.abc import Mapping
from typing import Any

from skd_jax.models.config import ModelConfig
from skd_jax.models.families.names import EXPERTS, FUSED_EXPERTS
from skd_jax.models.families.options import (
  ACTIVATION,
  ATTENTION_BIAS,
  FULL,
  SIZES,
  SLIDING,
  Family,
  Option,
  layer_types,
  the_window,
  windows,
)
from skd_jax.models.families.ropes import ROPE


def _read_windows(hf: Mapping[str, Any]) -> dict[str, Any]:
  num_layers = hf["num_hidden_layers"]
  if not hf["use_sliding_window"]:
    return {"layer_windows": ()}
  types = hf.get("layer_types")
  if types is None:
    full = hf["max_window_layers"]
    types = [FULL if i < full else SLIDING for i in range(num_layers)]
  return {"layer_windows": windows(types, hf["sliding_window"])}


def _write_windows(config: ModelConfig) -> dict[str, Any]:
  window = the_window(config)
  return {
    "sliding_window": window,
    "use_sliding_window": window is not None,
    "layer_types": layer_types(config),
  }


def _read_experts(hf: Mapping[str, Any]) -> dict[str, Any]:
  dense = [
    layer
    for layer in range(hf["num_hidden_layers"])
    if layer in (hf["mlp_only_layers"] or ())
    or (layer + 1) % hf["decoder_sparse_step"]
  ]
  return {
    # transformers 5 writes the first, published files have the second.
    "num_experts": hf.get("num_local_experts") or hf["num_experts"],
    "experts_per_token": hf["num_experts_per_tok"],
    "expert_size": hf["moe_intermediate_size"],
    "normalize_expert_weights": hf["norm_topk_prob"],
    "dense_layers": tuple(dense),
  }


def _write_experts(config: ModelConfig) -> dict[str, Any]:
  return {
    "num_experts": config.num_experts,
    "num_experts_per_tok": config.experts_per_token,
    "moe_intermediate_size": config.expert_size,
    "norm_topk_prob": config.normalize_expert_weights,
    "mlp_only_layers": list(config.dense_layers),
    "decoder_sparse_step": 1,
  }


def _read_one_window(hf: Mapping[str, Any]) -> dict[str, Any]:
  window = hf["sliding_window"] if hf["use_sliding_window"] else None
  types = [SLIDING] * hf["num_hidden_layers"]
  return {"layer_windows": windows(types, window)}


def _write_one_window(config: ModelConfig) -> dict[str, Any]:
  window = the_window(config)
  return {"sliding_window": window, "use_sliding_window": window is not None}


_WINDOWS = Option(_read_windows, _write_windows)
_ONE_WINDOW = Option(_read_one_window, _write_one_window)
_EXPERTS = Option(_read_experts, _write_experts)
_DEFAULTS = {
  "max_position_embeddings": 32768,
  "use_sliding_window": False,
  "sliding_window": 4096,
  "max_window_layers": 28,
}

FAMILIES = {
  "qwen2": Family(
    "Qwen2ForCausalLM",
    (SIZES, ROPE, ACTIVATION, _WINDOWS),
    _DEFAULTS,
    {"attention_bias": True},
  ),
  "qwen3": Family(
    "Qwen3ForCausalLM",
    (SIZES, ROPE, ACTIVATION, ATTENTION_BIAS, _WINDOWS),
    {**_DEFAULTS, "head_dim": 128},
    {"qk_norm": True},
  ),
  "qwen3_moe": Family(
    "Qwen3MoeForCausalLM",
    (SIZES, ROPE, ACTIVATION, ATTENTION_BIAS, _ONE_WINDOW, _EXPERTS),
    {
      **_DEFAULTS,
      "num_key_value_heads": 4,
      "num_experts": 128,
      "num_local_experts": None,
      "num_experts_per_tok": 8,
      "moe_intermediate_size": 768,
      "norm_topk_prob": False,
      "mlp_only_layers": None,
      "decoder_sparse_step": 1,
    },
    {"qk_norm": True},
    EXPERTS,
    fused_names=FUSED_EXPERTS,
  ),
}
