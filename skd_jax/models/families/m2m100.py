"""M2M100 and NLLB-200: many languages to many, sinusoidal positions."""

from collections.abc import Mapping
from typing import Any

from skd_jax.models.config import (
  EncoderDecoderConfig,
  ModelConfig,
  RopeConfig,
)
from skd_jax.models.families.names import Names
from skd_jax.models.families.options import (
  Family,
  Option,
  activation_from_hf,
  activation_to_hf,
  required,
)

_SAME = ("ffn_dim", "attention_heads")  # In encoder and decoder.


def _read(hf: Mapping[str, Any]) -> dict[str, Any]:
  for key in _SAME:
    ours, other = (required(hf, f"{x}_{key}") for x in ("decoder", "encoder"))
    if ours != other:
      raise ValueError(
        f"encoder_{key} = {other} is not supported: must be {ours} as "
        f"decoder_{key}"
      )
  if hf["pad_token_id"] not in (None, 1):
    raise ValueError(
      f"pad_token_id = {hf['pad_token_id']} is not supported: must be 1, from "
      "which positions are counted"
    )
  heads, width = hf["decoder_attention_heads"], required(hf, "d_model")
  return {
    "vocab_size": required(hf, "vocab_size"),
    "hidden_size": width,
    "intermediate_size": hf["decoder_ffn_dim"],
    "num_layers": required(hf, "decoder_layers"),
    "num_encoder_layers": required(hf, "encoder_layers"),
    "num_heads": heads,
    "num_kv_heads": heads,
    "head_dim": width // heads,
    "max_position_embeddings": hf["max_position_embeddings"],
    "activation": activation_from_hf(
      hf["activation_function"], "activation_function"
    ),
    "scale_embeddings": hf["scale_embedding"],
    "tie_embeddings": hf["tie_word_embeddings"],
  }


def _write(config: ModelConfig) -> dict[str, Any]:
  assert isinstance(config, EncoderDecoderConfig)
  both = {
    "ffn_dim": config.intermediate_size,
    "attention_heads": config.num_heads,
  }
  return {
    "vocab_size": config.vocab_size,
    "d_model": config.hidden_size,
    "decoder_layers": config.num_layers,
    "encoder_layers": config.num_encoder_layers,
    **{f"{x}_{key}": both[key] for x in ("decoder", "encoder") for key in both},
    "max_position_embeddings": config.max_position_embeddings,
    "activation_function": activation_to_hf(config),
    "scale_embedding": config.scale_embeddings,
    "tie_word_embeddings": config.tie_embeddings,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 2,
  }


def _names() -> Names:
  names = {
    "embedding": "model.shared",
    "encoder/final_norm": "model.encoder.layer_norm",
    "final_norm": "model.decoder.layer_norm",
    "lm_head": "lm_head",
  }
  for ours, theirs in (("encoder/", "model.encoder"), ("", "model.decoder")):
    layer = f"{theirs}.layers.{{}}"
    names |= {
      f"{ours}layers/attention_norm": f"{layer}.self_attn_layer_norm",
      f"{ours}layers/cross_attention_norm": f"{layer}.encoder_attn_layer_norm",
      f"{ours}layers/mlp_norm": f"{layer}.final_layer_norm",
      f"{ours}layers/mlp/up": f"{layer}.fc1",
      f"{ours}layers/mlp/down": f"{layer}.fc2",
    }
    for of_us, of_them in (
      ("attention", "self_attn"),
      ("cross_attention", "encoder_attn"),
    ):
      names |= {
        f"{ours}layers/{of_us}/query": f"{layer}.{of_them}.q_proj",
        f"{ours}layers/{of_us}/key": f"{layer}.{of_them}.k_proj",
        f"{ours}layers/{of_us}/value": f"{layer}.{of_them}.v_proj",
        f"{ours}layers/{of_us}/out": f"{layer}.{of_them}.out_proj",
      }
  return names


FAMILIES = {
  "m2m_100": Family(
    "M2M100ForConditionalGeneration",
    (Option(_read, _write),),
    {
      "max_position_embeddings": 1024,
      "activation_function": "relu",
      "scale_embedding": True,
      "tie_word_embeddings": True,
      "pad_token_id": 1,
    },
    {
      "norm_eps": 1e-5,
      "attention_bias": True,
      "attention_output_bias": True,
      "mlp_bias": True,
      "gated_mlp": False,
      "layer_norm": True,
      "sinusoidal_positions": True,
      # </s> and the language of the response.
      "decoder_prompt_size": 2,
      "rope": RopeConfig(partial_rotary_factor=0.0),
    },
    _names(),
    config_class=EncoderDecoderConfig,
  )
}
