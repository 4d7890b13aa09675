"""GPT-2: learned positions, layer norms, an MLP without a gate, biases."""

from collections.abc import Mapping
from typing import Any

from skd_jax.models.config import ModelConfig, RopeConfig
from skd_jax.models.families.options import (
  Family,
  Option,
  activation_from_hf,
  activation_to_hf,
  required,
)

_ONLY = {
  "scale_attn_weights": True,
  "scale_attn_by_inverse_layer_idx": False,
  "add_cross_attention": False,
}


def _read(hf: Mapping[str, Any]) -> dict[str, Any]:
  for key, value in _ONLY.items():
    if hf[key] != value:
      raise ValueError(f"{key} = {hf[key]!r} is not supported: must be {value}")
  heads = required(hf, "n_head")
  hidden_size = required(hf, "n_embd")
  return {
    "vocab_size": required(hf, "vocab_size"),
    "hidden_size": hidden_size,
    "intermediate_size": hf["n_inner"] or 4 * hidden_size,
    "num_layers": required(hf, "n_layer"),
    "num_heads": heads,
    "num_kv_heads": heads,
    "head_dim": hidden_size // heads,
    "max_position_embeddings": hf["n_positions"],
    "norm_eps": hf["layer_norm_epsilon"],
    "activation": activation_from_hf(
      hf["activation_function"], "activation_function"
    ),
    "tie_embeddings": hf["tie_word_embeddings"],
  }


def _write(config: ModelConfig) -> dict[str, Any]:
  return {
    "vocab_size": config.vocab_size,
    "n_embd": config.hidden_size,
    "n_inner": config.intermediate_size,
    "n_layer": config.num_layers,
    "n_head": config.num_heads,
    "n_positions": config.max_position_embeddings,
    "layer_norm_epsilon": config.norm_eps,
    "activation_function": activation_to_hf(config),
    "tie_word_embeddings": config.tie_embeddings,
  }


_QKV = "transformer.h.{}.attn.c_attn"

FAMILIES = {
  "gpt2": Family(
    "GPT2LMHeadModel",
    (Option(_read, _write),),
    {
      **_ONLY,
      "n_inner": None,
      "n_positions": 1024,
      "layer_norm_epsilon": 1e-5,
      "activation_function": "gelu_new",
      "tie_word_embeddings": True,
    },
    {
      "attention_bias": True,
      "attention_output_bias": True,
      "mlp_bias": True,
      "gated_mlp": False,
      "layer_norm": True,
      "learned_positions": True,
      "rope": RopeConfig(partial_rotary_factor=0.0),
    },
    {
      "embedding": "transformer.wte",
      "position_embedding": "transformer.wpe",
      "final_norm": "transformer.ln_f",
      "lm_head": "lm_head",
      "layers/attention/query": _QKV,
      "layers/attention/key": _QKV,
      "layers/attention/value": _QKV,
      "layers/attention/out": "transformer.h.{}.attn.c_proj",
      "layers/mlp/up": "transformer.h.{}.mlp.c_fc",
      "layers/mlp/down": "transformer.h.{}.mlp.c_proj",
      "layers/attention_norm": "transformer.h.{}.ln_1",
      "layers/mlp_norm": "transformer.h.{}.ln_2",
    },
    transposed=False,
  )
}
