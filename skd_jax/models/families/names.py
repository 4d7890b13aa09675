"""The names of tensors in the files of a family.

Maps our path to the name of the tensor, with braces for the number of the
layer. Paths that share a name are one tensor in the file, side by side in the
order of the table.
"""

from collections.abc import Mapping

Names = Mapping[str, str]

LLAMA: Names = {
  "embedding": "model.embed_tokens",
  "final_norm": "model.norm",
  "lm_head": "lm_head",
  "layers/attention/query": "model.layers.{}.self_attn.q_proj",
  "layers/attention/key": "model.layers.{}.self_attn.k_proj",
  "layers/attention/value": "model.layers.{}.self_attn.v_proj",
  "layers/attention/out": "model.layers.{}.self_attn.o_proj",
  "layers/attention/query_norm": "model.layers.{}.self_attn.q_norm",
  "layers/attention/key_norm": "model.layers.{}.self_attn.k_norm",
  "layers/mlp/gate": "model.layers.{}.mlp.gate_proj",
  "layers/mlp/up": "model.layers.{}.mlp.up_proj",
  "layers/mlp/down": "model.layers.{}.mlp.down_proj",
  "layers/attention_norm": "model.layers.{}.input_layernorm",
  "layers/mlp_norm": "model.layers.{}.post_attention_layernorm",
}
# Each expert has its tensors, and the second braces are for its number.
EXPERTS: Names = {
  **LLAMA,
  "layers/mlp/router": "model.layers.{}.mlp.gate",
  "layers/mlp/expert_gate": "model.layers.{}.mlp.experts.{}.gate_proj",
  "layers/mlp/expert_up": "model.layers.{}.mlp.experts.{}.up_proj",
  "layers/mlp/expert_down": "model.layers.{}.mlp.experts.{}.down_proj",
}
# As transformers 5 has them in memory, and in files where it is told to.
FUSED_SUFFIX = ".experts.gate_up_proj.weight"
FUSED_EXPERTS: Names = {
  **EXPERTS,
  "layers/mlp/expert_gate": "model.layers.{}.mlp.experts.gate_up_proj",
  "layers/mlp/expert_up": "model.layers.{}.mlp.experts.gate_up_proj",
  "layers/mlp/expert_down": "model.layers.{}.mlp.experts.down_proj",
}
# `post_attention_layernorm` stands before the MLP in most families, and after
# the attention in those with norms behind both.
POST_NORM: Names = {
  **LLAMA,
  "layers/post_attention_norm": "model.layers.{}.post_attention_layernorm",
  "layers/mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
  "layers/post_mlp_norm": "model.layers.{}.post_feedforward_layernorm",
}
