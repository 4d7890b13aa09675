"""The decoder as pure functions of its weights.

The weights are a plain nested dict of arrays:

  embedding [V, D]
  position_embedding [max_position_embeddings, D], where positions are learned
  layers / 0, 1, ... / attention / query, key, value, out / kernel [in, out]
                     / mlp / gate, up, down / kernel [in, out]
                           / router / kernel [D, E], and expert_gate, expert_up,
                             expert_down / kernel [E, in, out] in their place
                     / attention_norm, mlp_norm, ... / scale [D]
  final_norm / scale [D]
  lm_head [V, D], only where the head is not tied to the embedding

The cache is a list with one {"k", "v"} a layer of [B, N, S, H], or as
narrow_heads.py lays out narrow heads on TPU. Layers with a window keep all S
slots too.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from skd_jax import structs
from skd_jax.models import (
  attention,
  fused_attention,
  layers,
  narrow_heads,
  quantization,
)
from skd_jax.models.config import ModelConfig
from skd_jax.parallel import sharding

# The logit of a row that is no token: its probability is 0, and 0 times its
# logarithm too, which infinity would make NaN.
_NO_TOKEN = -1e9


class Decoder(nnx.Module):
  """The transformer up to its final norm; the head is `create(...).head`."""

  def __init__(
    self, config: ModelConfig, *, param_dtype: Any, rngs: nnx.Rngs
  ) -> None:
    self.config = config
    shape = (config.vocab_rows, config.hidden_size)
    init = nnx.initializers.normal(layers.INIT_STDDEV)
    self.embedding = nnx.Param(init(rngs.params(), shape, param_dtype))
    if config.learned_positions:
      table = (config.max_position_embeddings, config.hidden_size)
      self.position_embedding = nnx.Param(
        init(rngs.params(), table, param_dtype)
      )
    self.layers = nnx.List(
      [
        layers.Block(config, layer, param_dtype, rngs)
        for layer in range(config.num_layers)
      ]
    )
    self.final_norm = layers.Norm(config, config.hidden_size, param_dtype)
    if not config.tie_embeddings:
      self.lm_head = nnx.Param(init(rngs.params(), shape, param_dtype))

  def __call__(
    self,
    tokens: jax.Array,
    positions: jax.Array | None,
    cache: structs.Cache,
    *,
    dtype: Any,
    remat: bool,
    packed: bool,
  ) -> tuple[jax.Array, structs.Cache]:
    """tokens, positions [B, n] -> hidden [B, n, D] and the written cache.

    Without positions they are 0..n - 1, and what the cache holds is stale.
    """
    config = self.config
    is_prompt = positions is None
    if is_prompt:
      positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    if config.has_last_position and not packed:
      longest = config.max_position_embeddings
      if tokens.shape[1] > longest:
        raise ValueError(
          f"tokens has {tokens.shape[1]} columns: must have at most {longest}, "
          "the max_position_embeddings"
        )
    tokens, positions = sharding.constrain_rows((tokens, positions))
    # Gathered over fsdp like every other weight. Left cut, the lookup would
    # gather the rows of all devices instead.
    table = jax.tree.map(
      lambda x: sharding.constrain(x, "vocab", None), self.embedding.get_value()
    )
    x = quantization.lookup(table, tokens).astype(dtype)
    x = sharding.constrain_rows(x)
    if config.scale_embeddings:
      x = x * jnp.asarray(config.hidden_size**0.5, dtype)
    if config.embedding_multiplier != 1:
      x = x * jnp.asarray(config.embedding_multiplier, dtype)
    if config.learned_positions:
      table = sharding.constrain(self.position_embedding[...], None, None)
      # A draft may run past the last position; what it proposes there is cut.
      x = x + table.at[positions].get(mode="clip").astype(dtype)
    ropes = [config.layer_rope(i) for i in range(config.num_layers)]
    tables = {
      rope: layers.rope_tables(rope, config.head_dim, positions)
      for rope in set(ropes)
    }
    # The slot where a position is 0 begins the sequence.
    slots = jnp.arange(tokens.shape[1])[None, :]
    starts = slots - positions if packed else None
    caches = []
    for i, block in enumerate(self.layers):
      one_layer = functools.partial(
        block,
        tables=tables[ropes[i]],
        # Not those that were given: these may be anywhere on the mesh.
        positions=None if is_prompt else positions,
        cache=None if cache is None else cache[i],
        starts=starts,
      )
      x, layer_cache = (jax.checkpoint(one_layer) if remat else one_layer)(x)
      x = sharding.constrain_rows(x)
      caches.append(layer_cache)
    return self.final_norm(x), None if cache is None else caches


def init_params(
  config: ModelConfig, key: jax.Array, *, param_dtype: Any = jnp.float32
) -> structs.Params:
  """Weights to train from scratch; can be jitted with `config` closed over.

  Kernels and embeddings are normal with deviation 0.02, those that write into
  the residual stream with 0.02 / sqrt(2 L); norms are the identity and biases
  zero.

  Args:
    config: the shape of the model.
    key: a JAX random key.
    param_dtype: dtype of every array.

  Returns:
    The nested dict of the module docstring.
  """
  model = Decoder(config, param_dtype=param_dtype, rngs=nnx.Rngs(key))
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  # Names of layers are strings, since checkpoints return dict keys as strings.
  params["layers"] = {str(i): p for i, p in params["layers"].items()}
  return params


@dataclasses.dataclass(frozen=True)
class DecoderModel(structs.LanguageModel):
  """A decoder; its `apply` takes None for the positions of a prompt.

  These are 0..n - 1 in every row, and nothing else is in the cache: a prompt
  attends to itself, and is written in one piece.
  """

  @property
  def reads_one_sequence(self) -> bool:
    """As in LanguageModel."""
    return True

  def prefill(
    self,
    params: structs.Params,
    prompt: jax.Array,
    prompt_length: jax.Array,
    cache: structs.Cache,
  ) -> structs.Cache:
    """As in LanguageModel."""
    del prompt_length
    return self.apply(params, prompt, None, cache)[1]


def empty_cache(
  shape: tuple[int, ...], num_layers: int, dtype: Any
) -> list[dict[str, jax.Array]]:
  """Returns {"k", "v"} of zeros of a shape for each layer."""

  def zeros():
    return attention.place_cache(jnp.zeros(shape, dtype))

  return [{"k": zeros(), "v": zeros()} for _ in range(num_layers)]


def create(
  config: ModelConfig, *, dtype: Any = jnp.float32, remat: bool = False
) -> structs.LanguageModel:
  """The decoder as pure functions; allocates no weights.

  Args:
    config: the shape of the model.
    dtype: compute dtype of activations, cache and matrix products. Weights of
      another dtype are cast where they are used. Norms, softmax, rotary
      embedding and logits are float32 whatever it is.
    remat: keep the input of each layer alone for the backward pass, and compute
      the layer once more there.

  Returns:
    The functions of `structs.LanguageModel`. The cache is that of the module
    docstring, of `dtype`. The positions of a call must be contiguous in each
    row, or in each sequence of a packed one; a position past the cache is not
    written. Padding sits to the right, so that it needs no mask.
  """
  graphdef = nnx.graphdef(
    nnx.eval_shape(
      lambda: Decoder(config, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    )
  )

  def apply(params, tokens, positions, cache, *, packed=False):
    by_index = {int(i): p for i, p in params["layers"].items()}
    model = nnx.merge(graphdef, {**params, "layers": by_index})
    return model(
      tokens, positions, cache, dtype=dtype, remat=remat, packed=packed
    )

  def head(head_params, hidden):
    # W [V, D] times hidden^T [D, M], then the small result is transposed: both
    # operands are read in the layout they have. As hidden @ W^T, XLA on CPU may
    # copy W^T first when M is small.
    flat = hidden.reshape(-1, hidden.shape[-1]).astype(dtype)
    logits = quantization.multiply_rows(head_params["kernel"], flat)
    logits = logits.T.reshape(*hidden.shape[:-1], -1)
    if config.logit_divisor != 1:
      logits = logits / config.logit_divisor
    logits = attention.soft_cap(logits, config.final_soft_cap)
    # The rows from V on are no tokens, and some below V are never used. A block
    # of rows, as the loss takes on a CPU, has no gradient there in any case.
    if logits.shape[-1] != config.vocab_rows:
      return logits
    if config.vocab_rows != config.vocab_size:
      is_token = jnp.arange(logits.shape[-1]) < config.vocab_size
      logits = jnp.where(is_token, logits, _NO_TOKEN)
    if config.unused_tokens:
      is_used = np.ones(config.vocab_rows, bool)
      is_used[list(config.unused_tokens)] = False
      logits = jnp.where(is_used, logits, _NO_TOKEN)
    return logits

  def head_params(params):
    tied = config.tie_embeddings
    return {"kernel": params["embedding" if tied else "lm_head"]}

  def init_cache(batch_size, num_slots):
    if sharding.platform() == "tpu":
      num_slots += -num_slots % fused_attention.SLOTS_TOGETHER
    shape = batch_size, config.num_kv_heads, num_slots, config.head_dim
    # Which blocks a query sees depends on the number of its head.
    if config.block_sparsity is None:
      shape = narrow_heads.cache_shape(*shape)
    return empty_cache(shape, config.num_layers, dtype)

  return DecoderModel(
    apply=apply,
    head=head,
    head_params=head_params,
    init_cache=init_cache,
  )
