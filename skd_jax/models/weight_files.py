"""The safetensors files of a Hugging Face folder: which, and what is in them.

Only safetensors is read, and only files of the folder itself.
"""

import contextlib
import json
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# Gemma 3 with images nests its text model under one of these; published files
# of GPT-2 nest theirs under nothing; an encoder-decoder may store its embedding
# under any of three names.
_TEXT_PREFIXES = {
  "language_model.model.": "model.",
  "model.language_model.": "model.",
  "language_model.lm_head.": "lm_head.",
  "h.": "transformer.h.",
  "wte.": "transformer.wte.",
  "wpe.": "transformer.wpe.",
  "ln_f.": "transformer.ln_f.",
  "model.encoder.embed_tokens.": "model.shared.",
  "model.decoder.embed_tokens.": "model.shared.",
  "encoder.embed_tokens.": "shared.",
  "decoder.embed_tokens.": "shared.",
}
# Frequencies, sinusoids and causal masks: computed, not learned. And one that
# the files of T5 have, and the model does not.
_BUFFERS = (
  "rotary_emb.inv_freq",
  ".attn.bias",
  ".attn.masked_bias",
  ".embed_positions.weights",
  ".EncDecAttention.relative_attention_bias.weight",
)
# Parameters of a module, not modules with a parameter.
_FUSED_EXPERTS = (".experts.gate_up_proj", ".experts.down_proj")
_VISION_PREFIXES = (
  "vision_tower.",
  "multi_modal_projector.",
  "model.vision_tower.",
  "model.multi_modal_projector.",
)


class Source(NamedTuple):
  """Where a tensor is: the open file, its name there, its shape."""

  file: Any
  name: str
  shape: tuple[int, ...]


def write(
  path: str | os.PathLike[str], tensors: Iterable[tuple[str, Any]]
) -> None:
  """Writes arrays into a safetensors file, as readable as any new file.

  Args:
    path: of the file.
    tensors: (name, array); taken one by one, so that a view does not keep what
      it is of beside its copy.

  Raises:
    OSError: it cannot be written, as on a full disk.
  """
  arrays = {name: np.ascontiguousarray(x) for name, x in tensors}
  with open(path, "wb") as file:
    mode = os.fstat(file.fileno()).st_mode
  try:
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
  except safetensors.SafetensorError as error:  # No OSError of Python's.
    raise OSError(f"{path}: {error}") from None
  # The library replaces the file by one that its owner alone may read.
  os.chmod(path, mode)


def existing(folder: str | os.PathLike[str], name: str) -> str:
  """Returns the path of a file that a folder must have.

  Raises:
    FileNotFoundError: no such folder, or no such file in it.
  """
  if not os.path.isdir(folder):
    raise FileNotFoundError(f"model folder {os.fspath(folder)!r} not found")
  path = os.path.join(folder, name)
  if not os.path.exists(path):
    raise FileNotFoundError(f"{path}: no such file")
  return path


def _weight_files(folder: str | os.PathLike[str]) -> list[str]:
  """The files of the weights; as in transformers, a single one comes first."""
  single, index = (os.path.join(folder, n) for n in (SINGLE_FILE, INDEX_FILE))
  if os.path.exists(single) or not os.path.exists(index):
    return [existing(folder, SINGLE_FILE)]
  with open(index, encoding="utf-8") as file:
    try:
      names = set(json.load(file)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
      raise ValueError(
        f"{index}: must be JSON with a weight_map from tensors to files"
      ) from None
  for name in names:
    if not str(name).endswith(".safetensors") or os.path.basename(name) != name:
      raise ValueError(
        f"{index}: weight_map has {name!r}: must be the name of a "
        ".safetensors file in this folder"
      )
  return [existing(folder, name) for name in sorted(names)]


def open_sources(
  folder: str | os.PathLike[str], stack: contextlib.ExitStack
) -> dict[str, Source]:
  """Opens the files of the weights.

  Args:
    folder: holds model.safetensors, or else its shards with their index.
    stack: closes the files.

  Returns:
    Tensors by their names in a model of text alone; those of images and buffers
    are left out.

  Raises:
    FileNotFoundError: no such folder, or no weights in it.
    ValueError: a broken file, or an index that names one elsewhere.
  """
  sources = {}
  vision = 0
  for path in _weight_files(folder):
    try:
      file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
    except safetensors.SafetensorError as error:
      raise ValueError(f"{path} is not a safetensors file: {error}") from None
    for name in file.keys():  # noqa: SIM118, not a dict
      if name.startswith(_VISION_PREFIXES):
        vision += 1
        continue
      if name.endswith(_BUFFERS):
        continue
      shape = tuple(file.get_slice(name).get_shape())
      sources[_text_name(name)] = Source(file, name, shape)
  if vision:
    logging.info(
      "%s: left out %d tensors of the image encoder; only text is supported",
      folder,
      vision,
    )
  return sources


def _text_name(name: str) -> str:
  if name.endswith(_FUSED_EXPERTS):
    name = f"{name}.weight"  # As every other matrix.
  for prefix, replacement in _TEXT_PREFIXES.items():
    if name.startswith(prefix):
      return replacement + name.removeprefix(prefix)
  return name
