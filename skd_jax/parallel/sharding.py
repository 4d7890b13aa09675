"""The mesh of devices, and what of each array a device holds.

The mesh has three axes. Rows of a batch are sharded over `data` and `fsdp`;
weights are sharded over `tensor`, and those that are trained over `fsdp` as
well, with their gradient and moments:

                        data 2, fsdp 2, tensor 2: 8 devices
  rows 0..3             4 groups of 2 devices, one row each
  kernel [D, F]         F/2 of it on each device of a group, D whole
  ... where trained     D/2 of that; gathered over fsdp where it is used

One table says which dimension of an array goes along which axis of the mesh.
A rollout reads every weight at every token, so it has them whole along `fsdp`:
the student's are gathered once before it, the teacher's are always so. Every
data-parallel group decodes its own rows, with its own queue, at its own pace.

Functions that compute take the mesh from the context (`jax.set_mesh`). Without
one, as with a single device, they do nothing.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skd_jax import structs

MESH_AXES = ("data", "fsdp", "tensor")
ROW_AXES = ("data", "fsdp")
OF_ALL = PartitionSpec()
OF_ROWS = PartitionSpec(ROW_AXES)

Rules = Mapping[str, tuple[str, ...]]

# Which axes of the mesh each kind of dimension goes along.
FROZEN: Rules = {
  "row": ROW_AXES,
  "vocab": ("tensor",),
  "heads": ("tensor",),
  "kv_heads": ("tensor",),
  "mlp": ("tensor",),
  "expert_mlp": ("tensor",),
  "width": (),
  # Of what is computed for each row alone, with weights that every device has.
  "spread_row": MESH_AXES,
}
TRAINED: Rules = {**FROZEN, "width": ("fsdp",)}


def make_mesh(
  *,
  data: int,
  fsdp: int,
  tensor: int,
  rollout_devices: int = 0,
  devices: Any = None,
) -> Mesh:
  """Returns the mesh.

  Args:
    data: data-parallel groups; -1: as many as there are devices for.
    fsdp: devices that rows and the trained weights are sharded over.
    tensor: devices that every weight is sharded over.
    rollout_devices: the last devices, as many, are left out: they generate, see
      rollout_devices.py.
    devices: default: all.

  Raises:
    ValueError: the devices do not divide into the axes.
  """
  devices = jax.devices() if devices is None else devices
  for name, size in (("fsdp", fsdp), ("tensor", tensor)):
    if size < 1:
      raise ValueError(f"mesh.{name} = {size}: must be at least 1")
  most = len(devices) - tensor
  if rollout_devices and (
    rollout_devices % tensor or not 0 < rollout_devices <= most
  ):
    raise ValueError(
      f"mesh.rollout_devices = {rollout_devices}: must be a multiple of "
      f"mesh.tensor = {tensor} in [0, {max(most, 0)}], as there are "
      f"{len(devices)} devices"
    )
  devices = devices[: len(devices) - rollout_devices]
  if data < 1 and data != -1:
    raise ValueError(f"mesh.data = {data}: must be at least 1, or -1")
  if data == -1:
    data = max(len(devices) // (fsdp * tensor), 1)
  if data * fsdp * tensor != len(devices):
    raise ValueError(
      f"mesh.data = {data}, mesh.fsdp = {fsdp}, mesh.tensor = {tensor}: the "
      f"product must be the number of devices that train, {len(devices)}"
    )
  return jax.make_mesh(
    (data, fsdp, tensor),
    MESH_AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
    devices=devices,
  )


def num_row_shards(mesh: Mesh) -> int:
  """Returns into how many parts the rows of a batch are sharded."""
  return math.prod(mesh.shape[axis] for axis in ROW_AXES)


def num_groups() -> int:
  """Returns how many data-parallel groups the mesh of the context has."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return 1
  return math.prod(mesh.shape[axis] for axis in ROW_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what every device holds."""
  return NamedSharding(mesh, OF_ALL)


def rows(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays [B, ...] by rows."""
  return NamedSharding(mesh, OF_ROWS)


def state_shardings(
  optimizer: optax.GradientTransformation,
  state: structs.TrainState,
  shardings: structs.Params,
  of_older: structs.Params,
  mesh: Mesh,
) -> structs.TrainState:
  """Returns the sharding of each array of a training state.

  Args:
    optimizer: whose state it holds.
    state: the state, or its shapes.
    shardings: of the weights; moments are placed as their weights.
    of_older: of those of before the last update, where the state has them.
    mesh: the mesh.
  """
  whole = cast(Any, replicated(mesh))
  of_distance = None if state.distance is None else whole
  older = structs.OlderWeights(params=of_older, distance=of_distance)
  return structs.TrainState(
    step=whole,
    params=shardings,
    opt_state=optax.tree_utils.tree_map_params(
      optimizer.init,
      lambda _, sharding: sharding,
      state.opt_state,
      shardings,
      transform_non_params=lambda _: replicated(mesh),
    ),
    distance=of_distance,
    older=None if state.older is None else older,
  )


def row_range(mesh: Mesh, num_rows: int) -> tuple[int, int]:
  """Returns the first row that this process's devices hold, and the end."""
  held = rows(mesh).addressable_devices_indices_map((num_rows,))
  everything = (slice(None),)  # On a single device there is no index.
  bounds = [
    (index or everything)[0].indices(num_rows) for index in held.values()
  ]
  return min(b[0] for b in bounds), max(b[1] for b in bounds)


def reader(mesh: Mesh, num_rows: int) -> tuple[int, int]:
  """Returns which part of each batch this process has to read.

  Args:
    mesh: the mesh.
    num_rows: B over all processes.

  Returns:
    (index, count): part `index` of `count` equal ones. Processes that hold the
    same rows, as those along `tensor` do, read the same part.
  """
  start, end = row_range(mesh, num_rows)
  size = end - start
  if start % size or num_rows % size:
    return 0, 1  # Its rows are no such part: it reads the whole batch.
  return start // size, num_rows // size


def place_rows(tree: Any, mesh: Mesh, num_rows: int) -> Any:
  """Puts a batch on the devices.

  Args:
    tree: of numpy arrays [B / count, ...], the part that `reader` names.
    mesh: the mesh.
    num_rows: B over all processes.

  Returns:
    The tree of global jax.Arrays [B, ...].
  """
  sharding = rows(mesh)
  index, count = reader(mesh, num_rows)
  start = index * (num_rows // count)

  def place(x: np.ndarray) -> jax.Array:
    def part(where):
      begin, end, _ = where[0].indices(num_rows)
      return x[begin - start : end - start]

    return jax.make_array_from_callback(
      (num_rows, *x.shape[1:]), sharding, part
    )

  return jax.tree.map(place, tree)


def constrain(x: jax.Array, *dimensions: str | None) -> jax.Array:
  """Fixes how an array is placed on the mesh of the context; inside jit.

  Args:
    x: [...].
    dimensions: the kind of each, a name of the table, or None for one that is
      whole on every device. One that does not divide by all its axes goes along
      the first of them alone, or is whole as well.

  Returns:
    x.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, spec(x.shape, *dimensions))


def spec(shape: tuple[int, ...], *dimensions: str | None) -> PartitionSpec:
  """Returns where `constrain` places an array of a shape; see there."""
  mesh = jax.sharding.get_abstract_mesh()
  found = []
  for name, size in zip(dimensions, shape, strict=True):
    # Inside `by_rows` the rows are sharded already.
    axes = tuple(a for a in FROZEN.get(name or "", ()) if a in mesh.auto_axes)
    while size % math.prod(mesh.shape[axis] for axis in axes):
      axes = axes[:-1]
    found.append(axes or None)
  return PartitionSpec(*found)


def constrain_rows(tree: Any) -> Any:
  """Shards the rows of each array [B, ...] of a tree; inside jit."""
  return jax.tree.map(
    lambda x: constrain(x, "row", *[None] * (x.ndim - 1)), tree
  )


def shards_rows() -> bool:
  """Whether the mesh of the context shards rows."""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and any(
    mesh.shape[axis] > 1 for axis in ROW_AXES if axis in mesh.auto_axes
  )


def num_tensor_parts() -> int:
  """Returns over how many devices the mesh of the context shards weights."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else mesh.shape["tensor"]


def shards_tensors() -> bool:
  """Whether the mesh of the context shards weights over `tensor`."""
  return num_tensor_parts() > 1


def by_rows(
  function: Callable[[Any, Any], Any], *, out: Any = OF_ROWS
) -> Callable[[Any, Any], Any]:
  """Runs a function on each data-parallel group, with the rows of that group.

  No group waits for another inside it, whatever their loops do.

  Args:
    function: `(shared, rows) -> result`: a tree that every group has whole, a
      tree of arrays [B, ...], and what it makes of them.
    out: of the result, or of its parts: OF_ROWS, arrays [B, ...] of the rows;
      OF_ALL, what `sum_over_groups` has made equal on all groups.

  Returns:
    A function of the same arguments, of all rows.
  """
  if not shards_rows():
    return function
  return jax.shard_map(
    function,
    in_specs=(OF_ALL, OF_ROWS),
    out_specs=out,
    axis_names=set(ROW_AXES),
    # What a loop carries begins equal on all groups and then differs.
    check_vma=False,
  )


def on_each_device(
  function: Callable[..., Any], *, specs: Any, out: Any
) -> Callable[..., Any]:
  """Runs a function on each device, with its parts: what XLA cannot partition.

  Args:
    function: of arrays, to arrays; it must need no other device.
    specs: of each argument, from `spec`.
    out: of the result, or of its parts.

  Returns:
    A function of the same arguments, of whole arrays.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return function
  return jax.shard_map(
    function,
    in_specs=specs,
    out_specs=out,
    axis_names=set(mesh.auto_axes),
    check_vma=False,
  )


def platform() -> str:
  """Returns what the program is compiled for: "cpu", "gpu" or "tpu".

  The devices of the mesh of the context, which need not be there; without a
  mesh, the default backend.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def sum_over_groups(tree: Any) -> Any:
  """Adds up what the data-parallel groups have; inside `by_rows`."""
  axes = jax.sharding.get_abstract_mesh().manual_axes
  return jax.lax.psum(tree, axes) if axes else tree


def min_over_groups(x: jax.Array) -> jax.Array:
  """Returns the least value of any data-parallel group; inside `by_rows`."""
  axes = jax.sharding.get_abstract_mesh().manual_axes
  return jax.lax.pmin(x, axes) if axes else x
