"""Adapters beside frozen kernels: the same model, then a small change of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from skd_jax.models import lora
from skd_jax.parallel import sharding
from tests.toy_models import LLAMA, PHI, QWEN3_MOE, noisy_params

CONFIG = LLAMA
TARGETS = ("q_proj", "down_proj")
TOKENS = jnp.asarray([[3, 1, 4, 1], [5, 9, 2, 6]])
POSITIONS = jnp.broadcast_to(jnp.arange(4), TOKENS.shape)
RANK = 3


def add(params, targets=TARGETS, seed=0):
  return models.add_adapters(
    CONFIG, params, rank=RANK, alpha=6.0, targets=targets, seed=seed
  )


def changed(params, seed=5):
  """As after some training: b is no longer zero."""
  trained, frozen = lora.split(params)
  rng = np.random.default_rng(seed)
  trained = jax.tree.map(
    lambda x: jnp.asarray(
      np.asarray(x) + 0.2 * rng.normal(size=x.shape).astype(np.float32)
    ),
    trained,
  )
  return lora.attach(trained, frozen)


@jax.jit
def logits(params):
  model = models.create(CONFIG)
  hidden, _ = model.apply(params, TOKENS, POSITIONS, None)
  return model.head(model.head_params(params), hidden)


@pytest.fixture(scope="module")
def base():
  return noisy_params(CONFIG)


def test_new_adapters_change_nothing(base):
  np.testing.assert_array_equal(logits(add(base)), logits(base))
  assert np.abs(logits(changed(add(base))) - logits(base)).max() > 0.01


def test_adapted_kernel_computes_what_the_merged_one_does(base):
  params = changed(add(base, lora.TARGETS))
  merged = jax.tree.map(lora.merge, params, is_leaf=lora.is_adapted)
  assert jax.tree.structure(merged) == jax.tree.structure(base)
  np.testing.assert_allclose(
    logits(params), logits(merged), rtol=1e-4, atol=1e-5
  )
  query = params["layers"]["1"]["attention"]["query"]["kernel"]
  np.testing.assert_allclose(
    merged["layers"]["1"]["attention"]["query"]["kernel"],
    np.asarray(query.kernel) + 2.0 * np.asarray(query.a) @ np.asarray(query.b),
    rtol=1e-4,
    atol=1e-6,
  )


def test_activations_stay_in_their_dtype(base):
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
  params = changed(add(half))
  kernel = params["layers"]["0"]["mlp"]["down"]["kernel"]
  assert kernel.a.dtype == kernel.b.dtype == jnp.float32
  x = jnp.ones((2, CONFIG.intermediate_size), jnp.bfloat16)
  assert lora.multiply(x, kernel).dtype == jnp.bfloat16
  merged = lora.merge(kernel)
  assert merged.dtype == jnp.float32
  wide = lora.multiply(x.astype(jnp.float32), kernel)
  np.testing.assert_allclose(
    wide, x.astype(jnp.float32) @ merged, rtol=1e-4, atol=1e-5
  )


def test_split_and_attach_copy_nothing(base):
  params = add(base)
  trained, frozen = lora.split(params)
  shapes = {
    jax.tree_util.keystr(path, simple=True, separator="."): x.shape
    for path, x in jax.tree.leaves_with_path(trained)
  }
  assert shapes == {
    f"layers.{layer}.{module}.kernel.{part}": shape
    for layer in range(CONFIG.num_layers)
    for module, size in (("attention.query", (24, 60)), ("mlp.down", (40, 24)))
    for part, shape in (("a", (size[0], RANK)), ("b", (RANK, size[1])))
  }
  assert len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(base))
  again = lora.attach(trained, frozen)
  for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
    assert x is y
  ours = jax.tree.leaves(jax.tree.map(lambda x: x, frozen))
  assert {id(x) for x in ours} == {id(x) for x in jax.tree.leaves(base)}


def test_weights_without_adapters_are_all_trained(base):
  trained, frozen = lora.split(base)
  assert trained is base
  assert frozen is None
  assert lora.attach(trained, frozen) is base


def test_adapters_are_drawn_by_seed_and_kernel(base):
  def drawn(seed):
    return jax.tree.leaves(lora.split(add(base, ("q_proj",), seed))[0])

  ours, again, others = drawn(0), drawn(0), drawn(1)
  jax.tree.map(np.testing.assert_array_equal, ours, again)
  first, _, second, _ = ours  # The a of both layers.
  assert np.any(first != second)
  assert np.any(first != others[0])
  # Deviation 1 / sqrt(24), of 72 draws.
  assert np.std(first) * 24**0.5 == pytest.approx(1.0, abs=0.3)


def test_projection_that_the_model_lacks_is_named(base):
  with pytest.raises(ValueError) as caught:
    add(base, ("q_proj", "qkv_proj"))
  assert str(caught.value) == (
    "targets has 'qkv_proj': must be of down_proj, gate_proj, k_proj, o_proj, "
    "q_proj, up_proj, v_proj"
  )


def test_known_targets_are_those_of_a_decoder(base):
  known = ", ".join(sorted(lora.TARGETS))
  with pytest.raises(ValueError, match=f": must be of {known}$"):
    add(base, ("x",))


@pytest.mark.parametrize("target", ["gate_proj", "down_proj"])
def test_adapters_of_experts_are_refused(target):
  # Its dense layers have such projections, and would be adapted alone.
  shapes = models.param_shapes(QWEN3_MOE)
  lora.check_targets(QWEN3_MOE, shapes, ("q_proj", "o_proj"))
  with pytest.raises(ValueError) as caught:
    lora.check_targets(QWEN3_MOE, shapes, ("q_proj", target))
  assert str(caught.value) == (
    f"targets has {target!r}: must be of k_proj, o_proj, q_proj, v_proj"
  )


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
def test_adapters_are_sharded_as_their_kernels_and_whole_along_the_rank():
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  placement = models.Placement(mesh, sharding.FROZEN)
  params = jax.device_put(noisy_params(CONFIG), placement.shardings(CONFIG))
  layer = add(params)["layers"]["0"]
  of = jax.sharding.PartitionSpec
  query, down = layer["attention"]["query"], layer["mlp"]["down"]
  assert query["kernel"].a.sharding.spec == of(None, None)
  assert query["kernel"].b.sharding.spec == of(None, ("tensor",))
  assert down["kernel"].a.sharding.spec == of(("tensor",), None)
  assert down["kernel"].b.sharding.spec == of(None, None)


def test_projections_that_share_a_tensor_have_no_adapter():
  config = PHI
  with pytest.raises(ValueError) as caught:
    models.add_adapters(
      config,
      noisy_params(config),
      rank=RANK,
      alpha=1.0,
      targets=("q_proj",),
      seed=0,
    )
  assert str(caught.value) == (
    "targets has 'q_proj': must be of down_proj, o_proj"
  )
