"""The kernels of a long cache: one writes, one reads the slots in use."""

import dataclasses
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.tpu import chips
from skd_jax import models
from skd_jax.models import (
  attention,
  cache_writes,
  cached_attention,
  fused_attention,
)
from skd_jax.parallel import sharding
from tests.models.test_fused_attention import mesh_of
from tests.toy_models import EVEN_LLAMA, PHI3_SMALL, noisy_params

S, H, BLOCK = 300, 16, 128


def make_inputs(first, *, n, groups, heads):
  """Queries at slots first[b].. of a row; keys and values of all slots."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  positions = np.array(first)[:, None] + np.arange(n)
  return (
    normal(len(first), n, groups * heads, H),
    normal(len(first), groups, S, H),
    normal(len(first), groups, S, H),
    jnp.asarray(positions, jnp.int32),
  )


# The last block is not whole; 126 begins in one block and ends in the next.
@pytest.mark.parametrize(
  ("n", "groups", "heads", "window", "cap"),
  [
    (1, 2, 3, None, None),
    (4, 1, 2, None, 2.0),
    (4, 2, 1, 140, None),
    (5, 1, 1, 3, None),
  ],
)
def test_the_kernel_is_attention_to_the_slots_that_a_query_sees(
  n, groups, heads, window, cap
):
  arrays = make_inputs([0, 126, S - n, 200], n=n, groups=groups, heads=heads)
  found = jax.jit(
    functools.partial(
      cached_attention.attend,
      window=window,
      cap=cap,
      block=BLOCK,
      interpret=True,
    )
  )(*arrays)
  expected = attention.attend(*arrays, window=window, cap=cap)
  np.testing.assert_allclose(
    found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5
  )


def test_slots_that_no_query_sees_are_not_read():
  query, key, value, positions = make_inputs([100, 290], n=2, groups=1, heads=2)
  # Blocks of 128: row 0 is in the first, row 1 with its window in the last.
  stale = np.zeros((2, 1, S, 1), bool)
  stale[0, :, BLOCK:], stale[1, :, : 2 * BLOCK] = True, True
  poisoned = (jnp.where(stale, jnp.nan, x) for x in (key, value))
  attend = jax.jit(
    functools.partial(
      cached_attention.attend, window=30, cap=None, block=BLOCK, interpret=True
    )
  )
  np.testing.assert_array_equal(
    attend(query, *poisoned, positions), attend(query, key, value, positions)
  )


def test_a_row_past_the_last_slot_sees_all_of_its_cache():
  arrays = make_inputs([S + 7, 5], n=1, groups=1, heads=1)
  found = cached_attention.attend(
    *arrays, window=None, cap=None, block=BLOCK, interpret=True
  )
  expected = attention.attend(*arrays, window=None, cap=None)
  np.testing.assert_allclose(
    found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5
  )


def test_a_query_that_sees_no_slot_mixes_nothing():
  arrays = make_inputs([S + 7], n=1, groups=1, heads=1)
  found = cached_attention.attend(
    *arrays, window=3, cap=None, block=BLOCK, interpret=True
  )
  np.testing.assert_array_equal(found, 0.0)


@pytest.mark.parametrize(
  # Slots 13 to 17 are in two groups of 8. The last two are partly past the end.
  "n",
  [1, 5, 9],
)
def test_new_keys_and_values_are_written_and_nothing_else(n):
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.bfloat16)

  caches = normal(4, 2, 64, 128), normal(4, 2, 64, 128)
  news = normal(4, 2, n, 128), normal(4, 2, n, 128)
  first = jnp.asarray([0, 13, 63, 66], jnp.int32)
  found = cache_writes.write(caches, news, first, interpret=True)
  positions = first[:, None] + jnp.arange(n)
  for cache, new, written in zip(caches, news, found, strict=True):
    np.testing.assert_array_equal(
      written, attention.write_slots(cache, new, positions)
    )


def test_rows_that_do_not_fit_at_once_are_written_by_parts(monkeypatch):
  monkeypatch.setattr(cache_writes, "_WINDOW_BYTES", 2 * 8 * 128 * 4)
  rng = np.random.default_rng(0)
  cache, new = (
    jnp.asarray(rng.normal(size=(6, 1, slots, 128)), jnp.float32)
    for slots in (16, 1)
  )
  first = jnp.asarray([0, 3, 7, 8, 15, 16], jnp.int32)
  (found,) = cache_writes.write((cache,), (new,), first, interpret=True)
  np.testing.assert_array_equal(
    found, attention.write_slots(cache, new, first[:, None])
  )


@pytest.mark.parametrize("num_slots", [8, 20])
def test_a_cache_whose_slots_cannot_be_copied_is_refused(num_slots):
  cache, new = jnp.zeros((1, 1, num_slots, 128)), jnp.zeros((1, 1, 2, 128))
  with pytest.raises(
    ValueError, match=f"has {num_slots} slots: must be a mult"
  ):
    cache_writes.write((cache,), (new,), jnp.zeros(1, jnp.int32))


@pytest.mark.parametrize(
  ("groups", "num_slots", "size", "block"),
  [
    (1, 8192, 256, 1024),
    (8, 8192, 128, 256),
    (64, 8192, 256, 128),
    (1, 517, 256, 640),
    (2, 520, 256, 384),
  ],
)
def test_a_block_has_as_many_slots_as_fit(groups, num_slots, size, block):
  found = cached_attention.block_size(groups, num_slots, size, jnp.bfloat16)
  assert found == block


def run_the_kernels_without_a_tpu(monkeypatch):
  for module, name in ((cache_writes, "write"), (cached_attention, "attend")):
    kernel = functools.partial(getattr(module, name), interpret=True)
    monkeypatch.setattr(module, name, kernel)


def test_a_model_decodes_with_the_kernels_as_it_does_without(monkeypatch):
  config = dataclasses.replace(
    EVEN_LLAMA, layer_windows=(5, None), attention_soft_cap=3.0
  )
  model = models.create(config)
  params = noisy_params(config)
  rng = np.random.default_rng(0)
  prompt = jnp.asarray(rng.integers(0, config.vocab_size, (3, 12)), jnp.int32)

  @jax.jit
  def decode(prompt):
    cache = model.prefill(
      params, prompt, jnp.full(3, 12), model.init_cache(3, 40)
    )
    first, hidden = jnp.asarray([3, 9, 12]), []
    for n in (1, 4, 1):
      positions = first[:, None] + jnp.arange(n)
      found, cache = model.apply(params, prompt[:, :n], positions, cache)
      hidden.append(found)
      first += n
    return hidden, cache

  expected = decode(prompt)
  jax.clear_caches()
  run_the_kernels_without_a_tpu(monkeypatch)
  used = []

  def works_on_cache(*shapes, **options):
    used.append(shapes)
    return True

  monkeypatch.setattr(fused_attention, "works_on_cache", works_on_cache)
  found = decode(prompt)
  assert len(used) == 6  # Two layers, three calls.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    found,
    expected,
  )


WIDE = dataclasses.replace(EVEN_LLAMA, head_dim=128)
LONG = fused_attention.LONG_CACHE


def lowered(mesh, config, *, num_slots=LONG, rows=2, n=1, by_rows=False):
  """The text of n tokens of a decode loop, lowered for a mesh."""
  model = models.create(config, dtype=jnp.bfloat16)
  platform = mesh.abstract_device.platform

  def step(params, of_rows):
    return model.apply(params, *of_rows)[0]

  with jax.sharding.use_abstract_mesh(mesh):
    return (
      jax.jit(sharding.by_rows(step) if by_rows else step)
      .trace(
        models.param_shapes(config),
        (
          *[jax.ShapeDtypeStruct((rows, n), jnp.int32)] * 2,
          jax.eval_shape(functools.partial(model.init_cache, rows, num_slots)),
        ),
      )
      .lower(lowering_platforms=(platform,))
      .as_text()
    )


@pytest.mark.parametrize("n", [1, 6])
def test_drafting_and_judging_read_a_long_cache_with_the_kernel(n):
  assert "@tpu_custom_call" in lowered(mesh_of("tpu"), WIDE, n=n)


@pytest.mark.parametrize(
  ("platform", "config", "changes"),
  [
    pytest.param("cpu", WIDE, {}, id="another platform"),
    pytest.param(
      "tpu",
      WIDE,
      {"num_slots": LONG - fused_attention.SLOTS_TOGETHER},
      id="a short cache",
    ),
    pytest.param("tpu", WIDE, {"n": 129}, id="many queries"),
    pytest.param(
      "tpu",
      dataclasses.replace(WIDE, head_dim=96),
      {},
      id="lanes that are not whole",
    ),
    pytest.param(
      "tpu",
      dataclasses.replace(PHI3_SMALL, head_dim=128, dense_attention_layers=()),
      {},
      id="some blocks alone",
    ),
  ],
)
def test_other_reads_of_a_cache_have_no_kernel(platform, config, changes):
  found = lowered(mesh_of(platform), config, **changes)
  assert "@tpu_custom_call" not in found


@pytest.mark.parametrize(
  ("groups", "shape"),
  [
    pytest.param(4, "1x2x512x128", id="two of four groups"),
    pytest.param(1, "1x1x512x128", id="one group, which both have"),
  ],
)
def test_each_device_reads_the_keys_of_its_queries(groups, shape):
  config = dataclasses.replace(WIDE, num_kv_heads=groups)
  found = lowered(mesh_of("tpu", (2, 1, 2)), config)
  calls = [line for line in found.splitlines() if "@tpu_custom_call" in line]
  assert calls
  assert all(f"tensor<{shape}xbf16>" in call for call in calls)


def test_a_data_parallel_group_has_the_kernels_of_its_rows():
  found = lowered(mesh_of("tpu", (2, 1, 2)), WIDE, rows=4, by_rows=True)
  calls = [line for line in found.splitlines() if "@tpu_custom_call" in line]
  assert calls
  assert all("tensor<2x2x512x128xbf16>" in call for call in calls)


def test_devices_that_lack_the_keys_of_their_queries_read_every_slot():
  config = dataclasses.replace(WIDE, num_kv_heads=2)
  assert "@tpu_custom_call" not in lowered(mesh_of("tpu", (1, 1, 4)), config)


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu: pip install -e .[tpu-plan]",
)
@pytest.mark.slow
@pytest.mark.parametrize(
  "topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"]
)
@pytest.mark.parametrize(
  ("rows", "n", "groups", "heads", "size"),
  [(8, 1, 1, 8, 256), (32, 6, 4, 4, 128), (64, 6, 16, 1, 256)],
)
def test_the_compiler_of_a_tpu_takes_the_kernels_and_writes_in_place(
  topology, rows, n, groups, heads, size
):
  device, *_ = chips.tpu_devices(topology)
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=[device])

  def array(*shape, dtype=jnp.bfloat16):
    where = sharding.replicated(mesh)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

  new, slots = (array(rows, groups, x, size) for x in (n, LONG + 8))
  attend = functools.partial(
    fused_attention.attend_to_cache, window=None, cap=None
  )
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    compiled = (
      jax.jit(attend, donate_argnums=3)
      .lower(
        array(rows, n, groups * heads, size),
        new,
        new,
        {"k": slots, "v": slots},
        array(rows, n, dtype=jnp.int32),
      )
      .compile()
    )
  memory = compiled.memory_analysis()
  caches = 2 * slots.size * slots.dtype.itemsize
  assert memory.alias_size_in_bytes == caches
  assert memory.temp_size_in_bytes < caches / 4
