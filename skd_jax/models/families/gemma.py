"""Gemma 1, 2 and 3 (text)."""

from collections.abc import Mapping
from typing import Any

from skd_jax.models.config import ModelConfig
from skd_jax.models.families.names import POST_NORM
from skd_jax.models.families.options import (
  ATTENTION_BIAS,
  FULL,
  SIZES,
  SLIDING,
  Family,
  Option,
  activation_from_hf,
  activation_to_hf,
  layer_types,
  the_window,
  windows,
)
from skd_jax.models.families.ropes import (
  ROPE,
  older_keys,
  reject_partial,
  rope_from_hf,
  rope_to_hf,
)

_WINDOW_DEFAULT = 4096


def _activation(hf: Mapping[str, Any]) -> str:
  return hf.get("hidden_activation") or hf["hidden_act"]


def _read_first_activation(hf: Mapping[str, Any]) -> dict[str, Any]:
  name = _activation(hf)
  # The first files say gelu, and mean tanh.
  name = "gelu_pytorch_tanh" if name == "gelu" else name
  return {"activation": activation_from_hf(name)}


def _read_scores(hf: Mapping[str, Any]) -> dict[str, Any]:
  return {
    "query_pre_attn_scalar": hf["query_pre_attn_scalar"],
    "attention_soft_cap": hf.get("attn_logit_softcapping"),
    "final_soft_cap": hf.get("final_logit_softcapping"),
  }


def _read_scores_3(hf: Mapping[str, Any]) -> dict[str, Any]:
  cap = hf.get("attn_logit_softcapping")
  if cap is not None:
    raise ValueError(
      f"attn_logit_softcapping = {cap!r} is not supported for gemma3_text, "
      "of which transformers ignores it: must be null"
    )
  return _read_scores(hf)


def _write_scores(config: ModelConfig) -> dict[str, Any]:
  scalar = config.query_pre_attn_scalar
  return {
    "query_pre_attn_scalar": config.head_dim if scalar is None else scalar,
    "attn_logit_softcapping": config.attention_soft_cap,
    "final_logit_softcapping": config.final_soft_cap,
  }


def _read_windows(hf: Mapping[str, Any]) -> dict[str, Any]:
  types = hf.get("layer_types")
  if types is None:
    # Pattern 3: sliding, sliding, full, sliding, sliding, full, ...
    pattern = hf["sliding_window_pattern"]
    num_layers = hf["num_hidden_layers"]
    types = [SLIDING if (i + 1) % pattern else FULL for i in range(num_layers)]
  return {"layer_windows": windows(types, hf["sliding_window"])}


def _write_windows(config: ModelConfig) -> dict[str, Any]:
  # transformers makes the mask of a window also where no layer has one.
  return {
    "sliding_window": the_window(config) or _WINDOW_DEFAULT,
    "layer_types": layer_types(config),
  }


def _read_ropes(hf: Mapping[str, Any]) -> dict[str, Any]:
  nested = hf.get("rope_parameters") or {FULL: hf.get("rope_scaling")}
  full, sliding = nested.get(FULL) or {}, nested.get(SLIDING) or {}
  reject_partial(hf, full, sliding)
  return {
    "rope": rope_from_hf(full, hf["rope_theta"]),
    "local_rope": rope_from_hf(sliding, hf["rope_local_base_freq"]),
  }


def _write_ropes(config: ModelConfig) -> dict[str, Any]:
  if config.local_rope is None:
    return ROPE.write(config)
  return {
    "rope_parameters": {
      FULL: rope_to_hf(config.rope),
      SLIDING: rope_to_hf(config.local_rope),
    },
    **older_keys(config.rope),
    "rope_local_base_freq": config.local_rope.rope_theta,
  }


def _write_activation(config: ModelConfig) -> dict[str, Any]:
  # transformers reads the first, and vLLM both.
  keys = ("hidden_activation", "hidden_act")
  return dict.fromkeys(keys, activation_to_hf(config))


_FIRST_ACTIVATION = Option(_read_first_activation, _write_activation)
_ACTIVATION = Option(
  lambda hf: {"activation": activation_from_hf(_activation(hf))},
  _write_activation,
)
_SCORES = Option(_read_scores, _write_scores)
_SCORES_3 = Option(_read_scores_3, _write_scores)
_WINDOWS = Option(_read_windows, _write_windows)
_ROPES = Option(_read_ropes, _write_ropes)  # Of full and of sliding layers.

_DEFAULTS = {
  "head_dim": 256,
  "hidden_act": "gelu_pytorch_tanh",
  "tie_word_embeddings": True,
  "max_position_embeddings": 8192,
}
_TRAITS = {"unit_offset_norm": True, "scale_embeddings": True}

FAMILIES = {
  "gemma": Family(
    "GemmaForCausalLM",
    (SIZES, ROPE, _FIRST_ACTIVATION, ATTENTION_BIAS),
    {**_DEFAULTS, "num_key_value_heads": 16},
    _TRAITS,
  ),
  "gemma2": Family(
    "Gemma2ForCausalLM",
    (SIZES, ROPE, _ACTIVATION, ATTENTION_BIAS, _SCORES, _WINDOWS),
    {
      **_DEFAULTS,
      "num_key_value_heads": 4,
      "query_pre_attn_scalar": 256,
      "sliding_window": _WINDOW_DEFAULT,
      "sliding_window_pattern": 2,
      "attn_logit_softcapping": 50.0,
      "final_logit_softcapping": 30.0,
    },
    {**_TRAITS, "post_norm": True},
    POST_NORM,
  ),
  "gemma3_text": Family(
    "Gemma3ForCausalLM",
    (SIZES, _ROPES, _ACTIVATION, ATTENTION_BIAS, _SCORES_3, _WINDOWS),
    {
      **_DEFAULTS,
      # The published 4b and larger omit these.
      "vocab_size": 262208,
      "num_attention_heads": 8,
      "num_key_value_heads": 4,
      "max_position_embeddings": 131072,
      "query_pre_attn_scalar": 256,
      "sliding_window": _WINDOW_DEFAULT,
      "sliding_window_pattern": 6,
      "rope_theta": 1000000.0,
      "rope_local_base_freq": 10000.0,
    },
    {**_TRAITS, "post_norm": True, "qk_norm": True},
    POST_NORM,
  ),
}
