"""The model families, their cache, and Hugging Face weights in and out."""

from skd_jax.models.architecture import create, init_params, param_shapes
from skd_jax.models.config import (
  BlockSparsity,
  EncoderDecoderConfig,
  ModelConfig,
  RopeConfig,
)
from skd_jax.models.hf_config import model_config_from_hf, model_config_to_hf
from skd_jax.models.huggingface import (
  EXPORT_DTYPES,
  load_config,
  load_params,
  save,
)
from skd_jax.models.loading import (
  LoadedModel,
  Placement,
  compute_dtype,
  init_model,
  load_model,
  save_model,
)
from skd_jax.models.lora import adapted_shapes, add_adapters
from skd_jax.models.peft import load_adapters, save_adapters
from skd_jax.models.placement import param_shardings, usable_rules
from skd_jax.models.pruning import prune_layers

__all__ = [
  "EXPORT_DTYPES",
  "BlockSparsity",
  "EncoderDecoderConfig",
  "LoadedModel",
  "ModelConfig",
  "Placement",
  "RopeConfig",
  "adapted_shapes",
  "add_adapters",
  "compute_dtype",
  "create",
  "init_model",
  "init_params",
  "load_adapters",
  "load_config",
  "load_model",
  "load_params",
  "model_config_from_hf",
  "model_config_to_hf",
  "param_shapes",
  "param_shardings",
  "prune_layers",
  "save",
  "save_adapters",
  "save_model",
  "usable_rules",
]
