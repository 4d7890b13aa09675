"""The names of our arrays in Hugging Face files: one table, both directions."""

from typing import Any, NamedTuple

import jax

from skd_jax import structs
from skd_jax.models.config import ModelConfig

# Our path inside a layer, the Hugging Face name inside `model.layers.<i>`. A
# kernel is [in, out] here and [out, in] there; the rest is stored alike.
_LAYER_NAMES = {
  "attention/query": "self_attn.q_proj",
  "attention/key": "self_attn.k_proj",
  "attention/value": "self_attn.v_proj",
  "attention/out": "self_attn.o_proj",
  "attention/query_norm": "self_attn.q_norm",
  "attention/key_norm": "self_attn.k_norm",
  "mlp/gate": "mlp.gate_proj",
  "mlp/up": "mlp.up_proj",
  "mlp/down": "mlp.down_proj",
  "attention_norm": "input_layernorm",
}
# `post_attention_layernorm` stands before the MLP in most families, and after
# the attention in those with norms on both sides (Gemma 2 and 3).
_MLP_NORM_NAMES = {
  False: {"mlp_norm": "post_attention_layernorm"},
  True: {
    "post_attention_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
  },
}
_TOP_NAMES = {
  "embedding": "model.embed_tokens.weight",
  "final_norm/scale": "model.norm.weight",
  "lm_head": "lm_head.weight",
}
_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


class Leaf(NamedTuple):
  """One array of the weights, and what it is called in the files."""

  hf_name: str
  transpose: bool
  shape: tuple[int, ...]
  has_vocab_rows: bool

  @property
  def projection(self) -> str:
    """The last part of the name of a projection, such as q_proj; else ""."""
    return self.hf_name.split(".")[-2] if self.transpose else ""


def named_leaves(
  config: ModelConfig, shapes: structs.Params
) -> tuple[list[Leaf], Any]:
  """Every array of the weights, in tree order, with its file name."""
  names = {**_LAYER_NAMES, **_MLP_NORM_NAMES[config.sandwich_norm]}
  flat, treedef = jax.tree.flatten_with_path(shapes)
  leaves = []
  for path, leaf in flat:
    keys = [entry.key for entry in path]
    if keys[0] == "layers":
      name = f"model.layers.{keys[1]}.{names['/'.join(keys[2:-1])]}"
      name = f"{name}.{_LEAF_NAMES[keys[-1]]}"
    else:
      name = _TOP_NAMES["/".join(keys)]
    leaves.append(
      Leaf(
        name,
        keys[-1] == "kernel",
        leaf.shape,
        keys[0] in ("embedding", "lm_head"),
      )
    )
  return leaves, treedef
