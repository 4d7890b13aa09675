"""The layers of encoder_decoder.py, and what they know of positions."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from skd_jax.models import attention, layers
from skd_jax.models.config import EncoderDecoderConfig

_KeysValues = dict[str, jax.Array]  # {"k", "v"} of [B, N, S, H]


class Attention(nnx.Module):
  """Attention to keys and values of its own or of another sequence."""

  def __init__(
    self, config: EncoderDecoderConfig, param_dtype: Any, rngs: nnx.Rngs
  ) -> None:
    self.head_dim = config.head_dim
    scalar = config.query_pre_attn_scalar
    self.scale = (config.head_dim if scalar is None else scalar) ** -0.5
    heads, width = config.num_heads * config.head_dim, config.hidden_size
    narrow = layers.INIT_STDDEV / math.sqrt(2 * config.num_layers)

    def linear(in_size: int, out_size: int, bias: bool, stddev: float):
      return layers.Linear(
        in_size,
        out_size,
        bias=bias,
        stddev=stddev,
        param_dtype=param_dtype,
        rngs=rngs,
      )

    bias = config.attention_bias
    self.query = linear(width, heads, bias, layers.INIT_STDDEV)
    self.key = linear(width, heads, bias, layers.INIT_STDDEV)
    self.value = linear(width, heads, bias, layers.INIT_STDDEV)
    self.out = linear(heads, width, config.attention_output_bias, narrow)

  def _heads(self, x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:2], -1, self.head_dim)

  def keys_values(self, x: jax.Array) -> _KeysValues:
    """Returns those of x [B, n, D], each [B, N, n, H]."""
    both = {"k": self.key(x), "v": self.value(x)}
    return {k: self._heads(y).transpose(0, 2, 1, 3) for k, y in both.items()}

  def __call__(
    self,
    x: jax.Array,
    seen: _KeysValues,
    last: jax.Array,
    bias: jax.Array | None = None,
  ) -> jax.Array:
    """x [B, n, D] -> [B, n, D]; a query sees the slots 0..last, [B, n]."""
    mixed = attention.attend(
      self._heads(self.query(x)) * self.scale,
      seen["k"],
      seen["v"],
      jnp.broadcast_to(last, x.shape[:2]),
      window=None,
      cap=None,
      bias=bias,
    )
    return self.out(mixed)


class EncoderBlock(nnx.Module):
  """One layer: attention of all to all, and MLP."""

  def __init__(
    self, config: EncoderDecoderConfig, param_dtype: Any, rngs: nnx.Rngs
  ) -> None:
    width = config.hidden_size
    self.attention_norm = layers.Norm(config, width, param_dtype)
    self.attention = Attention(config, param_dtype, rngs)
    self.mlp_norm = layers.Norm(config, width, param_dtype)
    self.mlp = layers.MLP(config, param_dtype, rngs)

  def __call__(
    self, x: jax.Array, last: jax.Array, bias: jax.Array | None
  ) -> jax.Array:
    """x [B, P, D] -> [B, P, D]; the slots after `last` [B, 1] are padding."""
    normed = self.attention_norm(x)
    own = self.attention.keys_values(normed)
    x = x + self.attention(normed, own, last, bias)
    return x + self.mlp(self.mlp_norm(x))


class DecoderBlock(nnx.Module):
  """One layer: attention to what is before and to the encoder's, and MLP."""

  def __init__(
    self, config: EncoderDecoderConfig, param_dtype: Any, rngs: nnx.Rngs
  ) -> None:
    width = config.hidden_size
    self.attention_norm = layers.Norm(config, width, param_dtype)
    self.attention = Attention(config, param_dtype, rngs)
    self.cross_attention_norm = layers.Norm(config, width, param_dtype)
    self.cross_attention = Attention(config, param_dtype, rngs)
    self.mlp_norm = layers.Norm(config, width, param_dtype)
    self.mlp = layers.MLP(config, param_dtype, rngs)

  def __call__(
    self,
    x: jax.Array,
    encoded: jax.Array,
    positions: jax.Array,
    last_encoded: jax.Array,
    bias: jax.Array | None,
  ) -> jax.Array:
    """Reads a whole response.

    Args:
      x: [B, n, D].
      encoded: [B, P, D], the encoder's output.
      positions: int32 [B, n], 0, 1, ... in each row.
      last_encoded: int32 [B, 1], the last token that the encoder has read.
      bias: [1, N, n, n], of the relative positions.
    """
    normed = self.attention_norm(x)
    own = self.attention.keys_values(normed)
    x = x + self.attention(normed, own, positions, bias)
    seen = self.cross_attention.keys_values(encoded)
    return self._rest(x, seen, last_encoded)

  def step(
    self,
    x: jax.Array,
    cache: _KeysValues,
    slots: jax.Array,
    start: jax.Array,
    bias: jax.Array,
  ) -> tuple[jax.Array, _KeysValues]:
    """Reads some tokens; both attentions look into one cache.

    Args:
      x: [B, n, D].
      cache: [B, N, S, H].
      slots: int32 [B, n].
      start: int32 [B, 1].
      bias: broadcasts to [B, N, n, S]; hides the slots below `start` from what
        sees the decoder's own.
    """
    normed = self.attention_norm(x)
    size = cache["k"].shape[2]
    # What a draft reads below `start` is none of the decoder's: dropped.
    to = jnp.where(slots >= start, slots, size)
    row = jnp.arange(x.shape[0])[:, None]
    cache = {
      name: attention.place_cache(
        cache[name]
        .at[row, :, to]
        .set(new.transpose(0, 2, 1, 3).astype(cache[name].dtype), mode="drop")
      )
      for name, new in self.attention.keys_values(normed).items()
    }
    x = x + self.attention(normed, cache, slots, bias)
    return self._rest(x, cache, start - 1), cache

  def _rest(
    self, x: jax.Array, seen: _KeysValues, last_encoded: jax.Array
  ) -> jax.Array:
    """What follows the attention to the decoder's own tokens."""
    normed = self.cross_attention_norm(x)
    x = x + self.cross_attention(normed, seen, last_encoded)
    return x + self.mlp(self.mlp_norm(x))


def relative_bucket(
  distance: jax.Array, num_buckets: int, max_distance: int, *, causal: bool
) -> jax.Array:
  """Returns the bucket of each distance, as in T5 (arXiv 1910.10683).

  8 buckets, max_distance = 20, causal:

    distance   0  -1  -2  -3  -4  -5  -6  -7  -8  -9 ... -13 -14 ...
    bucket     0   1   2   3   4   4   5   5   5   6       6   7

  Args:
    distance: int32, of a key from its query; negative where it is before.
    num_buckets: half of them are for one distance each, the others for ranges
      that grow. If not causal, one half of all is for keys that follow.
    max_distance: from which on all are in the last bucket.
    causal: whether keys that follow do not matter; they are in bucket 0.
  """
  if not causal:
    num_buckets //= 2
  exact = num_buckets // 2
  # From a table: the borders of the ranges are where float32 has them.
  far = np.arange(max_distance + 1)
  ratio = np.log(np.maximum(far, 1).astype(np.float32) / exact)
  ratio = ratio / np.float32(math.log(max_distance / exact))
  wide = exact + (ratio * (num_buckets - exact)).astype(np.int32)
  table = np.where(far < exact, far, np.minimum(wide, num_buckets - 1))
  if causal:
    return jnp.asarray(table)[jnp.clip(-distance, 0, max_distance)]
  bucket = jnp.asarray(table)[jnp.minimum(jnp.abs(distance), max_distance)]
  return bucket + jnp.where(distance > 0, num_buckets, 0)


def sinusoids(positions: jax.Array, size: int) -> jax.Array:
  """Returns the vectors of positions as in M2M100: [B, n] -> float32 [.., D].

  The first position is number 2: the table of fairseq begins with padding.
  """
  half = size // 2
  rate = math.log(10000) / (half - 1)
  frequency = np.exp(-rate * np.arange(half, dtype=np.float32))
  angle = (positions + 2).astype(jnp.float32)[..., None] * frequency
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
