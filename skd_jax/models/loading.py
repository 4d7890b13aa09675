"""Models of a run: made from scratch, or read from a Hugging Face folder."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging

from skd_jax import models, structs
from skd_jax.data import tasks as tasks_lib
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A model with its weights; `model` computes in the run's dtype."""

  config: models.ModelConfig
  model: structs.LanguageModel
  params: structs.Params


def compute_dtype(name: str) -> Any:
  """Resolves `config.dtype`: auto is bfloat16 except on CPU.

  XLA on CPU is slower in bfloat16 than in float32.
  """
  if name == "auto":
    name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  return jnp.dtype(name)


def common_vocab_size(config: ml_collections.ConfigDict) -> int:
  """Checks that both checkpoints speak the same vocabulary.

  Returns:
    Tokens that both know; 0 where no model comes from a checkpoint.

  Raises:
    ValueError: the tokenizers give a token two ids.
  """
  folders = {
    name: config[name].path or config[name].init_path
    for name in ("teacher", "student")
  }
  found = {name: folder for name, folder in folders.items() if folder}
  if not found:
    return 0
  tokenizer = tokenizer_lib.load(tasks_lib.tokenizer_folder(config))
  sizes = [
    tokenizer_lib.check_same_vocabulary(
      tokenizer_lib.load(folder),
      tokenizer,
      models.load_config(folder).vocab_size,
      len(tokenizer),
    )
    for folder in found.values()
  ]
  return min(sizes)


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where the weights of a model lie."""

  mesh: jax.sharding.Mesh
  rules: sharding.Rules  # sharding.TRAINED or FROZEN

  def shardings(self, config: models.ModelConfig) -> structs.Params:
    """Returns the sharding of each weight; logs what is not divided."""
    rules, kept = models.usable_rules(config, self.mesh, self.rules)
    for line in kept:
      logging.info("Whole on every device: %s", line)
    return models.param_shardings(config, self.mesh, rules)


def load(
  folder: str | pathlib.Path,
  vocab_size: int,
  *,
  dtype: Any,
  param_dtype: Any,
  placement: Placement | None = None,
  remat: bool = False,
) -> LoadedModel:
  """Reads a Hugging Face folder, its head cut to the common vocabulary.

  Args:
    folder: the folder.
    vocab_size: V that is kept.
    dtype: of the activations.
    param_dtype: of the weights.
    placement: of the weights; None: on the default device.
    remat: see models.create.
  """
  config = models.load_config(folder)
  cut = dataclasses.replace(config, vocab_size=vocab_size)
  params = models.load_params(
    folder,
    config,
    param_dtype=param_dtype,
    vocab_size=vocab_size,
    shardings=placement and placement.shardings(cut),
  )
  return LoadedModel(cut, models.create(cut, dtype=dtype, remat=remat), params)


def from_scratch(
  shape: ml_collections.ConfigDict,
  vocab_size: int,
  max_length: int,
  *,
  seed: int,
  dtype: Any,
  placement: Placement,
) -> LoadedModel:
  """Makes a Llama with random float32 weights and a tied head."""
  config = models.ModelConfig(
    vocab_size=vocab_size,
    hidden_size=shape.hidden_size,
    intermediate_size=shape.intermediate_size,
    num_layers=shape.num_layers,
    num_heads=shape.num_heads,
    num_kv_heads=shape.num_kv_heads,
    head_dim=shape.head_dim,
    max_position_embeddings=max_length,
    tie_embeddings=True,
  )
  params = jax.jit(
    lambda key: models.init_params(config, key),
    out_shardings=placement.shardings(config),
  )(jax.random.key(seed))
  model = models.create(config, dtype=dtype, remat=shape.remat)
  return LoadedModel(config, model, params)


def export(
  folder: pathlib.Path, loaded: LoadedModel, task: tasks_lib.Task
) -> None:
  """Writes a Hugging Face folder with the weights and the tokenizer."""
  models.save(
    folder,
    loaded.config,
    loaded.params,
    eos_token_id=list(task.eos_ids),
    bos_token_id=task.tokenizer.bos_token_id,
    pad_token_id=task.tokenizer.pad_token_id,
    save_tokenizer=task.tokenizer.save_pretrained,
  )
