"""Qwen2, Qwen2.5 and Qwen3."""

from collections.abc import Mapping
from typing import Any

from skd_jax.models.config import ModelConfig
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


_WINDOWS = Option(_read_windows, _write_windows)
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
}
