"""A decoder behind an encoder, as pure functions of their weights.

The last K tokens of a prompt are what the decoder starts from; the encoder
reads what is before them, every token seeing every other. With K = 2:

  sequence    e  e  e  e | s  l | y0 y1 y2
  slot        0  1  2  3   4  5   6  7  8          start = 4
              encoder      decoder

Below `start`, a slot of the cache holds the keys and values that the decoder
has of the encoder's output; from there on, those of its own tokens. So a cache
has one slot for a token, as that of a decoder alone. It is

  {"layers": one {"k", "v"} of [B, N, S, H] a layer, "start": int32 [B]}

The weights are those of decoder.py and, beside them,

  encoder / layers / 0, 1, ... / as the decoder's, without cross_attention
          / final_norm / scale [D]
  layers / 0, 1, ... / cross_attention / query, key, value, out
                     / cross_attention_norm
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from skd_jax import structs
from skd_jax.models import attention, decoder, layers
from skd_jax.models.config import EncoderDecoderConfig
from skd_jax.parallel import sharding

_KeysValues = dict[str, jax.Array]  # {"k", "v"} of [B, N, S, H]


class Attention(nnx.Module):
  """Attention to keys and values of its own or of another sequence."""

  def __init__(
    self, config: EncoderDecoderConfig, param_dtype: Any, rngs: nnx.Rngs
  ) -> None:
    self.head_dim = config.head_dim
    self.scale = config.head_dim**-0.5
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

  def __call__(self, x: jax.Array, last: jax.Array) -> jax.Array:
    """x [B, P, D] -> [B, P, D]; the slots after `last` [B, 1] are padding."""
    normed = self.attention_norm(x)
    x = x + self.attention(normed, self.attention.keys_values(normed), last)
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
  ) -> jax.Array:
    """Reads a whole response.

    Args:
      x: [B, n, D].
      encoded: [B, P, D], the encoder's output.
      positions: int32 [B, n], 0, 1, ... in each row.
      last_encoded: int32 [B, 1], the last token that the encoder has read.
    """
    normed = self.attention_norm(x)
    own = self.attention.keys_values(normed)
    x = x + self.attention(normed, own, positions)
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
      bias: hides the slots below `start` from what sees the decoder's own.
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


class Encoder(nnx.Module):
  """The layers of the encoder and its final norm."""

  def __init__(
    self, config: EncoderDecoderConfig, param_dtype: Any, rngs: nnx.Rngs
  ) -> None:
    self.layers = nnx.List(
      [
        EncoderBlock(config, param_dtype, rngs)
        for _ in range(config.num_encoder_layers)
      ]
    )
    self.final_norm = layers.Norm(config, config.hidden_size, param_dtype)


class EncoderDecoder(nnx.Module):
  """The transformer up to the decoder's final norm."""

  def __init__(
    self,
    config: EncoderDecoderConfig,
    *,
    param_dtype: Any,
    rngs: nnx.Rngs,
    dtype: Any = jnp.float32,
    remat: bool = False,
  ) -> None:
    self.config, self.dtype, self.remat = config, dtype, remat
    shape = (config.vocab_size, config.hidden_size)
    init = nnx.initializers.normal(layers.INIT_STDDEV)
    self.embedding = nnx.Param(init(rngs.params(), shape, param_dtype))
    self.encoder = Encoder(config, param_dtype, rngs)
    self.layers = nnx.List(
      [
        DecoderBlock(config, param_dtype, rngs)
        for _ in range(config.num_layers)
      ]
    )
    self.final_norm = layers.Norm(config, config.hidden_size, param_dtype)
    if not config.tie_embeddings:
      self.lm_head = nnx.Param(init(rngs.params(), shape, param_dtype))

  def _embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    tokens, positions = sharding.constrain_rows((tokens, positions))
    # Gathered over fsdp like every other weight; see decoder.py.
    table = sharding.constrain(self.embedding[...], "vocab", None)
    x = sharding.constrain_rows(table[tokens].astype(self.dtype))
    if self.config.scale_embeddings:
      x = x * jnp.asarray(self.config.hidden_size**0.5, self.dtype)
    if self.config.sinusoidal_positions:
      x = x + sinusoids(positions, self.config.hidden_size).astype(self.dtype)
    return x

  def _start(self, prompt_length: jax.Array) -> jax.Array:
    # A row that only pads has a prompt of one token.
    start = prompt_length - self.config.decoder_prompt_size
    return jnp.maximum(start, 0)[:, None]

  def _decoder_prompt(self, prompt: jax.Array, start: jax.Array) -> Any:
    """Returns the K tokens that the decoder starts from, and their slots."""
    slots = start + jnp.arange(self.config.decoder_prompt_size)[None, :]
    return jnp.take_along_axis(prompt, slots, axis=1, mode="clip"), slots

  def _each(self, block: nnx.Module) -> Callable[..., jax.Array]:
    return jax.checkpoint(block) if self.remat else block

  @jax.named_scope("encode")
  def encode(self, prompt: jax.Array, start: jax.Array) -> jax.Array:
    """prompt [B, P], start [B, 1] -> [B, P, D]; nothing from start on."""
    positions = jnp.broadcast_to(jnp.arange(prompt.shape[1]), prompt.shape)
    x = self._embed(prompt, positions)
    for block in self.encoder.layers:
      x = sharding.constrain_rows(self._each(block)(x, start - 1))
    return self.encoder.final_norm(x)

  def prefill(
    self, prompt: jax.Array, prompt_length: jax.Array, cache: structs.Cache
  ) -> structs.Cache:
    """Encodes prompts, and lets the decoder read its K tokens."""
    start = self._start(prompt_length)
    encoded = self.encode(prompt, start)
    filled = [
      {
        name: attention.place_cache(
          jax.lax.dynamic_update_slice_in_dim(
            old[name], new.astype(old[name].dtype), 0, axis=2
          )
        )
        for name, new in block.cross_attention.keys_values(encoded).items()
      }
      for block, old in zip(self.layers, cache["layers"], strict=True)
    ]
    cache = {"layers": filled, "start": start[:, 0]}
    return self.step(*self._decoder_prompt(prompt, start), cache)[1]

  def step(
    self, tokens: jax.Array, slots: jax.Array, cache: structs.Cache
  ) -> tuple[jax.Array, structs.Cache]:
    """tokens, slots [B, n] -> hidden [B, n, D] and the written cache."""
    start = cache["start"][:, None]
    x = self._embed(tokens, slots - start)
    at = jnp.arange(cache["layers"][0]["k"].shape[2])[None, :]
    below = jnp.where(at < start, jnp.finfo(jnp.float32).min, 0.0)
    written = []
    for block, of_layer in zip(self.layers, cache["layers"], strict=True):
      x, of_layer = block.step(
        x, of_layer, slots, start, below[:, None, None, :]
      )
      x = sharding.constrain_rows(x)
      written.append(of_layer)
    return self.final_norm(x), cache | {"layers": written}

  def response_hidden(
    self, prompt: jax.Array, prompt_length: jax.Array, tokens: jax.Array
  ) -> jax.Array:
    """Encodes prompts and reads responses: [B, T, D]; see LanguageModel."""
    start = self._start(prompt_length)
    encoded = self.encode(prompt, start)
    first, _ = self._decoder_prompt(prompt, start)
    read = jnp.concatenate([first, tokens[:, :-1]], axis=1)
    positions = jnp.broadcast_to(jnp.arange(read.shape[1]), read.shape)
    x = self._embed(read, positions)
    for block in self.layers:
      x = self._each(block)(x, encoded, positions, start - 1)
      x = sharding.constrain_rows(x)
    return self.final_norm(x)[:, first.shape[1] - 1 :]


def sinusoids(positions: jax.Array, size: int) -> jax.Array:
  """Returns the vectors of positions as in M2M100: [B, n] -> float32 [.., D].

  The first position is number 2: the table of fairseq begins with padding.
  """
  half = size // 2
  rate = math.log(10000) / (half - 1)
  frequency = np.exp(-rate * np.arange(half, dtype=np.float32))
  angle = (positions + 2).astype(jnp.float32)[..., None] * frequency
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def init_params(
  config: EncoderDecoderConfig,
  key: jax.Array,
  *,
  param_dtype: Any = jnp.float32,
) -> structs.Params:
  """Weights to train from scratch; see decoder.init_params."""
  model = EncoderDecoder(config, param_dtype=param_dtype, rngs=nnx.Rngs(key))
  return _with_names(nnx.to_pure_dict(nnx.state(model, nnx.Param)), str)


def _with_names(params: structs.Params, kind: type) -> structs.Params:
  """Returns the weights with layers named by str, as in files, or by int."""

  def named(layers: structs.Params) -> structs.Params:
    return {kind(i): p for i, p in layers.items()}

  encoder = params["encoder"]
  return {
    **params,
    "layers": named(params["layers"]),
    "encoder": {**encoder, "layers": named(encoder["layers"])},
  }


@dataclasses.dataclass(frozen=True)
class _Model(structs.LanguageModel):
  """bind: `params -> the module that has them`."""

  bind: Callable[[structs.Params], EncoderDecoder]

  def prefill(
    self,
    params: structs.Params,
    prompt: jax.Array,
    prompt_length: jax.Array,
    cache: structs.Cache,
  ) -> structs.Cache:
    """As of LanguageModel."""
    return self.bind(params).prefill(prompt, prompt_length, cache)

  def response_hidden(
    self,
    params: structs.Params,
    prompt: jax.Array,
    prompt_length: jax.Array,
    tokens: jax.Array,
  ) -> jax.Array:
    """As of LanguageModel."""
    return self.bind(params).response_hidden(prompt, prompt_length, tokens)


def create(
  config: EncoderDecoderConfig, *, dtype: Any = jnp.float32, remat: bool = False
) -> structs.LanguageModel:
  """Encoder and decoder as pure functions; allocates no weights.

  Args:
    config: the shape of the model.
    dtype: see decoder.create; so is remat.
    remat: see decoder.create.

  Returns:
    The functions of `structs.LanguageModel`, with `prefill` and
    `response_hidden` of its own. `apply` reads the decoder's tokens alone, and
    must be given a cache in which `prefill` has read the prompt.
  """
  module = functools.partial(EncoderDecoder, config, dtype=dtype, remat=remat)
  graphdef = nnx.graphdef(
    nnx.eval_shape(lambda: module(param_dtype=jnp.float32, rngs=nnx.Rngs(0)))
  )

  def bind(params):
    return nnx.merge(graphdef, _with_names(params, int))

  # The head and the slots of a layer are those of a decoder alone.
  alone = decoder.create(config, dtype=dtype)

  def init_cache(batch_size, num_slots):
    start = jnp.zeros(batch_size, jnp.int32)
    return {"layers": alone.init_cache(batch_size, num_slots), "start": start}

  return _Model(
    apply=lambda params, *rest: bind(params).step(*rest),
    head=alone.head,
    head_params=alone.head_params,
    init_cache=init_cache,
    bind=bind,
  )
