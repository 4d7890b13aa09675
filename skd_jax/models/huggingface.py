"""Hugging Face folders in and out: config.json and safetensors.

Tensors go one by one from the file to where they stay, never through torch and
never as a whole model in host memory.
"""

import collections
import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_dtypes
import numpy as np

from skd_jax import structs
from skd_jax.models import folders, lora, weight_files
from skd_jax.models import quantization as quantization_lib
from skd_jax.models.architecture import param_shapes
from skd_jax.models.config import ModelConfig
from skd_jax.models.families import FAMILIES
from skd_jax.models.hf_config import model_config_from_hf, model_config_to_hf
from skd_jax.models.hf_names import Leaf, by_tensor, join, named_leaves
from skd_jax.parallel import processes
from skd_jax.reporting import manifest

_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
EXPORT_DTYPES = tuple(_DTYPES)
_START = "decoder_start_token_id"


def load_config(folder: str | os.PathLike[str]) -> ModelConfig:
  """Reads config.json of a Hugging Face folder.

  Raises:
    FileNotFoundError: no such folder, or no config.json in it.
    ValueError: config.json cannot be read, is not what the manifest of the
      folder says, or names something unsupported.
  """
  path = weight_files.existing(folder, "config.json")
  manifest.check(folder, lambda name: name == "config.json")
  with open(path, encoding="utf-8") as file:
    try:
      hf_config = json.load(file)
    except json.JSONDecodeError as error:
      raise ValueError(f"{path} is not valid JSON: {error}") from None
  try:
    return model_config_from_hf(hf_config)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


def load_params(
  folder: str | os.PathLike[str],
  config: ModelConfig,
  *,
  param_dtype: Any = np.float32,
  vocab_size: int | None = None,
  shardings: Any = None,
  quantization: str = "",
) -> structs.Params:
  """Reads the safetensors of a Hugging Face folder.

  Args:
    folder: holds model.safetensors, or else its shards with their index.
    config: the shape that the weights must have.
    param_dtype: dtype of the returned arrays; the files may hold another.
    vocab_size: V, the first rows of the embedding and of the head, which are
      kept. None: `config.vocab_size`, and the files must agree.
    shardings: a tree like `param_shapes(config)` of jax.sharding.Sharding; each
      device is then given its slice only. None: the default device.
    quantization: int8 or int4: matrices are quantized on the host, one after
      the other, and no device is given them in `param_dtype`. "": they are not.

  Returns:
    Weights for `create`, as a config with V tokens has them.

  Raises:
    FileNotFoundError: no such folder, or no weights in it.
    ValueError: a broken file, one that is not what the folder's manifest says,
      or an index that names one elsewhere; tensors that are missing, unknown or
      of another shape, or too few rows for `vocab_size`; the message names
      them.
  """
  # Whole files: the first process reads them for all, each of which may need
  # only slices.
  processes.on_first(
    manifest.check, folder, lambda name: ".safetensors" in name
  )
  cut = dataclasses.replace(config, vocab_size=vocab_size or config.vocab_size)
  wanted = param_shapes(cut, param_dtype=param_dtype)
  if shardings is not None:
    wanted = jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      wanted,
      shardings,
    )
  wanted = quantization_lib.shapes(wanted, quantization)
  with contextlib.ExitStack() as stack:
    sources = weight_files.open_sources(folder, stack)
    names = FAMILIES[config.model_type].names_in(config, sources)
    leaves, treedef = named_leaves(config, param_shapes(config), names)
    tensors = [tensor for leaf in leaves for tensor in leaf.tensors()]
    _check_sources(tensors, sources, vocab_size, folder)
    arrays = [
      _read(leaf, sources, like, cut.vocab_size)
      for leaf, like in zip(leaves, treedef.flatten_up_to(wanted), strict=True)
    ]
  return jax.tree.unflatten(treedef, arrays)


def _check_sources(
  leaves: list[Leaf],
  sources: dict[str, weight_files.Source],
  vocab_size: int | None,
  folder: str | os.PathLike[str],
) -> None:
  expected = {leaf.hf_name for leaf in leaves}
  missing = sorted(expected - set(sources))
  if missing:
    raise ValueError(f"{folder}: missing tensors: {_few(missing)}")
  # Tied models may still store their head; it repeats the embedding.
  unknown = sorted(set(sources) - expected - {"lm_head.weight"})
  if unknown:
    raise ValueError(f"{folder}: unknown tensors: {_few(unknown)}")
  for leaf in leaves:
    found = sources[leaf.hf_name].shape
    wanted = leaf.hf_shape
    if leaf.has_vocab_rows and vocab_size is not None:
      if found[1:] == wanted[1:] and vocab_size > found[0]:
        raise ValueError(
          f"{folder}: vocab_size = {vocab_size} is more than the {found[0]} "
          f"rows of {leaf.hf_name}"
        )
      wanted = (found[0], *wanted[1:])
    if found != wanted:
      raise ValueError(
        f"{folder}: {leaf.hf_name} has shape {found}, but the config needs "
        f"{wanted}"
      )


def _few(names: list[str]) -> str:
  more = f" and {len(names) - 5} more" if len(names) > 5 else ""
  return ", ".join(names[:5]) + more


def _read(
  leaf: Leaf,
  sources: dict[str, weight_files.Source],
  like: jax.ShapeDtypeStruct | quantization_lib.Quantized,
  vocab_size: int,
) -> jax.Array | quantization_lib.Quantized:
  """One array, read slice by slice where a sharding says so; V rows of it."""
  tensors = leaf.tensors()

  def part(index: tuple[slice, ...] | None) -> np.ndarray:
    slices = index or (slice(None),) * len(like.shape)
    bounds = [
      slice(*s.indices(size)[:2])
      for s, size in zip(slices, like.shape, strict=True)
    ]
    if leaf.has_vocab_rows and bounds[0].stop > vocab_size:
      return of_rows(*bounds)
    if not leaf.has_experts:
      return of_tensor(leaf, bounds)
    experts, *bounds = bounds
    return np.stack([of_tensor(tensor, bounds) for tensor in tensors[experts]])

  def of_rows(rows: slice, columns: slice) -> np.ndarray:
    first = min(rows.start, vocab_size - 1)  # safetensors refuses to read none.
    found = of_tensor(leaf, [slice(first, vocab_size), columns])
    padded = np.pad(found, ((0, rows.stop - vocab_size), (0, 0)))
    return padded[rows.start - first :]

  def of_tensor(tensor: Leaf, bounds: list[slice]) -> np.ndarray:
    source = sources[tensor.hf_name]
    data = source.file.get_slice(source.name)
    *rest, columns = bounds
    span = leaf.span(columns)
    if not leaf.transpose:
      return leaf.pick(data[(*rest, span)], columns)
    *rest, rows = rest
    found = data[(*rest, span, rows)].swapaxes(-1, -2)
    return leaf.pick(found, columns)

  if isinstance(like, quantization_lib.Quantized):
    # Whole, as the devices that share a column share its scale.
    return quantization_lib.make(part(None), like)
  if like.sharding is None:
    return jax.numpy.asarray(part(None).astype(like.dtype))
  return jax.make_array_from_callback(
    like.shape, like.sharding, lambda index: part(index).astype(like.dtype)
  )


def save(
  folder: str | os.PathLike[str],
  config: ModelConfig,
  params: structs.Params,
  *,
  dtype: str = "float32",
  max_shard_bytes: int = 5 * 1000**3,
  eos_token_id: int | list[int] | None = None,
  bos_token_id: int | None = None,
  pad_token_id: int | None = None,
  write_more: Callable[[str], Any] | None = None,
) -> None:
  """Writes a folder that transformers' `from_pretrained` loads.

  A manifest of the files is beside them, and is checked when they are read.
  Everything is written to a sibling folder first and renamed at the end, so
  that a killed process leaves the old export or none, never half of one. Of
  several processes, all fetch the arrays, one after the other, and the first
  writes them.

  Args:
    folder: an earlier export there is replaced as a whole.
    config: the shape of the model.
    params: weights as `create` takes them.
    dtype: of the file, one of EXPORT_DTYPES.
    max_shard_bytes: weights beyond this many bytes go into several files.
    eos_token_id: ids that end a response, for config.json and
      generation_config.json.
    bos_token_id: id that begins a text, if any.
    pad_token_id: id of padding, if any.
    write_more: called with the temporary folder to write more files into
      it, such as `tokenizer.save_pretrained`.

  Raises:
    ValueError: an unknown dtype; weights that are quantized, or do not fit the
      config; a config that its family cannot express; or `folder` is no earlier
      export, see `folders.replaced`.
  """
  if dtype not in EXPORT_DTYPES:
    raise ValueError(
      f"dtype = {dtype!r}: must be one of {', '.join(EXPORT_DTYPES)}"
    )
  quantization_lib.check_whole(params)
  _check_params(config, params)
  token_ids = {
    "bos_token_id": bos_token_id,
    "eos_token_id": eos_token_id,
    "pad_token_id": pad_token_id,
  }
  hf_config = {**model_config_to_hf(config), **token_ids, "dtype": dtype}
  leaves, treedef = named_leaves(config, param_shapes(config))
  arrays = treedef.flatten_up_to(params)
  tensors = by_tensor(leaves)
  fetched = _fetch([(leaves[i], arrays[i]) for t in tensors for i in t])

  def write() -> None:
    try:
      with folders.replaced(folder) as temporary:
        _write_shards(
          temporary,
          [
            list(parts)
            for tensor in tensors
            for parts in zip(
              *(leaves[i].tensors() for i in tensor), strict=True
            )
          ],
          fetched,
          _DTYPES[dtype],
          max_shard_bytes,
        )
        write_json(os.path.join(temporary, "config.json"), hf_config)
        # Where an encoder-decoder starts is among what its family writes.
        generation = {k: hf_config.get(k) for k in (*token_ids, _START)}
        write_json(
          os.path.join(temporary, "generation_config.json"),
          {
            key: value for key, value in generation.items() if value is not None
          },
        )
        if write_more is not None:
          write_more(temporary)
        manifest.write(temporary)
    finally:
      _fetch_all(fetched)  # Also where a write fails: the others do.

  if not processes.is_first():
    _fetch_all(fetched)
  processes.on_first(write)


def _fetch(pairs: list[tuple[Leaf, Any]]) -> Iterator[np.ndarray]:
  """Yields the parts of each array that have a tensor of their own.

  An array is merged with its adapter and fetched when it is asked for.
  """
  for leaf, array in pairs:
    value = processes.to_host(lora.merge(array))
    yield from value if leaf.has_experts else (value[: leaf.shape[0]],)


def _fetch_all(fetched: Iterator[np.ndarray]) -> None:
  collections.deque(fetched, maxlen=0)


def _check_params(config: ModelConfig, params: structs.Params) -> None:
  def shapes(tree: structs.Params) -> dict[str, tuple[int, ...]]:
    return {
      jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
      for path, leaf in jax.tree.leaves_with_path(tree, lora.is_adapted)
    }

  wanted, found = shapes(param_shapes(config)), shapes(params)
  for name in sorted(wanted.keys() | found.keys()):
    if wanted.get(name) != found.get(name):
      raise ValueError(
        f"params {name} has shape {found.get(name)}, but the config needs "
        f"{wanted.get(name)}"
      )


def write_json(path: str, value: Any) -> None:
  """Writes JSON as Hugging Face does."""
  with open(path, "w", encoding="utf-8") as file:
    json.dump(value, file, indent=2, sort_keys=True)
    file.write("\n")


def _write_shards(
  folder: str,
  tensors: list[list[Leaf]],
  fetched: Iterator[np.ndarray],
  dtype: Any,
  max_shard_bytes: int,
) -> None:
  """One file, or several with an index; one shard is in memory at a time."""
  shards: list[list[list[Leaf]]] = [[]]
  filled = total = 0
  for parts in tensors:
    size = math.prod(parts[0].hf_shape) * np.dtype(dtype).itemsize
    if shards[-1] and filled + size > max_shard_bytes:
      shards.append([])
      filled = 0
    shards[-1].append(parts)
    filled += size
    total += size

  def tensor_of(parts):
    found = (np.asarray(next(fetched)) for _ in parts)
    value = join(parts, [x.astype(dtype, copy=False) for x in found])
    return parts[0].hf_name, value.T if parts[0].transpose else value

  weight_map = {}
  for number, shard in enumerate(shards, start=1):
    name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    name = weight_files.SINGLE_FILE if len(shards) == 1 else name
    weight_files.write(os.path.join(folder, name), map(tensor_of, shard))
    weight_map |= {parts[0].hf_name: name for parts in shard}
  if len(shards) > 1:
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(os.path.join(folder, weight_files.INDEX_FILE), index)
