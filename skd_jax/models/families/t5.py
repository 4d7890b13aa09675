"""T5, T5 v1.1 (Flan-T5 too) and mT5: relative positions, no scaled scores."""

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
  required,
)

_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu"}  # Else as ours.
_GATED = "gated-"


def _read(hf: Mapping[str, Any]) -> dict[str, Any]:
  name = hf["feed_forward_proj"]
  # transformers means the approximation where this says gelu.
  activation = "gelu_new" if name == "gated-gelu" else name.removeprefix(_GATED)
  heads, layers = required(hf, "num_heads"), required(hf, "num_layers")
  # What is scaled is tied, and nothing else. transformers 5 writes that all is
  # tied, also where the file has a head of its own.
  tied = hf["tie_word_embeddings"] and hf["scale_decoder_outputs"]
  return {
    "vocab_size": required(hf, "vocab_size"),
    "hidden_size": required(hf, "d_model"),
    "intermediate_size": required(hf, "d_ff"),
    "num_layers": hf["num_decoder_layers"] or layers,
    "num_encoder_layers": layers,
    "num_heads": heads,
    "num_kv_heads": heads,
    "head_dim": required(hf, "d_kv"),
    "norm_eps": hf["layer_norm_epsilon"],
    "activation": activation_from_hf(activation, "feed_forward_proj"),
    "gated_mlp": name.startswith(_GATED),
    "tie_embeddings": tied,
    "scale_output": tied,
    "relative_buckets": hf["relative_attention_num_buckets"],
    "relative_max_distance": hf["relative_attention_max_distance"],
  }


def _write(config: ModelConfig) -> dict[str, Any]:
  assert isinstance(config, EncoderDecoderConfig)
  activation = _ACTIVATIONS.get(config.activation, config.activation)
  if config.gated_mlp:
    activation = _GATED + activation.removesuffix("_new")
  return {
    "vocab_size": config.vocab_size,
    "d_model": config.hidden_size,
    "d_ff": config.intermediate_size,
    "d_kv": config.head_dim,
    "num_heads": config.num_heads,
    "num_decoder_layers": config.num_layers,
    "num_layers": config.num_encoder_layers,
    "layer_norm_epsilon": config.norm_eps,
    "feed_forward_proj": activation,
    "tie_word_embeddings": config.tie_embeddings,
    "relative_attention_num_buckets": config.relative_buckets,
    "relative_attention_max_distance": config.relative_max_distance,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
  }


def _names() -> Names:
  names = {"embedding": "shared", "lm_head": "lm_head"}
  for ours, theirs in (("encoder/", "encoder"), ("", "decoder")):
    layer = f"{theirs}.block.{{}}.layer"
    mlp = 1 if ours else 2
    names |= {
      f"{ours}final_norm": f"{theirs}.final_layer_norm",
      f"{ours}position_bias": (
        f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias"
      ),
      f"{ours}layers/attention_norm": f"{layer}.0.layer_norm",
      f"{ours}layers/cross_attention_norm": f"{layer}.1.layer_norm",
      f"{ours}layers/mlp_norm": f"{layer}.{mlp}.layer_norm",
      f"{ours}layers/mlp/gate": f"{layer}.{mlp}.DenseReluDense.wi_0",
      f"{ours}layers/mlp/up": f"{layer}.{mlp}.DenseReluDense.wi_1",
      f"{ours}layers/mlp/down": f"{layer}.{mlp}.DenseReluDense.wo",
    }
    for of_us, of_them in (
      ("attention", "0.SelfAttention"),
      ("cross_attention", "1.EncDecAttention"),
    ):
      names |= {
        f"{ours}layers/{of_us}/query": f"{layer}.{of_them}.q",
        f"{ours}layers/{of_us}/key": f"{layer}.{of_them}.k",
        f"{ours}layers/{of_us}/value": f"{layer}.{of_them}.v",
        f"{ours}layers/{of_us}/out": f"{layer}.{of_them}.o",
      }
  return names


def _family(architecture: str, defaults: Mapping[str, Any]) -> Family:
  return Family(
    architecture,
    (Option(_read, _write),),
    {
      "num_decoder_layers": None,
      "layer_norm_epsilon": 1e-6,
      "relative_attention_num_buckets": 32,
      "relative_attention_max_distance": 128,
      **defaults,
    },
    {
      "query_pre_attn_scalar": 1.0,
      # Relative positions have no last one.
      "max_position_embeddings": 2**20,
      "rope": RopeConfig(partial_rotary_factor=0.0),
    },
    _names(),
    ungated={
      f"{x}layers/mlp/up": _names()[f"{x}layers/mlp/up"].replace("wi_1", "wi")
      for x in ("encoder/", "")
    },
    config_class=EncoderDecoderConfig,
  )


FAMILIES = {
  "t5": _family(
    "T5ForConditionalGeneration",
    {
      "feed_forward_proj": "relu",
      "tie_word_embeddings": True,
      "scale_decoder_outputs": True,
    },
  ),
  "mt5": _family(
    "MT5ForConditionalGeneration",
    {
      "feed_forward_proj": "gated-gelu",
      "tie_word_embeddings": False,
      "scale_decoder_outputs": False,
    },
  ),
}
