"""The shape and the options of one decoder.

One `ModelConfig` describes every supported family by what the model does (a
window, a soft cap, a norm of the queries), so that decoder.py never asks for
the name of a family. The name is kept only to write config.json back, which
the families do.
"""

import dataclasses
from typing import Any, ClassVar

ACTIVATIONS = ("silu", "gelu_tanh", "gelu", "quick_gelu", "relu")
_LARGE_VOCAB = 2**14  # From which on it pays to pad the vocabulary.

# Options of each rotary scaling, named as in config.json.
ROPE_OPTIONS: dict[str, tuple[str, ...]] = {
  "default": (),
  "linear": ("factor",),
  "llama3": (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
  ),
  "yarn": (
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "truncate",
  ),
  "longrope": (
    "short_factor",
    "long_factor",
    "original_max_position_embeddings",
  ),
}


@dataclasses.dataclass(frozen=True)
class RopeConfig:
  """Rotary position embedding (arXiv 2104.09864) and its scaling.

  The fields carry the names that config.json gives them. `linear` divides all
  frequencies by `factor`; `llama3` only the slow ones; `yarn` (arXiv
  2309.00071) ramps between the two and scales the attention; `longrope` (arXiv
  2402.13753) divides each by its `short_factor` and scales the attention. Its
  `long_factor` is for longer sequences than the decoder takes, and is kept for
  the file, as `long_attention_factor` is: which of the two holds depends on the
  length of the whole sequence, which a rollout does not know.
  """

  rope_theta: float = 10000.0
  rope_type: str = "default"
  factor: float = 1.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_max_position_embeddings: int = 8192
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  attention_factor: float | None = None  # None: the formula of the type.
  long_attention_factor: float | None = None
  truncate: bool = True
  short_factor: tuple[float, ...] = ()
  long_factor: tuple[float, ...] = ()
  # The first dimensions of each head are rotated; 0: there is no rotation.
  partial_rotary_factor: float = 1.0

  def __post_init__(self) -> None:
    if self.rope_type not in ROPE_OPTIONS:
      raise ValueError(
        f"rope_type = {self.rope_type!r} is not supported; "
        f"use one of {', '.join(ROPE_OPTIONS)}"
      )

  def rotated_size(self, head_dim: int) -> int:
    """The number of dimensions of a head that are rotated."""
    return int(head_dim * self.partial_rotary_factor)

  def check_head(self, head_dim: int) -> None:
    """Raises ValueError where this does not fit heads of a size."""
    size = self.rotated_size(head_dim)
    if size % 2:
      raise ValueError(
        f"partial_rotary_factor = {self.partial_rotary_factor}: must rotate an "
        f"even part of head_dim = {head_dim}"
      )
    for name in ("short_factor", "long_factor"):
      found = len(getattr(self, name))
      if self.rope_type == "longrope" and found != size // 2:
        raise ValueError(
          f"{name} has {found} numbers: must have one for each rotated pair, "
          f"{size // 2}"
        )


@dataclasses.dataclass(frozen=True)
class BlockSparsity:
  """Which blocks of keys a query sees; block_sparse.py draws it."""

  block_size: int  # Tokens of a block.
  local_blocks: int  # Those that a query sees at least, its own the last.
  vertical_stride: int  # It sees one in so many of the others.
  heads_alike: bool = False  # The same one, whatever the head.

  def __post_init__(self) -> None:
    for name in ("block_size", "local_blocks", "vertical_stride"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """One decoder-only transformer; hashable. Defaults are those of Llama.

  `num_heads * head_dim` need not equal `hidden_size`. `layer_windows` has one
  entry a layer: the number of tokens that a query sees, itself included, or
  None for all; an empty tuple means all for every layer. Layers with a window
  use `local_rope` where there is one (Gemma 3). `block_sparsity` holds for all
  layers but `dense_attention_layers`.
  """

  # What such a model does, as the Hugging Face hub and PEFT call it.
  hub_task: ClassVar[str] = "text-generation"
  peft_task: ClassVar[str] = "CAUSAL_LM"

  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  model_type: str = "llama"
  max_position_embeddings: int = 2048
  norm_eps: float = 1e-6
  activation: str = "silu"
  tie_embeddings: bool = False
  attention_bias: bool = False  # Of the query, key and value projections.
  attention_output_bias: bool = False
  mlp_bias: bool = False
  gated_mlp: bool = True  # False: down(activation(up(x))).
  gate_limit: float | None = None  # gate(x) up to it, up(x) within +- it.
  unit_offset_up: bool = False  # The gated MLP multiplies by 1 + up(x).
  num_experts: int = 0  # E of experts.py; 0: there are none.
  experts_per_token: int = 0  # k
  expert_size: int = 0  # F of an expert.
  normalize_expert_weights: bool = True  # Those of the k add up to 1.
  dense_layers: tuple[int, ...] = ()  # Those whose MLP has no experts.
  qk_norm: bool = False  # A norm over each head of queries and keys.
  qk_norm_of_all_heads: bool = False  # That norm is over all heads together.
  pre_norm: bool = True  # Norms before attention and MLP.
  post_norm: bool = False  # Norms after attention and MLP.
  layer_norm: bool = False  # Norms subtract the mean and have a bias.
  unit_offset_norm: bool = False  # Norms multiply by 1 + weight.
  learned_positions: bool = False  # A vector for each position.
  scale_embeddings: bool = False  # Times sqrt(hidden_size).
  embedding_multiplier: float = 1.0
  logit_divisor: float = 1.0
  # Their probability is 0. Those from V on are dropped: V may be cut.
  unused_tokens: tuple[int, ...] = ()
  query_pre_attn_scalar: float | None = None  # None: head_dim
  attention_soft_cap: float | None = None  # cap * tanh(scores / cap)
  final_soft_cap: float | None = None  # cap * tanh(logits / cap)
  layer_windows: tuple[int | None, ...] = ()
  block_sparsity: BlockSparsity | None = None
  dense_attention_layers: tuple[int, ...] = ()
  rope: RopeConfig = RopeConfig()
  local_rope: RopeConfig | None = None

  @property
  def vocab_rows(self) -> int:
    """Rows of the embedding and the head: V, or more, which are no tokens.

    A large V that is no multiple of 8 (Qwen2 has 151,646 tokens) would be whole
    on every device. It is rounded up to 8 devices with whole tiles of 128, on
    whatever mesh, so that a checkpoint fits all of them.
    """
    if self.vocab_size < _LARGE_VOCAB or self.vocab_size % 8 == 0:
      return self.vocab_size
    return -(-self.vocab_size // 1024) * 1024

  def __post_init__(self) -> None:
    for name in (
      "vocab_size",
      "hidden_size",
      "intermediate_size",
      "num_layers",
      "num_heads",
      "num_kv_heads",
      "head_dim",
    ):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_heads = {self.num_heads}: must be a multiple of "
        f"num_kv_heads = {self.num_kv_heads}"
      )
    if self.head_dim % 2:
      raise ValueError(f"head_dim = {self.head_dim}: must be even")
    for rope in (self.rope, self.local_rope or self.rope):
      rope.check_head(self.head_dim)
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f"activation = {self.activation!r}: must be one of {ACTIVATIONS}"
      )
    if self.num_experts:
      self._check_experts()
    if self.layer_windows and len(self.layer_windows) != self.num_layers:
      raise ValueError(
        f"layer_windows has {len(self.layer_windows)} entries, "
        f"but num_layers = {self.num_layers}"
      )
    kept = tuple(t for t in self.unused_tokens if t < self.vocab_size)
    object.__setattr__(self, "unused_tokens", kept)

  def _check_experts(self) -> None:
    if not 1 <= self.experts_per_token <= self.num_experts:
      raise ValueError(
        f"experts_per_token = {self.experts_per_token}: must be in [1, "
        f"{self.num_experts}], as num_experts = {self.num_experts}"
      )
    if self.expert_size < 1:
      raise ValueError(f"expert_size = {self.expert_size}: must be at least 1")
    is_plain = self.gate_limit is None and not self.unit_offset_up
    if self.mlp_bias or not self.gated_mlp or not is_plain:
      raise ValueError(
        f"num_experts = {self.num_experts}: must be 0 without gated_mlp, or "
        "with mlp_bias, gate_limit or unit_offset_up"
      )

  def has_experts(self, layer: int) -> bool:
    """Whether the MLP of this layer has experts."""
    return self.num_experts > 0 and layer not in self.dense_layers

  @property
  def has_last_position(self) -> bool:
    """Whether tokens past max_position_embeddings have no meaning at all."""
    return self.learned_positions or self.rope.rope_type == "longrope"

  def divides_heads(self, parts: int) -> bool:
    """Whether query heads go to as many devices: whole groups, or parts of one.

    N = 2 key/value heads with R = 3 queries each do not go to 3 devices.
    """
    groups = self.num_kv_heads
    torn = groups % parts and parts % groups
    return self.num_heads % parts == 0 and not torn

  def window(self, layer: int) -> int | None:
    """The number of tokens that a query of this layer sees, or None."""
    return self.layer_windows[layer] if self.layer_windows else None

  def blocks(self, layer: int) -> BlockSparsity | None:
    """Which blocks a query of this layer sees; None: all up to its own."""
    is_dense = layer in self.dense_attention_layers
    return None if is_dense else self.block_sparsity

  def layer_rope(self, layer: int) -> RopeConfig:
    """The rotary embedding of this layer."""
    if self.local_rope is not None and self.window(layer) is not None:
      return self.local_rope
    return self.rope

  def of_one_layer(self) -> "ModelConfig":
    """The shape of one layer alone, between embedding and head."""
    return dataclasses.replace(
      self,
      num_layers=1,
      layer_windows=self.layer_windows[:1],
      dense_layers=(),  # Of a model with experts, a layer that has them.
      dense_attention_layers=(),  # Likewise.
    )


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig(ModelConfig):
  """A decoder behind an encoder of the same width; `num_layers` is its own.

  `decoder_prompt_size` is K, the tokens of a prompt that the decoder starts
  from: its last ones. See encoder_decoder.py.
  """

  hub_task: ClassVar[str] = "text2text-generation"
  peft_task: ClassVar[str] = "SEQ_2_SEQ_LM"

  num_encoder_layers: int = 1
  decoder_prompt_size: int = 1
  sinusoidal_positions: bool = False  # Those of M2M100.
  # Of T5: a bias of the scores for each range of distances; 0: none.
  relative_buckets: int = 0
  relative_max_distance: int = 128  # From here on all share one.
  scale_output: bool = False  # Times 1 / sqrt(hidden_size), before the head.

  def __post_init__(self) -> None:
    super().__post_init__()
    for name in ("num_encoder_layers", "decoder_prompt_size"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")

  def of_one_layer(self) -> "ModelConfig":
    """The shape of one layer of each."""
    layer: Any = super().of_one_layer()
    return dataclasses.replace(layer, num_encoder_layers=1)
