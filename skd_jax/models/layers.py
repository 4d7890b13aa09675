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
from skd_jax.models.attention import attend, place_cache, write_slots
from skd_jax.models.config import ModelConfig, RopeConfig

INIT_STDDEV = 0.02

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "silu": jax.nn.silu,
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


def rope_frequencies(rope: RopeConfig, head_dim: int) -> tuple[Any, float]:
  """The angle that one position adds, for each pair of dimensions.

  Returns:
    float32 [H/2] in radians per position, and the factor of cos and sin (1
    except for `yarn`).
  """
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
  """Rotates the pairs (i, i + H/2) of [B, n, heads, H], in float32."""
  cos, sin = tables
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class Norm(nnx.Module):
  """RMS norm (arXiv 1910.07467) in float32, over the last axis."""

  def __init__(self, config: ModelConfig, size: int, param_dtype: Any) -> None:
    self.offset = 1.0 if config.unit_offset_norm else 0.0
    self.eps = config.norm_eps
    self.scale = nnx.Param(jnp.full((size,), 1.0 - self.offset, param_dtype))

  def __call__(self, x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    scale = self.offset + self.scale[...].astype(jnp.float32)
    return (wide * jax.lax.rsqrt(mean_square + self.eps) * scale).astype(
      x.dtype
    )


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
      self.query_norm = Norm(config, config.head_dim, param_dtype)
      self.key_norm = Norm(config, config.head_dim, param_dtype)

  def __call__(
    self,
    x: jax.Array,
    tables: tuple[jax.Array, jax.Array],
    positions: jax.Array,
    cache: dict[str, jax.Array] | None,
  ) -> tuple[jax.Array, dict[str, jax.Array] | None]:
    """x [B, n, D], positions [B, n] -> [B, n, D] and the written cache."""
    batch, n, _ = x.shape
    heads = (batch, n, -1, self.config.head_dim)
    query = self.query(x).reshape(heads)
    key = self.key(x).reshape(heads)
    value = self.value(x).reshape(heads)
    if self.config.qk_norm:
      query, key = self.query_norm(query), self.key_norm(key)
    query = (apply_rope(query, tables) * self.scale).astype(x.dtype)
    key = apply_rope(key, tables).astype(x.dtype)
    if cache is None:
      key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
      positions = jnp.broadcast_to(jnp.arange(n), (batch, n))
    else:
      key = place_cache(write_slots(cache["k"], key, positions))
      value = place_cache(write_slots(cache["v"], value, positions))
      cache = {"k": key, "v": value}
    mixed = attend(
      query,
      key,
      value,
      positions,
      window=self.window,
      cap=self.config.attention_soft_cap,
    )
    return self.out(mixed), cache


class MLP(nnx.Module):
  """The gated MLP `down(activation(gate(x)) * up(x))` (arXiv 2002.05202)."""

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

    self.gate = linear(narrow, wide, INIT_STDDEV)
    self.up = linear(narrow, wide, INIT_STDDEV)
    self.down = linear(
      wide, narrow, INIT_STDDEV / math.sqrt(2 * config.num_layers)
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down(self.activation(self.gate(x)) * self.up(x))


class Block(nnx.Module):
  """One layer: attention and MLP, each inside its residual connection."""

  def __init__(
    self, config: ModelConfig, layer: int, param_dtype: Any, rngs: nnx.Rngs
  ) -> None:
    size = config.hidden_size
    self.sandwich = config.sandwich_norm
    self.attention_norm = Norm(config, size, param_dtype)
    self.attention = Attention(config, layer, param_dtype, rngs)
    self.mlp_norm = Norm(config, size, param_dtype)
    self.mlp = MLP(config, param_dtype, rngs)
    if self.sandwich:
      self.post_attention_norm = Norm(config, size, param_dtype)
      self.post_mlp_norm = Norm(config, size, param_dtype)

  def __call__(
    self,
    x: jax.Array,
    tables: tuple[jax.Array, jax.Array],
    positions: jax.Array,
    cache: dict[str, jax.Array] | None,
  ) -> tuple[jax.Array, dict[str, jax.Array] | None]:
    mixed, cache = self.attention(
      self.attention_norm(x), tables, positions, cache
    )
    x = x + (self.post_attention_norm(mixed) if self.sandwich else mixed)
    mixed = self.mlp(self.mlp_norm(x))
    return x + (self.post_mlp_norm(mixed) if self.sandwich else mixed), cache
