"""Models with their weights: read from a Hugging Face folder, or initialized.

load_model(folder)   -> LoadedModel -> save_model(folder, ...)
init_model(config)   -> LoadedModel
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from skd_jax import structs
from skd_jax.models import architecture, huggingface, tokenizer_files
from skd_jax.models import placement as placement_lib
from skd_jax.models.config import ModelConfig
from skd_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A model with its weights; `model` computes in the dtype it was given."""

  config: ModelConfig
  model: structs.LanguageModel
  params: structs.Params


def compute_dtype(name: Any = "auto") -> Any:
  """Resolves a dtype: "auto" is bfloat16 except on CPU.

  XLA on CPU is slower in bfloat16 than in float32.
  """
  if isinstance(name, str) and name == "auto":
    name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  return jnp.dtype(name)


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where the weights of a model are placed."""

  mesh: jax.sharding.Mesh
  rules: sharding.Rules  # sharding.TRAINED or FROZEN

  def shardings(self, config: ModelConfig) -> structs.Params:
    """Returns the sharding of each weight; logs what is not divided."""
    rules, kept = placement_lib.usable_rules(config, self.mesh, self.rules)
    for line in kept:
      logging.info("Whole on every device: %s", line)
    return placement_lib.param_shardings(config, self.mesh, rules)


def load_model(
  folder: str | pathlib.Path,
  *,
  vocab_size: int | None = None,
  dtype: Any = "auto",
  param_dtype: Any = None,
  placement: Placement | None = None,
  quantization: str = "",
  remat: bool = False,
) -> LoadedModel:
  """Reads a Hugging Face folder (config.json and safetensors), without torch.

  Args:
    folder: the folder; nothing is downloaded.
    vocab_size: V, where the head is cut to the tokens that two models share;
      None keeps all rows.
    dtype: of activations and caches; "auto" is bfloat16 except on CPU.
    param_dtype: of the weights; None: `dtype`. float32 for a model that is
      trained.
    placement: of the weights; None: on the default device.
    quantization: int8 or int4: matrices are held so, and cannot be trained; see
      quantization.py. "": they are not.
    remat: keep the input of each layer alone for the backward pass.

  Returns:
    LoadedModel, whose `model` and `params` go to `Policy`, `rollout` and
    `chunked_loss`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the family or an option of it is not supported, the weights do
      not fit the config, or cannot be quantized, see `quantization.shapes`.
  """
  dtype = compute_dtype(dtype)
  config = huggingface.load_config(folder)
  cut = config
  if vocab_size is not None:
    cut = dataclasses.replace(config, vocab_size=vocab_size)
  params = huggingface.load_params(
    folder,
    config,
    param_dtype=dtype if param_dtype is None else param_dtype,
    vocab_size=cut.vocab_size,
    shardings=placement and placement.shardings(cut),
    quantization=quantization,
  )
  model = architecture.create(cut, dtype=dtype, remat=remat)
  return LoadedModel(cut, model, params)


def init_model(
  config: ModelConfig,
  *,
  seed: int,
  dtype: Any = "auto",
  placement: Placement | None = None,
  remat: bool = False,
) -> LoadedModel:
  """Initializes a model with random float32 weights.

  Args:
    config: its shape.
    seed: of the weights.
    dtype: see load_model; so are the others.
    placement: see load_model.
    remat: see load_model.
  """
  init = jax.jit(
    lambda key: architecture.init_params(config, key),
    out_shardings=placement and placement.shardings(config),
  )
  model = architecture.create(config, dtype=compute_dtype(dtype), remat=remat)
  return LoadedModel(config, model, init(jax.random.key(seed)))


def save_model(
  folder: str | pathlib.Path,
  loaded: LoadedModel,
  tokenizer: Any = None,
  *,
  eos_ids: Sequence[int] | None = None,
  dtype: str = "float32",
  card: str = "",
) -> None:
  """Writes a Hugging Face folder: config, safetensors and the tokenizer.

  The folder is written whole or not at all; an earlier export is replaced. Of
  several processes, the first writes.

  Args:
    folder: the folder.
    loaded: the model.
    tokenizer: a tokenizer of transformers, from `load_tokenizer`; None saves
      none.
    eos_ids: what ends a response; default: the tokenizer's EOS.
    dtype: of the weights in the files, "float32" or "bfloat16".
    card: the text of README.md; empty: none is written.

  Raises:
    ValueError: the folder holds something that is no earlier export, or an
      unknown dtype.
  """
  tokens: dict[str, Any] = {}
  if tokenizer is not None:
    eos = [tokenizer.eos_token_id] if eos_ids is None else list(eos_ids)
    tokens = {
      "eos_token_id": eos,
      "bos_token_id": tokenizer.bos_token_id,
      "pad_token_id": tokenizer.pad_token_id,
    }
  elif eos_ids is not None:
    tokens = {"eos_token_id": list(eos_ids)}

  def write_more(target: str) -> None:
    if tokenizer is not None:
      tokenizer_files.save_tokenizer(tokenizer, target)
    if card:
      pathlib.Path(target, "README.md").write_text(card, encoding="utf-8")

  huggingface.save(
    folder,
    loaded.config,
    loaded.params,
    dtype=dtype,
    write_more=write_more,
    **tokens,
  )
