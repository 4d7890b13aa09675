"""Our arrays in Hugging Face files: where each one is, both directions.

qkv_proj.weight [out, in]     query [in, out]^T
                              key
                              value
up_proj.weight [out, in]      0 of gate [in, out]^T      in F groups: those of a
                              0 of up                    group are side by side,
                              1 of gate                  a part of each
                              1 of up ...
experts.E.up_proj.weight      [e] of up [E, in, out]^T
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from skd_jax import structs
from skd_jax.models.config import ModelConfig
from skd_jax.models.families import FAMILIES
from skd_jax.models.families.names import Names

_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


class Leaf(NamedTuple):
  """One array of the weights, and where it is in the files.

  hf_name: of the tensor there; with {}, of those of all experts, each of which
    is one along the first axis of the array.
  transpose: whether that has the last two axes the other way round.
  shape: of the array, without the rows that pad it.
  has_vocab_rows: whether its first axis is V.
  start: where the array begins, along its last axis, in the tensor.
  width: of all arrays of the tensor together, along that axis.
  groups: into how many equal parts each of them is cut, along that axis; the
    first parts of all come first.
  """

  hf_name: str
  transpose: bool
  shape: tuple[int, ...]
  has_vocab_rows: bool
  start: int
  width: int
  groups: int = 1

  @property
  def hf_shape(self) -> tuple[int, ...]:
    """The shape of the tensor."""
    *rest, size = (*self.shape[:-1], self.width)
    return (*rest[:-1], size, rest[-1]) if self.transpose else (*rest, size)

  @property
  def has_experts(self) -> bool:
    """Whether each expert has a tensor of its own."""
    return "{}" in self.hf_name

  def tensors(self) -> list["Leaf"]:
    """The parts of the array that are, or are in, one tensor each."""
    if not self.has_experts:
      return [self]
    count, *shape = self.shape
    return [
      self._replace(hf_name=self.hf_name.format(e), shape=tuple(shape))
      for e in range(count)
    ]

  def span(self, columns: slice) -> slice:
    """The columns of the tensor that hold some of the array: whole groups.

    columns of the array       0 1 | 2 3 | 4 5       3 groups, start 6
    of the tensor          . . 0 1 | . . 2 3 | . . 4 5
    span of 1 to 3         `---------------'
    """
    if self.groups == 1:
      return slice(self.start + columns.start, self.start + columns.stop)
    size, width = self.shape[-1] // self.groups, self.width // self.groups
    return slice(
      columns.start // size * width, -(-columns.stop // size) * width
    )

  def pick(self, found: np.ndarray, columns: slice) -> np.ndarray:
    """Some columns of the array, from what is in their span: [..., columns]."""
    if self.groups == 1:
      return found
    size, width = self.shape[-1] // self.groups, self.width // self.groups
    start = self.start // self.groups
    parts = found.reshape(*found.shape[:-1], -1, width)[..., start:][..., :size]
    first = columns.start // size * size
    whole = parts.reshape(*found.shape[:-1], -1)
    return whole[..., columns.start - first : columns.stop - first]

  @property
  def projection(self) -> str:
    """The last part of the name of a projection, such as q_proj; else "".

    "" also where several are one tensor, as the query, key and value of Phi-3,
    and for those of experts.
    """
    is_whole = self.width == self.shape[-1] and len(self.shape) == 2
    is_projection = self.transpose and is_whole
    return self.hf_name.split(".")[-2] if is_projection else ""


def named_leaves(
  config: ModelConfig, shapes: structs.Params, names: Names | None = None
) -> tuple[list[Leaf], Any]:
  """Every array of the weights, in tree order, with its place in the files.

  Args:
    config: of the model.
    shapes: the weights, or a tree like them.
    names: of the tensors; None: those that the family has in what it writes.
  """
  family = FAMILIES[config.model_type]
  names = family.names_of(config) if names is None else names
  order = {path: i for i, path in enumerate(names)}
  flat, treedef = jax.tree.flatten_with_path(shapes)
  leaves, places, widths = [], [], {}
  for path, leaf in flat:
    keys = [entry.key for entry in path]
    kind = keys.pop() if keys[-1] in _LEAF_NAMES else "kernel"
    layer = keys.pop(keys.index("layers") + 1) if "layers" in keys else None
    ours = "/".join(keys)
    # What is left in braces is the number of an expert.
    name = f"{names[ours].format(layer, '{}')}.{_LEAF_NAMES[kind]}"
    is_kernel = path[-1].key == "kernel"
    has_vocab_rows = ours in ("embedding", "lm_head")
    transpose = is_kernel and family.transposed
    shape = leaf.shape
    if has_vocab_rows:
      shape = (config.vocab_size, *shape[1:])  # No file has rows that pad.
    groups = getattr(config, family.groups.get(names[ours], ""), 1)
    leaves.append(Leaf(name, transpose, shape, has_vocab_rows, 0, 0, groups))
    places.append(order[ours])
  for i in sorted(range(len(leaves)), key=places.__getitem__):
    start = widths.get(leaves[i].hf_name, 0)
    widths[leaves[i].hf_name] = start + leaves[i].shape[-1]
    leaves[i] = leaves[i]._replace(start=start)
  return [x._replace(width=widths[x.hf_name]) for x in leaves], treedef


def join(leaves: list[Leaf], arrays: Sequence[np.ndarray]) -> np.ndarray:
  """Puts the arrays [..., columns] of one tensor together: [..., width]."""
  groups = leaves[0].groups
  parts = [x.reshape(*x.shape[:-1], groups, -1) for x in arrays]
  whole = np.concatenate(parts, axis=-1)
  return whole.reshape(*whole.shape[:-2], -1)


def by_tensor(leaves: list[Leaf]) -> list[list[int]]:
  """The arrays of each tensor, by their index, in the order they have there."""
  tensors: dict[str, list[int]] = {}
  for i, leaf in enumerate(leaves):
    tensors.setdefault(leaf.hf_name, []).append(i)
  start = [leaf.start for leaf in leaves]
  return [
    sorted(indices, key=start.__getitem__) for indices in tensors.values()
  ]
