"""Which dimensions of the weights are sharded; on one device."""

import dataclasses

import jax

from skd_jax import models
from skd_jax.models import placement
from skd_jax.parallel import sharding
from tests.toy_models import LLAMA, QWEN3_MOE


class FakeMesh:
  """As much of a mesh as the rules look at."""

  def __init__(self, **shape):
    self.shape = {"data": 1, "fsdp": 1, "tensor": 1} | shape


def test_what_divides_is_sharded_and_the_rest_stays_whole():
  rules, kept = models.usable_rules(LLAMA, FakeMesh(tensor=4), sharding.TRAINED)
  assert rules["mlp"] == ("tensor",)
  assert rules["width"] == ("fsdp",)
  assert rules["heads"] == rules["kv_heads"] == rules["vocab"] == ()
  assert "heads = 6 is not divisible by mesh.tensor = 4" in kept
  assert len(kept) == 3


def test_groups_of_heads_stay_together():
  # Two groups of three query heads on three devices: each would hold parts of
  # both groups.
  rules, _ = models.usable_rules(LLAMA, FakeMesh(tensor=3), sharding.FROZEN)
  assert rules["heads"] == ()
  rules, _ = models.usable_rules(LLAMA, FakeMesh(tensor=2), sharding.FROZEN)
  assert rules["heads"] == rules["kv_heads"] == ("tensor",)


def test_every_matrix_of_every_family_is_in_the_table():
  everything = dataclasses.replace(
    LLAMA,
    attention_bias=True,
    attention_output_bias=True,
    mlp_bias=True,
    qk_norm=True,
    post_norm=True,
    layer_norm=True,
    learned_positions=True,
    tie_embeddings=False,
  )
  shapes = {
    config.model_type: models.param_shapes(config)
    for config in (everything, QWEN3_MOE)
  }
  for path, leaf in jax.tree.leaves_with_path(shapes):
    kinds = placement.kinds_of(path)
    assert len(kinds) == (leaf.ndim if kinds else 0)
    assert kinds or leaf.ndim == 1, path


def test_experts_are_sharded_along_their_width_by_their_own_size():
  config = dataclasses.replace(QWEN3_MOE, num_experts=4, expert_size=14)
  rules, kept = models.usable_rules(config, FakeMesh(tensor=4), sharding.FROZEN)
  assert rules["mlp"] == ("tensor",)
  assert rules["expert_mlp"] == ()
  assert "expert_mlp = 14 is not divisible by mesh.tensor = 4" in kept
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  found = models.param_shardings(config, mesh, sharding.TRAINED)
  mlp, of = found["layers"]["1"]["mlp"], jax.sharding.PartitionSpec
  assert mlp["expert_up"]["kernel"].spec == of(None, "fsdp", "tensor")
  assert mlp["expert_down"]["kernel"].spec == of(None, "tensor", "fsdp")
  assert mlp["router"]["kernel"].spec == of("fsdp", None)


def test_trained_weights_are_sharded_over_fsdp_and_frozen_ones_are_not():
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  of = {
    name: models.param_shardings(LLAMA, mesh, rules)["layers"]["0"]["mlp"]
    for name, rules in (
      ("trained", sharding.TRAINED),
      ("frozen", sharding.FROZEN),
    )
  }
  trained = of["trained"]["down"]["kernel"].spec
  assert trained == jax.sharding.PartitionSpec("tensor", "fsdp")
  frozen = of["frozen"]["down"]["kernel"].spec
  assert frozen == jax.sharding.PartitionSpec("tensor", None)
