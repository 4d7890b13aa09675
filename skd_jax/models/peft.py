"""Adapters in and out, in the format of the library PEFT.

adapter_model.safetensors   of each adapter, lora_A [R, in] and lora_B [out, R]
adapter_config.json         R, alpha, the targets and the model they belong to
"""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from skd_jax import structs
from skd_jax.models import folders, huggingface, lora, weight_files
from skd_jax.models.architecture import param_shapes
from skd_jax.models.config import ModelConfig
from skd_jax.models.hf_names import Leaf, named_leaves
from skd_jax.parallel import processes
from skd_jax.reporting import manifest

_WEIGHTS = "adapter_model.safetensors"
_SETTINGS = "adapter_config.json"
# Ours are the transposes of PEFT's.
_FILE_NAMES = {"a": "lora_A.weight", "b": "lora_B.weight"}


def save_adapters(
  folder: str | pathlib.Path,
  config: ModelConfig,
  params: structs.Params,
  *,
  base: str,
) -> None:
  """Writes the adapters of a model; peft.PeftModel.from_pretrained loads them.

  The folder is written as by `huggingface.save`, with a manifest.

  Args:
    folder: an earlier one there is replaced as a whole.
    config: of the model.
    params: its weights, with adapters.
    base: the folder or the name of the model that they belong to.

  Raises:
    ValueError: `folder` holds something that is no earlier export.
  """
  adapted = _adapted(config, params)
  tensors = {
    _name(leaf, part): processes.to_host(getattr(weight, part)).T
    for leaf, weight in adapted
    for part in _FILE_NAMES
  }
  _, first = adapted[0]
  rank = first.a.shape[1]
  settings = {
    "peft_type": "LORA",
    "task_type": config.peft_task,
    "base_model_name_or_path": base,
    "r": rank,
    "lora_alpha": first.scale * rank,
    "target_modules": sorted({leaf.projection for leaf, _ in adapted}),
    "lora_dropout": 0.0,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
  }

  def write() -> None:
    with folders.replaced(folder) as temporary:
      weight_files.write(os.path.join(temporary, _WEIGHTS), tensors.items())
      huggingface.write_json(os.path.join(temporary, _SETTINGS), settings)
      manifest.write(temporary)

  processes.on_first(write)


def load_adapters(
  folder: str | pathlib.Path, config: ModelConfig, params: structs.Params
) -> structs.Params:
  """Reads adapters into a model that has some of the same shapes.

  Args:
    folder: from save_adapters.
    config: of the model.
    params: its weights, with adapters; they are not copied.

  Returns:
    The weights with the adapters of the folder, placed as those before.

  Raises:
    FileNotFoundError: no such folder, or no adapters in it.
    ValueError: a damaged file, or adapters of another shape or scale.
  """
  path = weight_files.existing(folder, _WEIGHTS)
  processes.on_first(manifest.check, folder)
  found = safetensors.numpy.load_file(path)
  wanted = {
    _name(leaf, part): getattr(weight, part).shape[::-1]
    for leaf, weight in _adapted(config, params)
    for part in _FILE_NAMES
  }
  for name in sorted(found.keys() | wanted.keys()):
    shape = found[name].shape if name in found else None
    if shape != wanted.get(name):
      raise ValueError(
        f"{folder}: {name} has shape {shape}, must be {wanted.get(name)}"
      )

  scale = _scale(folder)
  for _, weight in _adapted(config, params):
    if not math.isclose(weight.scale, scale, rel_tol=1e-6):
      raise ValueError(
        f"{folder}: lora_alpha / r is {scale}, must be {weight.scale}"
      )

  def read(leaf: Leaf, weight: Any) -> Any:
    if not lora.is_adapted(weight):
      return weight
    parts = {
      part: _placed(found[_name(leaf, part)].T, getattr(weight, part))
      for part in _FILE_NAMES
    }
    return dataclasses.replace(weight, **parts)

  leaves, treedef = named_leaves(config, param_shapes(config))
  weights = treedef.flatten_up_to(params)
  return treedef.unflatten(map(read, leaves, weights))


def _scale(folder: str | pathlib.Path) -> float:
  path = weight_files.existing(folder, _SETTINGS)
  try:
    with open(path, encoding="utf-8") as file:
      settings = json.load(file)
    return settings["lora_alpha"] / settings["r"]
  except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
    raise ValueError(f"{path}: names no lora_alpha and r: {error}") from None


def _adapted(
  config: ModelConfig, params: structs.Params
) -> list[tuple[Leaf, lora.Adapted]]:
  """The weights that have an adapter, with their names."""
  leaves, treedef = named_leaves(config, param_shapes(config))
  weights = treedef.flatten_up_to(params)
  pairs = zip(leaves, weights, strict=True)
  return [pair for pair in pairs if lora.is_adapted(pair[1])]


def _name(leaf: Leaf, part: str) -> str:
  module = leaf.hf_name.removesuffix(".weight")
  return f"base_model.model.{module}.{_FILE_NAMES[part]}"


def _placed(value: np.ndarray, like: jax.Array) -> jax.Array:
  return jax.make_array_from_callback(
    like.shape, like.sharding, lambda index: value[index].astype(like.dtype)
  )
