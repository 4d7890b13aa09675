"""Small models that the tests share, and weights for them.

Tests that need another size change one of these with dataclasses.replace.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from skd_jax import models, structs

# No two sizes are alike, and few divide another: a swapped axis shows.
LLAMA = models.ModelConfig(
  vocab_size=61,
  hidden_size=24,
  intermediate_size=40,
  num_layers=2,
  num_heads=6,
  num_kv_heads=2,
  head_dim=10,
)
# Every option at once: windows, caps, sandwich, two rotary embeddings.
GEMMA = dataclasses.replace(
  LLAMA,
  model_type="gemma3_text",
  num_layers=3,
  activation="gelu_tanh",
  tie_embeddings=True,
  attention_bias=True,
  attention_output_bias=True,
  qk_norm=True,
  unit_offset_norm=True,
  post_norm=True,
  scale_embeddings=True,
  query_pre_attn_scalar=7.0,
  attention_soft_cap=3.0,
  final_soft_cap=2.0,
  layer_windows=(4, None, 4),
  rope=models.RopeConfig(rope_theta=1e6, rope_type="linear", factor=8.0),
  local_rope=models.RopeConfig(),
)
# The two families with tensors that hold several of our arrays.
PHI = dataclasses.replace(
  LLAMA,
  model_type="phi3",
  head_dim=16,
  max_position_embeddings=32,
  layer_windows=(7, 7),
  rope=models.RopeConfig(
    rope_type="longrope",
    factor=4.0,
    original_max_position_embeddings=32,
    short_factor=tuple(1.0 + 0.1 * i for i in range(6)),
    long_factor=tuple(1.5 + 0.7 * i for i in range(6)),
    partial_rotary_factor=0.75,
  ),
)
# Queries, key and value of a group of heads are side by side; gate and up too.
PHI3_SMALL = dataclasses.replace(
  LLAMA,
  model_type="phi3small",
  head_dim=4,
  activation="quick_gelu",
  tie_embeddings=True,
  attention_bias=True,
  attention_output_bias=True,
  mlp_bias=True,
  gate_limit=1.5,
  unit_offset_up=True,
  layer_norm=True,
  norm_eps=1e-5,
  embedding_multiplier=3.0,
  logit_divisor=2.0,
  unused_tokens=(17, 59),
  query_pre_attn_scalar=16.0,
  block_sparsity=models.BlockSparsity(
    block_size=2, local_blocks=1, vertical_stride=3
  ),
  dense_attention_layers=(1,),
)
GPT2 = dataclasses.replace(
  LLAMA,
  model_type="gpt2",
  num_kv_heads=6,
  head_dim=4,
  max_position_embeddings=32,
  activation="gelu_tanh",
  tie_embeddings=True,
  attention_bias=True,
  attention_output_bias=True,
  mlp_bias=True,
  gated_mlp=False,
  layer_norm=True,
  learned_positions=True,
  rope=models.RopeConfig(partial_rotary_factor=0.0),
)
# Its first and third layer have no experts.
QWEN3_MOE = dataclasses.replace(
  LLAMA,
  model_type="qwen3_moe",
  num_layers=3,
  qk_norm=True,
  num_experts=5,
  experts_per_token=2,
  expert_size=14,
  normalize_expert_weights=False,
  dense_layers=(0, 2),
)
MIXTRAL = dataclasses.replace(
  LLAMA,
  model_type="mixtral",
  num_experts=3,
  experts_per_token=2,
  expert_size=LLAMA.intermediate_size,
)
M2M100 = models.EncoderDecoderConfig(
  vocab_size=61,
  hidden_size=24,
  intermediate_size=40,
  num_layers=2,
  num_encoder_layers=3,
  num_heads=4,
  num_kv_heads=4,
  head_dim=6,
  model_type="m2m_100",
  norm_eps=1e-5,
  activation="relu",
  tie_embeddings=True,
  attention_bias=True,
  attention_output_bias=True,
  mlp_bias=True,
  gated_mlp=False,
  layer_norm=True,
  scale_embeddings=True,
  sinusoidal_positions=True,
  decoder_prompt_size=2,
  rope=models.RopeConfig(partial_rotary_factor=0.0),
)
T5 = dataclasses.replace(
  M2M100,
  head_dim=10,
  model_type="t5",
  norm_eps=1e-6,
  tie_embeddings=True,
  attention_bias=False,
  attention_output_bias=False,
  mlp_bias=False,
  layer_norm=False,
  scale_embeddings=False,
  sinusoidal_positions=False,
  decoder_prompt_size=1,
  max_position_embeddings=2**20,
  query_pre_attn_scalar=1.0,
  relative_buckets=8,
  relative_max_distance=20,
  scale_output=True,
)
OLMO = dataclasses.replace(
  LLAMA,
  model_type="olmo2",
  pre_norm=False,
  post_norm=True,
  qk_norm=True,
  qk_norm_of_all_heads=True,
)

# Sizes that divide among eight devices.
EVEN_LLAMA = models.ModelConfig(
  vocab_size=64,
  hidden_size=16,
  intermediate_size=32,
  num_layers=2,
  num_heads=8,
  num_kv_heads=4,
  head_dim=8,
)
_EVEN_GEMMA = dataclasses.replace(
  EVEN_LLAMA,
  model_type="gemma",
  activation="gelu_tanh",
  tie_embeddings=True,
  unit_offset_norm=True,
  scale_embeddings=True,
)
EVEN_FAMILIES = {
  "llama": EVEN_LLAMA,
  # Its heads divide by no more than two devices, as those of Qwen2 0.5B.
  "qwen2": dataclasses.replace(
    EVEN_LLAMA,
    model_type="qwen2",
    num_heads=6,
    num_kv_heads=2,
    attention_bias=True,
    tie_embeddings=True,
  ),
  # Its vocabulary divides by no axis: embedding and head stay whole.
  "qwen3": dataclasses.replace(
    EVEN_LLAMA, model_type="qwen3", qk_norm=True, vocab_size=67
  ),
  "gemma": dataclasses.replace(_EVEN_GEMMA, num_kv_heads=1),
  "gemma2": dataclasses.replace(
    _EVEN_GEMMA,
    model_type="gemma2",
    post_norm=True,
    attention_soft_cap=3.0,
    final_soft_cap=2.0,
    layer_windows=(4, None),
  ),
  "gemma3": dataclasses.replace(
    _EVEN_GEMMA,
    model_type="gemma3_text",
    post_norm=True,
    qk_norm=True,
    layer_windows=(4, None),
    local_rope=models.RopeConfig(),
  ),
  "mixtral": dataclasses.replace(
    EVEN_LLAMA,
    model_type="mixtral",
    num_experts=3,
    experts_per_token=2,
    expert_size=EVEN_LLAMA.intermediate_size,
  ),
  # Its experts divide by no more than two devices.
  "qwen3_moe": dataclasses.replace(
    EVEN_LLAMA,
    model_type="qwen3_moe",
    qk_norm=True,
    num_experts=5,
    experts_per_token=2,
    expert_size=10,
    normalize_expert_weights=False,
    dense_layers=(0,),
  ),
  "olmo2": dataclasses.replace(
    EVEN_LLAMA,
    model_type="olmo2",
    pre_norm=False,
    post_norm=True,
    qk_norm=True,
    qk_norm_of_all_heads=True,
  ),
  "phi3small": dataclasses.replace(
    PHI3_SMALL,
    vocab_size=EVEN_LLAMA.vocab_size,
    hidden_size=16,
    intermediate_size=32,
    num_heads=8,
    num_kv_heads=4,
    head_dim=2,
    query_pre_attn_scalar=4.0,
  ),
  # Where nothing is rotated, the bias of the keys has no gradient but noise,
  # which Adam makes as large as any.
  "gpt2": dataclasses.replace(
    GPT2,
    attention_bias=False,
    vocab_size=EVEN_LLAMA.vocab_size,
    hidden_size=16,
    intermediate_size=32,
    num_heads=8,
    num_kv_heads=8,
    head_dim=2,
  ),
}
_EVEN_M2M100 = dataclasses.replace(
  M2M100,
  attention_bias=False,  # As of gpt2.
  vocab_size=EVEN_LLAMA.vocab_size,
  hidden_size=16,
  intermediate_size=32,
  num_heads=8,
  num_kv_heads=8,
  head_dim=2,
  num_encoder_layers=1,
)
EVEN_ENCODER_FAMILIES = {
  "m2m100": _EVEN_M2M100,
  "t5": dataclasses.replace(
    T5,
    vocab_size=EVEN_LLAMA.vocab_size,
    hidden_size=16,
    intermediate_size=32,
    num_heads=8,
    num_kv_heads=8,
    head_dim=2,
    num_encoder_layers=1,
  ),
}


def noisy_params(
  config: models.ModelConfig, seed: int = 0, scale: float = 0.2
) -> structs.Params:
  """Returns random weights in which no norm or bias is trivially 0 or 1.

  Rows that pad the vocabulary are 0, as in a model that has been read.
  """
  rng = np.random.default_rng(seed)
  padding = config.vocab_rows - config.vocab_size

  def draw(x):
    size = list(x.shape)
    padded = padding if size[0] == config.vocab_rows else 0
    size[0] -= padded
    noise = (scale * rng.normal(size=size)).astype(np.float32)
    if x.ndim == 1 and not config.unit_offset_norm:
      noise += 1.0
    return jnp.pad(noise, [(0, padded), *[(0, 0)] * (x.ndim - 1)])

  return jax.tree.map(draw, models.param_shapes(config))
