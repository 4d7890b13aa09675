"""Phi-3-small: block-sparse attention, a clipped MLP, muP multipliers.

The mathematics are those of the code that Microsoft publishes beside the
weights, which transformers has not. Of each group of heads the projection has
its queries, then its key and its value; the MLP has gate and up in turns:

  query_key_value   q0 q1 k0 v0 | q2 q3 k1 v1      4 heads in 2 groups
  up_proj           gate 0, up 0, gate 1, up 1, ...
"""

from collections.abc import Mapping
from typing import Any

from skd_jax.models.config import BlockSparsity, ModelConfig, RopeConfig
from skd_jax.models.families.options import SIZES, Family, Option, required

_CONTEXT = "original_max_position_embeddings"
# No two implementations agree on what another value does.
_ONLY = {"hidden_act": "gegelu", "rope_position_scale": 1.0}
# Of the 100,352 rows of the published models, those that their tokenizer never
# makes, besides the last 85; config.json may leave all of them out.
_UNUSED = (100256, 100258, 100259, 100260, 100264, 100265)


def _mlp_size(hf: Mapping[str, Any]) -> int:
  size, multiplier = hf["ff_intermediate_size"], hf["ff_dim_multiplier"]
  if (size is None) == (multiplier is None):
    raise ValueError(
      f"ff_intermediate_size = {size}, ff_dim_multiplier = {multiplier}: must "
      "be one of them"
    )
  if size is None:
    size = multiplier * (required(hf, "hidden_size") // 3) * 2
    size = -(-size // 256) * 256 if hf["gegelu_pad_to_256"] else size
  return size


def _read_sizes(hf: Mapping[str, Any]) -> dict[str, Any]:
  for key, value in _ONLY.items():
    if hf[key] != value:
      raise ValueError(
        f"{key} = {hf[key]!r} is not supported: must be {value!r}"
      )
  ours = {
    "intermediate_size": _mlp_size(hf),
    "rms_norm_eps": hf["layer_norm_epsilon"],
    "head_dim": None,
  }
  return {
    **SIZES.read({**hf, **ours}),
    "gate_limit": hf["gegelu_limit"],
    "unused_tokens": tuple(hf["dummy_token_indices"] or ()),
  }


def _write_sizes(config: ModelConfig) -> dict[str, Any]:
  keys = SIZES.write(config)
  del keys["head_dim"]
  return {
    **keys,
    **_ONLY,
    "ff_intermediate_size": keys.pop("intermediate_size"),
    "ff_dim_multiplier": None,
    "layer_norm_epsilon": keys.pop("rms_norm_eps"),
    "gegelu_limit": config.gate_limit,
    "dummy_token_indices": list(config.unused_tokens),
  }


def _read_scales(hf: Mapping[str, Any]) -> dict[str, Any]:
  head_dim = hf["hidden_size"] // hf["num_attention_heads"]
  scores = None
  if hf["mup_use_scaling"]:
    # The scores are times multiplier / head_dim; ours, times scalar ** -0.5.
    scores = (head_dim / hf["mup_attn_multiplier"]) ** 2
  embedding = hf["mup_embedding_multiplier"]
  return {
    "query_pre_attn_scalar": scores,
    "embedding_multiplier": embedding if (embedding or 0) > 0 else 1.0,
    "logit_divisor": hf["mup_width_multiplier"] or 1.0,
  }


def _write_scales(config: ModelConfig) -> dict[str, Any]:
  scores, multiplier = config.query_pre_attn_scalar, 1.0
  if scores is not None:
    multiplier = config.head_dim / scores**0.5
    # The last digits may be noise of the root and the quotient.
    rounded = float(f"{multiplier:.12g}")
    if (config.head_dim / rounded) ** 2 == scores:
      multiplier = rounded
  return {
    "mup_use_scaling": scores is not None,
    "mup_attn_multiplier": multiplier,
    "mup_embedding_multiplier": config.embedding_multiplier,
    "mup_width_multiplier": config.logit_divisor,
  }


def _read_blocks(hf: Mapping[str, Any]) -> dict[str, Any]:
  every = hf["dense_attention_every_n_layers"] or hf["num_hidden_layers"] + 1
  return {
    "block_sparsity": BlockSparsity(
      block_size=hf["blocksparse_block_size"],
      local_blocks=hf["blocksparse_num_local_blocks"],
      vertical_stride=hf["blocksparse_vert_stride"],
      heads_alike=hf["blocksparse_homo_head_pattern"],
    ),
    "dense_attention_layers": tuple(
      range(every - 1, hf["num_hidden_layers"], every)
    ),
  }


def _write_blocks(config: ModelConfig) -> dict[str, Any]:
  blocks, dense = config.block_sparsity, config.dense_attention_layers
  if blocks is None:
    return {}  # It reads as another config, which is refused.
  return {
    "blocksparse_block_size": blocks.block_size,
    "blocksparse_triton_kernel_block_size": blocks.block_size,
    "blocksparse_num_local_blocks": blocks.local_blocks,
    "blocksparse_vert_stride": blocks.vertical_stride,
    "blocksparse_homo_head_pattern": blocks.heads_alike,
    "dense_attention_every_n_layers": dense[0] + 1 if dense else None,
  }


def _read_rope(hf: Mapping[str, Any]) -> dict[str, Any]:
  theta, longest = hf["rope_embedding_base"], hf["max_position_embeddings"]
  if hf["rope_scaling"] is None:
    return {"rope": RopeConfig(rope_theta=theta)}
  given = dict(hf["rope_scaling"])
  kind = given.pop("type", "longrope")
  if kind not in ("longrope", "su"):
    raise ValueError(
      f"rope_scaling has type = {kind!r}: must be longrope or su"
    )
  # Negative ones, as omitted ones, are not used.
  short, long = given.pop("short_mscale", -1), given.pop("long_mscale", -1)
  needed = {"short_factor", "long_factor", _CONTEXT}
  if given.keys() != needed:
    raise ValueError(
      f"rope_scaling has {sorted(given)}: must have {sorted(needed)}"
    )
  context = given[_CONTEXT]
  return {
    "rope": RopeConfig(
      rope_theta=theta,
      rope_type="longrope",
      factor=longest / context,
      original_max_position_embeddings=context,
      attention_factor=short if short > 0 else 1.0,
      long_attention_factor=long if long > 0 else None,
      short_factor=tuple(given["short_factor"]),
      long_factor=tuple(given["long_factor"]),
    ),
    # As far as the short factors go.
    "max_position_embeddings": min(context, longest),
  }


def _write_rope(config: ModelConfig) -> dict[str, Any]:
  rope = config.rope
  keys = {"rope_embedding_base": rope.rope_theta, "rope_scaling": None}
  if rope.rope_type != "longrope":
    return keys
  context, long = rope.original_max_position_embeddings, {}
  if rope.long_attention_factor is not None:
    long = {"long_mscale": rope.long_attention_factor}
  return {
    **keys,
    "rope_scaling": {
      "type": "su",
      "short_factor": list(rope.short_factor),
      "long_factor": list(rope.long_factor),
      "short_mscale": rope.attention_factor,
      **long,
      _CONTEXT: context,
    },
    _CONTEXT: context,
    "max_position_embeddings": round(rope.factor * context),
  }


_LAYER = "model.layers.{}"
_QKV = f"{_LAYER}.self_attn.query_key_value"
_GATE_UP = f"{_LAYER}.mlp.up_proj"

FAMILIES = {
  "phi3small": Family(
    "Phi3SmallForCausalLM",
    (
      Option(_read_sizes, _write_sizes),
      Option(_read_scales, _write_scales),
      Option(_read_blocks, _write_blocks),
      Option(_read_rope, _write_rope),
    ),
    {
      **_ONLY,
      "num_key_value_heads": 8,
      "max_position_embeddings": 8192,
      "ff_intermediate_size": 14336,
      "ff_dim_multiplier": None,
      "gegelu_limit": 20.0,
      "gegelu_pad_to_256": True,
      "layer_norm_epsilon": 1e-5,
      "tie_word_embeddings": True,
      "dummy_token_indices": (*_UNUSED, *range(100267, 100352)),
      "rope_embedding_base": 1e6,
      "rope_scaling": None,
      "mup_use_scaling": True,
      "mup_attn_multiplier": 1.0,
      "mup_embedding_multiplier": 10.0,
      "mup_width_multiplier": 8.0,
      "blocksparse_block_size": 64,
      "blocksparse_num_local_blocks": 16,
      "blocksparse_vert_stride": 8,
      "blocksparse_homo_head_pattern": False,
      "dense_attention_every_n_layers": 2,
    },
    {
      "activation": "quick_gelu",
      "attention_bias": True,
      "attention_output_bias": True,
      "mlp_bias": True,
      "layer_norm": True,
      "unit_offset_up": True,
    },
    {
      "embedding": "model.embed_tokens",
      "final_norm": "model.final_layernorm",
      "lm_head": "lm_head",
      "layers/attention/query": _QKV,
      "layers/attention/key": _QKV,
      "layers/attention/value": _QKV,
      "layers/attention/out": f"{_LAYER}.self_attn.dense",
      "layers/mlp/gate": _GATE_UP,
      "layers/mlp/up": _GATE_UP,
      "layers/mlp/down": f"{_LAYER}.mlp.down_proj",
      "layers/attention_norm": f"{_LAYER}.input_layernorm",
      "layers/mlp_norm": f"{_LAYER}.post_attention_layernorm",
    },
    groups={_QKV: "num_kv_heads", _GATE_UP: "intermediate_size"},
  )
}
