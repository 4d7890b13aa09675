"""Groups of narrow heads that share the lanes of a cache, on TPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from skd_jax.decoding import acceptance, rollout, sampling, stopping
from skd_jax.decoding.policy import Policy
from skd_jax.models import attention, fused_attention, narrow_heads
from skd_jax.parallel import sharding
from tests.conftest import make_batch
from tests.models.test_cached_attention import (
  lowered,
  run_the_kernels_without_a_tpu,
)
from tests.models.test_fused_attention import mesh_of
from tests.toy_models import EVEN_LLAMA, GEMMA, PHI3_SMALL, noisy_params

B, n, S = 2, 3, 24


def shape_on(platform, groups, head_dim, parts=1):
  with jax.sharding.use_abstract_mesh(mesh_of(platform, (1, 1, parts))):
    return narrow_heads.cache_shape(B, groups, S, head_dim)


@pytest.mark.parametrize(
  ("groups", "head_dim", "parts", "shared"),
  [
    pytest.param(8, 64, 1, (4, 128), id="two of 64"),
    pytest.param(3, 64, 1, (2, 128), id="the last row half empty"),
    pytest.param(3, 32, 1, (1, 128), id="a row that is not full"),
    pytest.param(8, 64, 4, (4, 128), id="two on each device"),
    pytest.param(2, 64, 4, (1, 128), id="all groups on each device"),
  ],
)
def test_groups_of_narrow_heads_share_a_row_of_lanes(
  groups, head_dim, parts, shared
):
  rows, size = shared
  assert shape_on("tpu", groups, head_dim, parts) == (B, rows, S, size)


@pytest.mark.parametrize(
  ("platform", "groups", "head_dim", "parts"),
  [
    pytest.param("cpu", 8, 64, 1, id="another platform"),
    pytest.param("tpu", 8, 128, 1, id="whole lanes"),
    pytest.param("tpu", 8, 256, 1, id="several rows of lanes"),
    pytest.param("tpu", 8, 48, 1, id="lanes that do not divide"),
    pytest.param("tpu", 8, 64, 8, id="one group on each device"),
    pytest.param("tpu", 1, 64, 1, id="one group"),
  ],
)
def test_other_heads_have_lanes_of_their_own(platform, groups, head_dim, parts):
  found = shape_on(platform, groups, head_dim, parts)
  assert found == (B, groups, S, head_dim)


def test_heads_that_see_some_blocks_alone_have_lanes_of_their_own(monkeypatch):
  monkeypatch.setattr(sharding, "platform", lambda: "tpu")
  for config, size in ((PHI3_SMALL, PHI3_SMALL.head_dim), (EVEN_LLAMA, 128)):
    (cache, *_) = models.create(config).init_cache(B, S)
    assert cache["k"].shape[3] == size


def test_keys_of_a_slot_are_side_by_side():
  keys = jnp.arange(3 * 2 * 64).reshape(1, 3, 2, 64)
  shared = narrow_heads.share_lanes(keys, (1, 2, S, 128))
  np.testing.assert_array_equal(shared[:, 0, :, :64], keys[:, 0])
  np.testing.assert_array_equal(shared[:, 0, :, 64:], keys[:, 1])
  np.testing.assert_array_equal(shared[:, 1, :, :64], keys[:, 2])
  np.testing.assert_array_equal(shared[:, 1, :, 64:], 0)


@pytest.mark.parametrize(
  ("groups", "heads", "size"),
  [(3, 3, 64), (2, 7, 64), (5, 2, 32), (2, 2, 128), (3, 1, 96)],
)
def test_queries_to_shared_lanes_mix_the_values_of_their_group(
  groups, heads, size
):
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  query = normal(B, n, groups * heads, size)
  key, value = normal(B, groups, S, size), normal(B, groups, S, size)
  positions = jnp.asarray([[4], [9]]) + jnp.arange(n)
  attend = functools.partial(
    attention.attend, positions=positions, window=None, cap=None
  )
  shape = shape_on("tpu", groups, size)
  mixed = attend(
    narrow_heads.spread_queries(query, groups, shape),
    narrow_heads.share_lanes(key, shape),
    narrow_heads.share_lanes(value, shape),
  )
  np.testing.assert_allclose(
    narrow_heads.own_lanes(mixed, query, groups, shape),
    attend(query, key, value),
    rtol=1e-5,
    atol=1e-5,
  )


NARROW = dataclasses.replace(
  GEMMA, num_heads=9, num_kv_heads=3, head_dim=64, hidden_size=20
)


def as_on_a_tpu(monkeypatch, *, kernels=True):
  monkeypatch.setattr(sharding, "platform", lambda: "tpu")
  if kernels:
    run_the_kernels_without_a_tpu(monkeypatch)
    monkeypatch.setattr(fused_attention, "LONG_CACHE", 1)


@pytest.mark.parametrize("kernels", [False, True])
def test_a_model_decodes_with_shared_lanes_as_it_does_without(
  monkeypatch, kernels
):
  model, params = models.create(NARROW), noisy_params(NARROW)
  rng = np.random.default_rng(0)
  prompt = jnp.asarray(rng.integers(0, NARROW.vocab_size, (3, 12)), jnp.int32)

  def decode():
    length = jnp.full(3, 12)
    cache = model.prefill(params, prompt, length, model.init_cache(3, 40))
    first, hidden = jnp.asarray([3, 9, 12]), []
    for count in (1, 4):
      positions = first[:, None] + jnp.arange(count)
      found, cache = model.apply(params, prompt[:, :count], positions, cache)
      hidden.append(found)
      first += count
    return hidden, cache[0]["k"].shape

  expected, plain = decode()
  as_on_a_tpu(monkeypatch, kernels=kernels)
  found, shared = decode()
  assert (plain, shared) == ((3, 3, 40, 64), (3, 2, 40, 128))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    found,
    expected,
  )


@pytest.mark.slow
def test_a_rollout_with_shared_lanes_has_the_same_tokens(monkeypatch):
  model = models.create(NARROW)
  student, teacher = (
    Policy(noisy_params(NARROW, seed), model, sampling.Sampling())
    for seed in (0, 1)
  )
  # Two slots for five prompts: they are refilled.
  batch = make_batch([[3], [1, 2, 5], [4, 4], [2, 6, 1, 3, 5], [5, 1]])
  generate = functools.partial(
    rollout.rollout,
    student,
    teacher,
    batch,
    jax.random.split(jax.random.key(0), 5),
    stopping.make_stop_table(NARROW.vocab_size, (0,)),
    jnp.float32(8),
    rule=acceptance.Rule("top_k"),
    num_draft_tokens=3,
    max_new_tokens=12,
    batch_size=2,
  )
  expected = jax.jit(lambda: generate())()
  as_on_a_tpu(monkeypatch)
  found = jax.jit(lambda: generate())()
  np.testing.assert_array_equal(found.tokens, expected.tokens)
  np.testing.assert_allclose(
    found.teacher_hidden, expected.teacher_hidden, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize(
  ("parts", "groups", "heads"),
  [
    pytest.param(2, 4, 8, id="two groups on each"),
    pytest.param(2, 3, 9, id="two on one, the third on the other"),
    pytest.param(4, 2, 14, id="both on each of four, and all heads"),
  ],
)
def test_the_kernels_read_the_shared_lanes_of_each_device(parts, groups, heads):
  config = dataclasses.replace(
    EVEN_LLAMA, num_kv_heads=groups, num_heads=heads, head_dim=64
  )
  found = lowered(mesh_of("tpu", (1, 1, parts)), config, rows=1)
  calls = [line for line in found.splitlines() if "@tpu_custom_call" in line]
  assert calls
  assert all("tensor<1x1x512x128xbf16>" in call for call in calls)
