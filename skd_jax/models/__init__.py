"""The decoder family, its cache, and Hugging Face weights in and out."""

from skd_jax.models.config import ModelConfig, RopeConfig
from skd_jax.models.decoder import create, init_params, param_shapes
from skd_jax.models.hf_config import model_config_from_hf, model_config_to_hf
from skd_jax.models.huggingface import load_config, load_params, save

__all__ = [
  "ModelConfig",
  "RopeConfig",
  "create",
  "init_params",
  "load_config",
  "load_params",
  "model_config_from_hf",
  "model_config_to_hf",
  "param_shapes",
  "save",
]
