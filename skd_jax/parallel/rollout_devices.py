"""Devices that generate, apart from those that train.

The last `mesh.rollout_devices` devices generate the responses of the next step
while the others train. With `mesh.data=2 mesh.fsdp=2 mesh.rollout_devices=2`:

  devices 0 1 2 3    train 0     | train 1     | train 2
  devices 4 5        responses 1 | responses 2 | responses 3

A step reads responses of the weights of before the last update, so neither
waits for the other, but for the slower of them. The meshes have the same
`tensor`. Weights are thus in the same parts on both, once those of training are
gathered over `fsdp`, and go from device to device.
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skd_jax.parallel import sharding


def make_rollout_mesh(
  *,
  data: int,
  fsdp: int,
  tensor: int,
  rollout_devices: int,
  devices: Any = None,
) -> Mesh:
  """Returns the mesh that generates: that of training, if it has no devices.

  Args:
    data, fsdp, tensor, rollout_devices, devices: as of sharding.make_mesh. As a
      rollout reads whole weights, rows alone are sharded here, besides what
      `tensor` shards.

  Raises:
    ValueError: as sharding.make_mesh.
  """
  devices = jax.devices() if devices is None else devices
  if rollout_devices and jax.process_count() > 1:
    raise ValueError(
      f"mesh.rollout_devices = {rollout_devices}: must be 0 where a run has "
      f"{jax.process_count()} processes"
    )
  if not rollout_devices:
    return sharding.make_mesh(
      data=data, fsdp=fsdp, tensor=tensor, devices=devices
    )
  return sharding.make_mesh(
    data=rollout_devices // tensor,
    fsdp=1,
    tensor=tensor,
    devices=devices[-rollout_devices:],
  )


def whole_along_fsdp(shardings: Any) -> Any:
  """Returns the shardings of weights that are gathered over `fsdp`.

  Args:
    shardings: a tree of NamedSharding.
  """

  def gathered(of: NamedSharding) -> NamedSharding:
    axes = (_without_fsdp(axis) for axis in of.spec)
    return NamedSharding(of.mesh, PartitionSpec(*axes))

  return jax.tree.map(gathered, shardings)


def _without_fsdp(axis: Any) -> Any:
  if isinstance(axis, tuple):
    return tuple(name for name in axis if name != "fsdp") or None
  return None if axis == "fsdp" else axis


def on_mesh(tree: Any, mesh: Mesh) -> Any:
  """Returns weights on the devices of a mesh, whole along `fsdp`.

  Args:
    tree: of jax.Arrays, on a mesh with the same `tensor`.
    mesh: the mesh.

  Returns:
    The tree; what is on these devices stays as it is, sharded or not.
  """

  def place(x: jax.Array) -> jax.Array:
    if x.sharding.device_set == {*mesh.devices.flat}:
      return x
    assert isinstance(x.sharding, NamedSharding)
    return move(x, NamedSharding(mesh, whole_along_fsdp(x.sharding).spec))

  return jax.tree.map(place, tree)


def rows_on_mesh(tree: Any, mesh: Mesh) -> Any:
  """Returns arrays [B, ...] on the devices of a mesh, by rows; see `move`."""
  rows = sharding.rows(mesh)
  return jax.tree.map(lambda x: move(x, rows), tree)


def move(x: jax.Array, target: NamedSharding) -> jax.Array:
  """Returns an array on other devices; waits for none if the parts are equal.

    x [4, D] on devices 0 1: rows 0 1 | rows 2 3
    on devices 2 3:          0 -> 2, 1 -> 3          from device to device
    on devices 2 3 4 5:      rows 0 | 1 | 2 | 3      through the host

  Args:
    x: of one process.
    target: where it goes. An array on these devices stays as it is.
  """
  if x.sharding.device_set == target.device_set:
    return x
  held = {_key(part.index, x.shape): part.data for part in x.addressable_shards}
  wanted = {
    device: _key(index, x.shape)
    for device, index in target.devices_indices_map(x.shape).items()
  }
  if not set(wanted.values()) <= set(held):
    return jax.device_put(x, target)
  parts = [jax.device_put(held[key], device) for device, key in wanted.items()]
  return jax.make_array_from_single_device_arrays(x.shape, target, parts)


def _key(
  index: tuple[slice, ...], shape: tuple[int, ...]
) -> tuple[tuple[int, int, int], ...]:
  """Returns the ends of a part; Python 3.11 has no hash of a slice."""
  return tuple(
    part.indices(size) for part, size in zip(index, shape, strict=True)
  )
