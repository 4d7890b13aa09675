"""The mesh, its rules, and which rows a process reads; on one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import config as config_lib
from skd_jax import config_checks, methods, models
from skd_jax.models import placement
from skd_jax.parallel import sharding

CONFIG = models.ModelConfig(
  vocab_size=50,
  hidden_size=16,
  intermediate_size=32,
  num_layers=1,
  num_heads=6,
  num_kv_heads=2,
  head_dim=8,
)


class FakeMesh:
  """As much of a mesh as the rules look at."""

  def __init__(self, **shape):
    self.shape = {"data": 1, "fsdp": 1, "tensor": 1} | shape


@pytest.mark.parametrize(
  ("sizes", "named"),
  [
    ({"data": 3}, "mesh.data = 3"),
    ({"fsdp": 0}, "mesh.fsdp = 0"),
    ({"tensor": -1}, "mesh.tensor = -1"),
    ({"data": 0}, "mesh.data = 0"),
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


def test_what_divides_is_cut_and_the_rest_stays_whole():
  rules, kept = models.usable_rules(
    CONFIG, FakeMesh(tensor=4), sharding.TRAINED
  )
  assert rules["mlp"] == ("tensor",)
  assert rules["width"] == ("fsdp",)
  assert rules["heads"] == rules["kv_heads"] == rules["vocab"] == ()
  assert "heads = 6 is not divisible by mesh.tensor = 4" in kept
  assert len(kept) == 3


def test_groups_of_heads_are_not_torn():
  # Two groups of three query heads on three devices: each would hold parts of
  # both groups.
  rules, _ = models.usable_rules(CONFIG, FakeMesh(tensor=3), sharding.FROZEN)
  assert rules["heads"] == ()
  rules, _ = models.usable_rules(CONFIG, FakeMesh(tensor=2), sharding.FROZEN)
  assert rules["heads"] == rules["kv_heads"] == ("tensor",)


def test_every_matrix_of_every_family_is_in_the_table():
  everything = dataclasses.replace(
    CONFIG,
    attention_bias=True,
    attention_output_bias=True,
    mlp_bias=True,
    qk_norm=True,
    sandwich_norm=True,
    tie_embeddings=False,
  )
  shapes = models.param_shapes(everything)
  for path, leaf in jax.tree.leaves_with_path(shapes):
    kinds = placement.kinds_of(path)
    assert len(kinds) == (leaf.ndim if kinds else 0)
    assert kinds or leaf.ndim == 1, path


def test_trained_weights_are_cut_along_fsdp_and_frozen_ones_are_not():
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  of = {
    name: models.param_shardings(CONFIG, mesh, rules)["layers"]["0"]["mlp"]
    for name, rules in (
      ("trained", sharding.TRAINED),
      ("frozen", sharding.FROZEN),
    )
  }
  trained = of["trained"]["down"]["kernel"].spec
  assert trained == jax.sharding.PartitionSpec("tensor", "fsdp")
  frozen = of["frozen"]["down"]["kernel"].spec
  assert frozen == jax.sharding.PartitionSpec("tensor", None)


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


def test_batch_that_cannot_be_dealt_out_is_refused():
  config = methods.change(
    config_lib.default_config(),
    {"distill.batch_size": 12, "distill.num_microbatches": 3},
  )
  config_checks.validate_rows(config, 4)
  with pytest.raises(ValueError, match=r"distill\.batch_size = 12.* = 24"):
    config_checks.validate_rows(config, 8)


def test_batch_of_a_stage_that_is_skipped_may_be_any():
  config = methods.change(
    config_lib.default_config(),
    {"teacher.fit.batch_size": 3, "teacher.path": "somewhere"},
  )
  config_checks.validate_rows(config, 8)
