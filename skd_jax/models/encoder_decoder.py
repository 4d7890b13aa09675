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
          / position_bias [buckets, N], where it is relative
  layers / 0, 1, ... / cross_attention / query, key, value, out
                     / cross_attention_norm
  position_bias
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from skd_jax import structs
from skd_jax.models import attention, decoder, encoder_layers, layers
from skd_jax.models.config import EncoderDecoderConfig
from skd_jax.parallel import sharding


class Encoder(nnx.Module):
  """The layers of the encoder and its final norm."""

  def __init__(
    self, config: EncoderDecoderConfig, param_dtype: Any, rngs: nnx.Rngs
  ) -> None:
    self.layers = nnx.List(
      [
        encoder_layers.EncoderBlock(config, param_dtype, rngs)
        for _ in range(config.num_encoder_layers)
      ]
    )
    self.final_norm = layers.Norm(config, config.hidden_size, param_dtype)
    if config.relative_buckets:
      self.position_bias = _position_bias(config, param_dtype, rngs)


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
    shape = (config.vocab_rows, config.hidden_size)
    init = nnx.initializers.normal(layers.INIT_STDDEV)
    self.embedding = nnx.Param(init(rngs.params(), shape, param_dtype))
    self.encoder = Encoder(config, param_dtype, rngs)
    self.layers = nnx.List(
      [
        encoder_layers.DecoderBlock(config, param_dtype, rngs)
        for _ in range(config.num_layers)
      ]
    )
    self.final_norm = layers.Norm(config, config.hidden_size, param_dtype)
    if config.relative_buckets:
      self.position_bias = _position_bias(config, param_dtype, rngs)
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
      of_positions = encoder_layers.sinusoids(positions, x.shape[-1])
      x = x + of_positions.astype(self.dtype)
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

  def _output(self, x: jax.Array) -> jax.Array:
    x = self.final_norm(x)
    scale = self.config.hidden_size**-0.5 if self.config.scale_output else 1.0
    return x * jnp.asarray(scale, x.dtype)

  def _bias(
    self, part: Any, queries: jax.Array, num_keys: int, *, causal: bool
  ) -> jax.Array | None:
    """What relative positions add to the scores, [., N, n, num_keys].

    Args:
      part: the encoder, or this.
      queries: int32 [., n], their positions; keys are at 0, 1, ...
      num_keys: how many.
      causal: whether keys that follow the query are not seen.
    """
    config = self.config
    if not config.relative_buckets:
      return None
    distance = jnp.arange(num_keys) - queries[..., None]
    bucket = encoder_layers.relative_bucket(
      distance,
      config.relative_buckets,
      config.relative_max_distance,
      causal=causal,
    )
    table = part.position_bias[...].astype(jnp.float32)
    return jnp.moveaxis(table[bucket], -1, 1)

  @jax.named_scope("encode")
  def encode(self, prompt: jax.Array, start: jax.Array) -> jax.Array:
    """prompt [B, P], start [B, 1] -> [B, P, D]; nothing from start on."""
    positions = jnp.broadcast_to(jnp.arange(prompt.shape[1]), prompt.shape)
    x = self._embed(prompt, positions)
    bias = self._bias(self.encoder, positions[:1], x.shape[1], causal=False)
    for block in self.encoder.layers:
      x = sharding.constrain_rows(self._each(block)(x, start - 1, bias))
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
    tokens, slots = self._decoder_prompt(prompt, start)
    return self.step(tokens, slots, cache)[1]

  def step(
    self, tokens: jax.Array, slots: jax.Array, cache: structs.Cache
  ) -> tuple[jax.Array, structs.Cache]:
    """tokens, slots [B, n] -> hidden [B, n, D] and the written cache."""
    start = cache["start"][:, None]
    x = self._embed(tokens, slots - start)
    num_slots = cache["layers"][0]["k"].shape[2]
    below = jnp.arange(num_slots) < start
    bias = jnp.where(below, jnp.finfo(jnp.float32).min, 0.0)[:, None, None, :]
    relative = self._bias(self, slots, num_slots, causal=True)
    bias = bias if relative is None else bias + relative
    written = []
    for block, of_layer in zip(self.layers, cache["layers"], strict=True):
      x, of_layer = block.step(x, of_layer, slots, start, bias)
      x = sharding.constrain_rows(x)
      written.append(of_layer)
    return self._output(x), cache | {"layers": written}

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
    bias = self._bias(self, positions[:1], read.shape[1], causal=True)
    for block in self.layers:
      x = self._each(block)(x, encoded, positions, start - 1, bias)
      x = sharding.constrain_rows(x)
    return self._output(x)[:, first.shape[1] - 1 :]


def _position_bias(
  config: EncoderDecoderConfig, param_dtype: Any, rngs: nnx.Rngs
) -> nnx.Param:
  init = nnx.initializers.normal(layers.INIT_STDDEV)
  shape = (config.relative_buckets, config.num_heads)
  return nnx.Param(init(rngs.params(), shape, param_dtype))


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
    # One cache holds the keys of two attentions, whose bias is by head.
    shape = (batch_size, config.num_kv_heads, num_slots, config.head_dim)
    return {
      "layers": decoder.empty_cache(shape, config.num_layers, dtype),
      "start": jnp.zeros(batch_size, jnp.int32),
    }

  return _Model(
    apply=lambda params, *rest: bind(params).step(*rest),
    head=alone.head,
    head_params=alone.head_params,
    init_cache=init_cache,
    bind=bind,
  )
