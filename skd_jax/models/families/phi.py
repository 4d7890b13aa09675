"""Phi-3, Phi-3.5 mini, Phi-4 and Phi-4 mini: fused projections, longrope."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from skd_jax.models.config import ModelConfig
from skd_jax.models.families.names import LLAMA
from skd_jax.models.families.options import (
  ACTIVATION,
  SIZES,
  WINDOW,
  Family,
  Option,
)
from skd_jax.models.families.ropes import (
  parameters_of,
  rope_from_hf,
  rope_to_hf,
)

_CONTEXT = "original_max_position_embeddings"
_OLDER_NAMES = {"su": "longrope", "yarn": "longrope"}


def _read_rope(hf: Mapping[str, Any]) -> dict[str, Any]:
  given = dict(parameters_of(hf))
  kind = given.get("rope_type", given.get("type", "default"))
  kind = _OLDER_NAMES.get(kind, kind)
  part = given.get("partial_rotary_factor") or hf["partial_rotary_factor"]
  # transformers reads it here, wherever else it may be.
  context, longest = hf[_CONTEXT], hf["max_position_embeddings"]
  factor = given.pop("factor", None) if kind == "longrope" else None
  if factor not in (None, longest / context):
    raise ValueError(
      f"factor = {factor!r} is not supported for phi3: must be "
      f"max_position_embeddings / {_CONTEXT} = {longest / context}"
    )
  given.update({"rope_type": kind, _CONTEXT: context})
  rope = rope_from_hf(given, hf["rope_theta"], ("default", "longrope"))
  rope = dataclasses.replace(rope, partial_rotary_factor=part)
  if kind == "default":
    return {"rope": rope}
  # As far as the short factors go.
  return {
    "rope": dataclasses.replace(rope, factor=longest / context),
    "max_position_embeddings": min(context, longest),
  }


def _write_rope(config: ModelConfig) -> dict[str, Any]:
  rope = config.rope
  parameters = rope_to_hf(rope)
  part = {"partial_rotary_factor": rope.partial_rotary_factor}
  keys: dict[str, Any] = {
    "rope_parameters": {**parameters, **part},
    "rope_theta": rope.rope_theta,
    "rope_scaling": None,
    **part,
  }
  if rope.rope_type == "longrope":
    context = rope.original_max_position_embeddings
    keys[_CONTEXT] = context
    keys["max_position_embeddings"] = round(rope.factor * context)
    # transformers 4 takes these three, and no other.
    factors = {k: parameters[k] for k in ("short_factor", "long_factor")}
    keys["rope_scaling"] = {"type": "longrope", **factors}
  return keys


_ROPE = Option(_read_rope, _write_rope)
_QKV = "model.layers.{}.self_attn.qkv_proj"
_GATE_UP = "model.layers.{}.mlp.gate_up_proj"

FAMILIES = {
  "phi3": Family(
    "Phi3ForCausalLM",
    (SIZES, _ROPE, ACTIVATION, WINDOW),
    {
      "max_position_embeddings": 4096,
      _CONTEXT: 4096,
      "partial_rotary_factor": 1.0,
      "rms_norm_eps": 1e-5,
      "sliding_window": None,
    },
    names={
      **LLAMA,
      "layers/attention/query": _QKV,
      "layers/attention/key": _QKV,
      "layers/attention/value": _QKV,
      "layers/mlp/gate": _GATE_UP,
      "layers/mlp/up": _GATE_UP,
    },
  )
}
