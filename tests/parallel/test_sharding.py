"""The mesh, and which rows a process reads; on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import config as config_lib
from skd_jax import config_checks, methods
from skd_jax.parallel import sharding


@pytest.mark.parametrize(
  ("sizes", "named"),
  [
    ({"data": 3}, "mesh.data = 3"),
    ({"fsdp": 0}, "mesh.fsdp = 0"),
    ({"tensor": -1}, "mesh.tensor = -1"),
    ({"data": 0}, "mesh.data = 0: must be at least 1, or -1"),
    ({"data": -2}, "mesh.data = -2: must be at least 1, or -1"),
  ],
)
def test_mesh_that_is_not_the_devices_is_refused(sizes, named):
  asked = {"data": -1, "fsdp": 1, "tensor": 1} | sizes
  with pytest.raises(ValueError, match=named):
    sharding.make_mesh(**asked, devices=jax.devices()[:1])


def test_data_takes_the_devices_that_are_left():
  mesh = sharding.make_mesh(
    data=-1, fsdp=1, tensor=1, devices=jax.devices()[:1]
  )
  assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}


def test_rows_keep_their_order_on_the_devices():
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  assert sharding.reader(mesh, 6) == (0, 1)
  placed = sharding.place_rows({"x": np.arange(12).reshape(6, 2)}, mesh, 6)
  np.testing.assert_array_equal(placed["x"], np.arange(12).reshape(6, 2))


def test_without_a_mesh_nothing_is_constrained():
  x = jnp.ones((3, 2))
  assert sharding.constrain(x, "row", None) is x
  assert not sharding.shards_rows()
  function = lambda shared, rows: shared + rows  # noqa: E731
  assert sharding.by_rows(function) is function


def test_batch_that_cannot_be_sharded_is_refused():
  config = methods.change(
    config_lib.default_config(),
    {"distill.batch_size": 12, "distill.num_microbatches": 3},
  )
  config_checks.check_rows(config, 4)
  with pytest.raises(ValueError, match=r"distill\.batch_size = 12.* = 24"):
    config_checks.check_rows(config, 8)


def test_batch_of_a_stage_that_is_skipped_may_be_any():
  config = methods.change(
    config_lib.default_config(),
    {"teacher.fit.batch_size": 3, "teacher.path": "somewhere"},
  )
  config_checks.check_rows(config, 8)
