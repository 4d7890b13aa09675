"""What a config describes: a decoder alone, or one behind an encoder."""

from typing import Any

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.models import decoder, encoder_decoder
from skd_jax.models.config import EncoderDecoderConfig, ModelConfig


def create(
  config: ModelConfig, *, dtype: Any = jnp.float32, remat: bool = False
) -> structs.LanguageModel:
  """The model as pure functions; see decoder.create, encoder_decoder.create."""
  if isinstance(config, EncoderDecoderConfig):
    return encoder_decoder.create(config, dtype=dtype, remat=remat)
  return decoder.create(config, dtype=dtype, remat=remat)


def init_params(
  config: ModelConfig, key: jax.Array, *, param_dtype: Any = jnp.float32
) -> structs.Params:
  """Weights to train from scratch; see decoder.init_params."""
  if isinstance(config, EncoderDecoderConfig):
    return encoder_decoder.init_params(config, key, param_dtype=param_dtype)
  return decoder.init_params(config, key, param_dtype=param_dtype)


def param_shapes(
  config: ModelConfig, *, param_dtype: Any = jnp.float32
) -> structs.Params:
  """The tree of `init_params` as jax.ShapeDtypeStruct; allocates nothing."""
  return jax.eval_shape(
    lambda key: init_params(config, key, param_dtype=param_dtype),
    jax.random.key(0),
  )
