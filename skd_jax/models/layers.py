"""The layers of the decoder: norm, rotary embedding, attention, MLP, block.

Letters beyond those of structs.py: n tokens of one call, F width of the MLP.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from skd_jax.models import lora
from skd_jax.models.attention import (
  attend_itself,
  attend_to_cache,
  write_cache,
)
from skd_jax.models.config import ModelConfig, RopeConfig
from skd_jax.models.experts import ExpertMLP
from skd_jax.parallel import sharding

INIT_STDDEV = 0.02

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "silu": jax.nn.silu,
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  "relu": jax.nn.relu,
}


def rope_frequencies(rope: RopeConfig, head_dim: int) -> tuple[Any, float]:
  """The angle that one position adds, for each pair of rotated dimensions.

  Returns:
    float32 [H/2] in radians per position, fewer where a part of the head is
    rotated; and the factor of cos and sin (1 except for `yarn`, `longrope`).
  """
  head_dim = rope.rotated_size(head_dim)
  exponent = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
  frequency = 1.0 / np.float32(rope.rope_theta) ** exponent
  if rope.rope_type == "linear":
    return frequency / np.float32(rope.factor), 1.0
  if rope.rope_type == "llama3":
    # Waves that fit often enough in the old context keep their frequency, those
    # longer than it are slowed by `factor`, and between the two it ramps.
    low, high = rope.low_freq_factor, rope.high_freq_factor
    fits = rope.original_max_position_embeddings * frequency / (2 * math.pi)
    keep = np.clip((fits - low) / (high - low), 0.0, 1.0)
    mixed = keep * frequency + (1 - keep) * frequency / rope.factor
    return mixed.astype(np.float32), 1.0
  if rope.rope_type == "yarn":
    return _yarn_frequencies(rope, frequency, head_dim)
  if rope.rope_type == "longrope":
    context = rope.original_max_position_embeddings
    stretch = max(math.log(rope.factor) / math.log(context), 0.0)
    divisors = np.asarray(rope.short_factor, np.float32)
    factor = rope.attention_factor
    factor = math.sqrt(1 + stretch) if factor is None else factor
    return frequency / divisors, factor
  return frequency, 1.0


def _yarn_frequencies(
  rope: RopeConfig, frequency: np.ndarray, head_dim: int
) -> tuple[np.ndarray, float]:
  """YaRN, arXiv 2309.00071, section 3.2 to 3.4."""

  def dimension(rotations: float) -> float:
    context = rope.original_max_position_embeddings
    ratio = math.log(context / (rotations * 2 * math.pi))
    return head_dim * ratio / (2 * math.log(rope.rope_theta))

  low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
  if rope.truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, head_dim - 1)
  high += 0.001 if low == high else 0.0
  index = np.arange(head_dim // 2, dtype=np.float32)
  slow = np.clip((index - low) / (high - low), 0.0, 1.0)
  mixed = frequency / rope.factor * slow + frequency * (1 - slow)
  factor = rope.attention_factor
  if factor is None:
    factor = 0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0
  return mixed.astype(np.float32), factor


def rope_tables(
  rope: RopeConfig, head_dim: int, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The cosine and sine of each position: float32 [B, n, 1, H/2] each."""
  frequency, factor = rope_frequencies(rope, head_dim)
  angle = positions.astype(jnp.float32)[:, :, None, None] * frequency
  return jnp.cos(angle) * factor, jnp.sin(angle) * factor


def apply_rope(x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotates the pairs (i, i + H/2) of [B, n, heads, H], in float32.

  Where the tables have fewer pairs, these are of the first dimensions.
  """
  cos, sin = tables
  x, half = x.astype(jnp.float32), cos.shape[-1]
  a, b, rest = jnp.split(x, [half, 2 * half], axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


class Norm(nnx.Module):
  """RMS norm (arXiv 1910.07467) in float32, over the last axis.

  With `config.layer_norm`, a layer norm (arXiv 1607.06450) with a bias.
  """

  def __init__(self, config: ModelConfig, size: int, param_dtype: Any) -> None:
    self.offset = 1.0 if config.unit_offset_norm else 0.0
    self.eps = config.norm_eps
    self.centered = config.layer_norm
    self.scale = nnx.Param(jnp.full((size,), 1.0 - self.offset, param_dtype))
    if self.centered:
      self.bias = nnx.Param(jnp.zeros((size,), param_dtype))

  def __call__(self, x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    if self.centered:
      wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    scale = self.offset + self.scale[...].astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(mean_square + self.eps) * scale
    if self.centered:
      wide = wide + self.bias[...].astype(jnp.float32)
    return wide.astype(x.dtype)


class Linear(nnx.Module):
  """`x @ kernel [in, out] + bias [out]`, in the dtype of `x`.

  The kernel may have an adapter.
  """

  def __init__(
    self,
    in_size: int,
    out_size: int,
    *,
    bias: bool,
    stddev: float,
    param_dtype: Any,
    rngs: nnx.Rngs,
  ) -> None:
    init = nnx.initializers.normal(stddev)
    self.kernel = nnx.Param(
      init(rngs.params(), (in_size, out_size), param_dtype)
    )
    if bias:
      self.bias = nnx.Param(jnp.zeros((out_size,), param_dtype))
    self.has_bias = bias

  def __call__(self, x: jax.Array) -> jax.Array:
    y = lora.multiply(x, self.kernel.get_value())
    return y + self.bias[...].astype(x.dtype) if self.has_bias else y


class Attention(nnx.Module):
  """Causal grouped-query attention of one layer."""

  def __init__(
    self, config: ModelConfig, layer: int, param_dtype: Any, rngs: nnx.Rngs
  ) -> None:
    self.config = config
    self.window = config.window(layer)
    self.blocks = config.blocks(layer)
    scalar = config.query_pre_attn_scalar
    self.scale = (config.head_dim if scalar is None else scalar) ** -0.5
    heads = config.num_heads * config.head_dim
    kv_heads = config.num_kv_heads * config.head_dim

    def linear(in_size: int, out_size: int, bias: bool, stddev: float):
      return Linear(
        in_size,
        out_size,
        bias=bias,
        stddev=stddev,
        param_dtype=param_dtype,
        rngs=rngs,
      )

    bias = config.attention_bias
    self.query = linear(config.hidden_size, heads, bias, INIT_STDDEV)
    self.key = linear(config.hidden_size, kv_heads, bias, INIT_STDDEV)
    self.value = linear(config.hidden_size, kv_heads, bias, INIT_STDDEV)
    self.out = linear(
      heads,
      config.hidden_size,
      config.attention_output_bias,
      INIT_STDDEV / math.sqrt(2 * config.num_layers),
    )
    if config.qk_norm:
      of_all = config.qk_norm_of_all_heads
      sizes = (heads, kv_heads) if of_all else (config.head_dim,) * 2
      self.query_norm = Norm(config, sizes[0], param_dtype)
      self.key_norm = Norm(config, sizes[1], param_dtype)

  def __call__(
    self,
    x: jax.Array,
    tables: tuple[jax.Array, jax.Array],
    positions: jax.Array | None,
    cache: dict[str, jax.Array] | None,
    starts: jax.Array | None,
  ) -> tuple[jax.Array, dict[str, jax.Array] | None]:
    """x [B, n, D], positions [B, n] -> [B, n, D] and the written cache.

    Without positions, what the cache holds is stale, and x is written in front.
    Every device has the weights of heads that do not divide over `tensor`: each
    attends for its part of the rows, where no cache has to be whole.
    """
    divides = self.config.divides_heads(sharding.num_tensor_parts())
    spreads = cache is None and not divides
    if spreads:
      x = sharding.constrain(x, "spread_row", None, None)
    batch, n, _ = x.shape
    heads = (batch, n, -1, self.config.head_dim)
    query, key, value = self.query(x), self.key(x), self.value(x)
    if self.config.qk_norm and self.config.qk_norm_of_all_heads:
      query, key = self.query_norm(query), self.key_norm(key)
    query, key = query.reshape(heads), key.reshape(heads)
    value = value.reshape(heads)
    if self.config.qk_norm and not self.config.qk_norm_of_all_heads:
      query, key = self.query_norm(query), self.key_norm(key)
    query = (apply_rope(query, tables) * self.scale).astype(x.dtype)
    key = apply_rope(key, tables).astype(x.dtype)
    new = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
    options: dict[str, Any] = {
      "window": self.window,
      "cap": self.config.attention_soft_cap,
      "blocks": self.blocks,
    }
    if cache is None or positions is None:
      mixed = attend_itself(query, *new, starts, **options)
      if cache is not None:
        cache = write_cache(cache, *new, None)
    else:
      mixed, cache = attend_to_cache(query, *new, cache, positions, **options)
    mixed = self.out(mixed)
    return (sharding.constrain_rows(mixed) if spreads else mixed), cache


class MLP(nnx.Module):
  """The gated MLP `down(activation(gate(x)) * up(x))` (arXiv 2002.05202).

  Without `config.gated_mlp`, `down(activation(up(x)))`. With `gate_limit` and
  `unit_offset_up`, `down(activation(min(gate(x), limit)) * (1 + up(x)))`, where
  up(x) is within +-limit.
  """

  def __init__(
    self, config: ModelConfig, param_dtype: Any, rngs: nnx.Rngs
  ) -> None:
    self.activation = _ACTIVATIONS[config.activation]
    wide, narrow = config.intermediate_size, config.hidden_size

    def linear(in_size: int, out_size: int, stddev: float):
      return Linear(
        in_size,
        out_size,
        bias=config.mlp_bias,
        stddev=stddev,
        param_dtype=param_dtype,
        rngs=rngs,
      )

    self.gated = config.gated_mlp
    self.limit = config.gate_limit
    self.offset = 1.0 if config.unit_offset_up else 0.0
    if self.gated:
      self.gate = linear(narrow, wide, INIT_STDDEV)
    self.up = linear(narrow, wide, INIT_STDDEV)
    self.down = linear(
      wide, narrow, INIT_STDDEV / math.sqrt(2 * config.num_layers)
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    if not self.gated:
      return self.down(self.activation(self.up(x)))
    gate, up = self.gate(x), self.up(x)
    if self.limit is not None:
      gate = _clipped(gate, -jnp.inf, self.limit)
      up = _clipped(up, -self.limit, self.limit)
    if self.offset:
      up += self.offset
    return self.down(self.activation(gate) * up)


class Block(nnx.Module):
  """One layer: attention and MLP, each inside its residual connection."""

  def __init__(
    self, config: ModelConfig, layer: int, param_dtype: Any, rngs: nnx.Rngs
  ) -> None:

    def norm(is_there: bool) -> Norm | None:
      size = config.hidden_size
      return Norm(config, size, param_dtype) if is_there else None

    self.attention_norm = norm(config.pre_norm)
    self.attention = Attention(config, layer, param_dtype, rngs)
    self.post_attention_norm = norm(config.post_norm)
    self.mlp_norm = norm(config.pre_norm)
    self.mlp = _mlp(config, layer, param_dtype, rngs)
    self.post_mlp_norm = norm(config.post_norm)

  def __call__(
    self,
    x: jax.Array,
    tables: tuple[jax.Array, jax.Array],
    positions: jax.Array | None,
    cache: dict[str, jax.Array] | None,
    starts: jax.Array | None,
  ) -> tuple[jax.Array, dict[str, jax.Array] | None]:
    mixed, cache = self.attention(
      _normed(self.attention_norm, x), tables, positions, cache, starts
    )
    x = x + _normed(self.post_attention_norm, mixed)
    mixed = self.mlp(_normed(self.mlp_norm, x))
    return x + _normed(self.post_mlp_norm, mixed), cache


def _mlp(
  config: ModelConfig, layer: int, param_dtype: Any, rngs: nnx.Rngs
) -> MLP | ExpertMLP:
  if not config.has_experts(layer):
    return MLP(config, param_dtype, rngs)
  stddevs = INIT_STDDEV, INIT_STDDEV / math.sqrt(2 * config.num_layers)
  activation = _ACTIVATIONS[config.activation]
  return ExpertMLP(config, activation, stddevs, param_dtype, rngs)


def _clipped(x: jax.Array, low: float, high: float) -> jax.Array:
  # What has overflowed stays infinite, so that it is noticed.
  return jnp.where(jnp.isinf(x), x, jnp.clip(x, low, high))


def _normed(norm: Norm | None, x: jax.Array) -> jax.Array:
  return x if norm is None else norm(x)
