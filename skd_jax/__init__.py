"""skd_jax: Speculative Knowledge Distillation (arXiv 2410.11325) in JAX.

  import skd_jax

  types      Batch, Rollout, LanguageModel, Policy, Rule, Sampling, TrainState,
             TokenInputs
  data       prompt_batch
  decoding   rollout, decode, speculative_decode, ModelDrafter, PromptLookup,
             make_stop_table, row_keys
  losses     forward_kl, reverse_kl, jsd, skew_forward_kl, skew_reverse_kl, tvd,
             top_k_forward_kl, distillation_token_loss, chunked_loss,
             rollout_loss
  models     load_model, save_model, load_tokenizer, prune_layers
  text       generate
  training   default_config, apply_method, train_and_evaluate, compare, Study,
             Arm, ShareByDistance

Each name is loaded when it is first used, so that the import is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
  from skd_jax.comparison import compare
  from skd_jax.config import default_config
  from skd_jax.data.prompts import prompt_batch
  from skd_jax.data.tokenizer import load_tokenizer
  from skd_jax.decoding.acceptance import Rule
  from skd_jax.decoding.drafters import ModelDrafter, PromptLookup
  from skd_jax.decoding.policy import Policy
  from skd_jax.decoding.rollout import decode, rollout
  from skd_jax.decoding.sampling import Sampling, row_keys
  from skd_jax.decoding.speculative import speculative_decode
  from skd_jax.decoding.stopping import make_stop_table
  from skd_jax.losses.chunked import chunked_loss
  from skd_jax.losses.divergence import (
    forward_kl,
    jsd,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    top_k_forward_kl,
    tvd,
  )
  from skd_jax.losses.token_losses import TokenInputs, distillation_token_loss
  from skd_jax.methods import apply_method
  from skd_jax.models.loading import load_model, save_model
  from skd_jax.models.pruning import prune_layers
  from skd_jax.structs import Batch, LanguageModel, Rollout, TrainState
  from skd_jax.study import Arm, Study
  from skd_jax.text import generate
  from skd_jax.train import train_and_evaluate
  from skd_jax.training.distance import ShareByDistance
  from skd_jax.training.train_step import rollout_loss

# Where each public name is, by module.
_MODULES = {
  "structs": ("Batch", "Rollout", "LanguageModel", "TrainState"),
  "decoding.policy": ("Policy",),
  "decoding.acceptance": ("Rule",),
  "decoding.sampling": ("Sampling", "row_keys"),
  "decoding.rollout": ("rollout", "decode"),
  "decoding.speculative": ("speculative_decode",),
  "decoding.drafters": ("ModelDrafter", "PromptLookup"),
  "decoding.stopping": ("make_stop_table",),
  "losses.divergence": (
    "forward_kl",
    "reverse_kl",
    "jsd",
    "skew_forward_kl",
    "skew_reverse_kl",
    "tvd",
    "top_k_forward_kl",
  ),
  "losses.token_losses": ("TokenInputs", "distillation_token_loss"),
  "losses.chunked": ("chunked_loss",),
  "models.loading": ("load_model", "save_model"),
  "models.pruning": ("prune_layers",),
  "data.tokenizer": ("load_tokenizer",),
  "text": ("generate",),
  "data.prompts": ("prompt_batch",),
  "training.train_step": ("rollout_loss",),
  "training.distance": ("ShareByDistance",),
  "config": ("default_config",),
  "methods": ("apply_method",),
  "train": ("train_and_evaluate",),
  "comparison": ("compare",),
  "study": ("Arm", "Study"),
}
_HOMES = {name: home for home, names in _MODULES.items() for name in names}

__all__ = [
  "Arm",
  "Batch",
  "LanguageModel",
  "ModelDrafter",
  "Policy",
  "PromptLookup",
  "Rollout",
  "Rule",
  "Sampling",
  "ShareByDistance",
  "Study",
  "TokenInputs",
  "TrainState",
  "apply_method",
  "chunked_loss",
  "compare",
  "decode",
  "default_config",
  "distillation_token_loss",
  "forward_kl",
  "generate",
  "jsd",
  "load_model",
  "load_tokenizer",
  "make_stop_table",
  "prompt_batch",
  "prune_layers",
  "reverse_kl",
  "rollout",
  "rollout_loss",
  "row_keys",
  "save_model",
  "skew_forward_kl",
  "skew_reverse_kl",
  "speculative_decode",
  "top_k_forward_kl",
  "train_and_evaluate",
  "tvd",
]


def __getattr__(name: str) -> Any:
  """Loads a public name when it is first used."""
  if name not in _HOMES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
  globals()[name] = getattr(module, name)
  return globals()[name]


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
