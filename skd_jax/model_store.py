"""Models of a run: made from scratch, or read from a Hugging Face folder."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from skd_jax import models, structs
from skd_jax import task as task_lib
from skd_jax import tokenizer as tokenizer_lib


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
  tokenizer = tokenizer_lib.load(task_lib.tokenizer_folder(config))
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


def load(
  folder: str | pathlib.Path, vocab_size: int, *, dtype: Any, param_dtype: Any
) -> LoadedModel:
  """Reads a Hugging Face folder, its head cut to the common vocabulary."""
  config = models.load_config(folder)
  params = models.load_params(
    folder, config, param_dtype=param_dtype, vocab_size=vocab_size
  )
  config = dataclasses.replace(config, vocab_size=vocab_size)
  return LoadedModel(config, models.create(config, dtype=dtype), params)


def from_scratch(
  shape: ml_collections.ConfigDict,
  vocab_size: int,
  max_length: int,
  *,
  seed: int,
  dtype: Any,
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
  params = jax.jit(lambda key: models.init_params(config, key))(
    jax.random.key(seed)
  )
  return LoadedModel(config, models.create(config, dtype=dtype), params)


def export(
  folder: pathlib.Path, loaded: LoadedModel, task: task_lib.Task
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
