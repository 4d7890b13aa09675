"""Which kernel a long sequence has, and that each is attention."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from skd_jax import models
from skd_jax.models import attention, fused_attention, splash
from skd_jax.parallel import sharding
from tests.toy_models import EVEN_LLAMA, LLAMA, PHI3_SMALL

B, N, R, H = 2, 2, 2, 8


def mesh_of(platform, shape=(1, 1, 1)):
  """A mesh of devices that are not there."""
  return AbstractMesh(
    shape,
    sharding.MESH_AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
    abstract_device=AbstractDevice("", None, platform),
  )


def chosen(platform, **changes):
  usual = {
    "length": 2048,
    "dtype": jnp.bfloat16,
    "head_dim": 64,
    "cap": None,
    "packed": False,
    "block_sparse": False,
  }
  return fused_attention.choose_kernel(platform, **usual | changes)


def test_a_long_sequence_has_the_kernel_of_its_platform():
  assert chosen("tpu") == "splash"
  assert chosen("gpu") == "cudnn"
  assert chosen("cpu") == "scores"


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_a_short_sequence_has_no_kernel(platform):
  shortest = fused_attention.FUSED_FROM[platform]
  assert chosen(platform, length=shortest) != "scores"
  assert chosen(platform, length=shortest - 1) == "scores"


@pytest.mark.parametrize(
  "changes",
  [
    {"cap": 50.0},
    {"dtype": jnp.float32},
    {"head_dim": 256},
    {"head_dim": 60},
    {"packed": True},
  ],
)
def test_what_cudnn_cannot_do_goes_by_chunks_and_on_tpu_by_splash(changes):
  assert chosen("gpu", **changes) == "scores"
  assert chosen("tpu", **changes) == "splash"


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_no_kernel_is_chosen_where_a_query_sees_some_blocks_alone(platform):
  assert chosen(platform, block_sparse=True) == "scores"


def make_inputs(length):
  """Queries, keys and values of two rows; where their sequences begin."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  starts = np.zeros((B, length), np.int32)
  starts[0, 70:], starts[1, 3:] = 70, 3
  starts[1, length - 9 :] = length - 9
  return (
    normal(B, length, N * R, H),
    normal(B, N, length, H),
    normal(B, N, length, H),
    jnp.asarray(starts),
  )


# The last block of 200 is filled up; of 640 the gradients are found apart.
@pytest.mark.slow
@pytest.mark.parametrize("length", [128, 200, 256, 640])
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("packed", [False, True])
def test_splash_and_its_gradient_are_those_of_all_scores(
  length, window, cap, packed
):
  *arrays, starts = make_inputs(length)
  if not packed:
    starts = None

  def values(attend, *arrays):
    mixed = attend(*arrays, starts, window=window, cap=cap)
    mixed = mixed.reshape(B, length, -1)
    return jnp.sum(jnp.sin(mixed)), mixed

  found, expected = (
    jax.jit(
      jax.value_and_grad(
        functools.partial(values, attend), argnums=(0, 1, 2), has_aux=True
      )
    )(*arrays)
    for attend in (
      functools.partial(splash.attend, max_block=128, interpret=True),
      attention.attend_itself,
    )
  )
  for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def lowered(mesh, config, length, *, rows=1, packed=False, cached=False):
  """The text of a forward and backward pass, lowered for a mesh."""
  model = models.create(config, dtype=jnp.bfloat16)
  tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  platform = mesh.abstract_device.platform

  def loss(params, tokens):
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    if cached:
      cache = model.init_cache(rows, length + 8)
      return model.apply(params, tokens, None, cache)[0]
    hidden, _ = model.apply(params, tokens, positions, None, packed=packed)
    return jnp.sum(hidden.astype(jnp.float32))

  function = jax.jit(loss if cached else jax.grad(loss))
  with jax.sharding.use_abstract_mesh(mesh):
    return (
      function.trace(models.param_shapes(config), tokens)
      .lower(lowering_platforms=("cuda" if platform == "gpu" else platform,))
      .as_text()
    )


def num_kernels(*arguments, **options):
  """How many kernels of a TPU a program has; equal layers share theirs."""
  return lowered(*arguments, **options).count("@tpu_custom_call")


def test_a_model_has_the_kernel_for_long_sequences_alone():
  assert num_kernels(mesh_of("tpu"), LLAMA, 2048) == 2
  assert num_kernels(mesh_of("tpu"), LLAMA, 256) == 0
  assert num_kernels(mesh_of("cpu"), LLAMA, 2048) == 0


def test_gradients_of_many_blocks_are_found_apart():
  # Forward, and the gradients of queries and of keys.
  assert num_kernels(mesh_of("tpu"), LLAMA, 2049) == 3


@pytest.mark.parametrize(
  ("length", "found"),
  [(100, (1, 128)), (511, (1, 512)), (513, (2, 384)), (8192, (16, 512))],
)
def test_blocks_of_a_sequence_have_little_to_fill(length, found):
  assert splash.blocks_of(length) == found


def test_packed_sequences_and_long_prompts_have_it_as_well():
  assert num_kernels(mesh_of("tpu"), LLAMA, 2048, packed=True) == 2
  assert num_kernels(mesh_of("tpu"), LLAMA, 2048, cached=True) == 1


def test_of_block_sparse_and_dense_layers_the_dense_ones_have_it():
  sparse = dataclasses.replace(PHI3_SMALL, dense_attention_layers=())
  assert num_kernels(mesh_of("tpu"), PHI3_SMALL, 2048) == 2
  assert num_kernels(mesh_of("tpu"), sparse, 2048) == 0
  assert num_kernels(mesh_of("tpu"), sparse, 2048, cached=True) == 0


def test_each_device_runs_the_kernel_on_its_rows_and_heads():
  found = lowered(mesh_of("tpu", (2, 1, 2)), EVEN_LLAMA, 2048, rows=2)
  # Half of 2 rows and of 8 heads of size 8.
  assert "tensor<1x4x2048x8xbf16>" in found


@pytest.mark.parametrize("groups", [1, 4])
def test_devices_that_share_keys_have_their_own_queries(groups):
  config = dataclasses.replace(EVEN_LLAMA, num_kv_heads=groups)
  found = lowered(mesh_of("tpu", (1, 1, 8)), config, 2048, rows=3)
  calls = [line for line in found.splitlines() if "@tpu_custom_call" in line]
  shapes = re.findall(r"tensor<(\w+)x2048x8xbf16>", "".join(calls))
  # All rows, one of 8 heads with its keys; a gradient of each block of keys.
  assert set(shapes) == {"3x1", "3x4x1"}


@pytest.mark.parametrize(
  ("rows", "of_each"),
  [(4, 1), pytest.param(6, 3, id="6 rows stay whole over tensor")],
)
def test_where_heads_do_not_divide_each_device_has_its_part_of_the_rows(
  rows, of_each
):
  config = dataclasses.replace(EVEN_LLAMA, num_heads=3, num_kv_heads=1)
  mesh = mesh_of("tpu", (2, 1, 2))
  found = lowered(mesh, config, 2048, rows=rows)
  assert f"tensor<{of_each}x3x2048x8xbf16>" in found
  # Without a kernel, what is projected says where the rows are.
  spread = '{"data", "fsdp", "tensor"}'
  assert (spread in lowered(mesh, config, 128, rows=rows)) == (rows == 4)


def test_heads_that_divide_are_not_exchanged_for_rows():
  mesh = mesh_of("tpu", (2, 1, 2))
  assert '"fsdp", "tensor"}' not in lowered(mesh, EVEN_LLAMA, 128, rows=4)


def test_a_data_parallel_group_reads_its_prompts_with_the_kernel():
  model = models.create(EVEN_LLAMA, dtype=jnp.bfloat16)

  def prefill(params, tokens):
    cache = model.init_cache(tokens.shape[0], 2056)
    return model.apply(params, tokens, None, cache)[0]

  with jax.sharding.use_abstract_mesh(mesh_of("tpu", (2, 1, 2))):
    found = (
      jax.jit(sharding.by_rows(prefill))
      .trace(
        models.param_shapes(EVEN_LLAMA),
        jax.ShapeDtypeStruct((4, 2048), jnp.int32),
      )
      .lower(lowering_platforms=("tpu",))
      .as_text()
    )
  # Half of 4 rows, and of 8 heads of size 8.
  assert found.count("@tpu_custom_call") == 1
  assert "tensor<2x4x2048x8xbf16>" in found


def test_cudnn_is_called_on_gpu_with_the_windows_of_the_layers(monkeypatch):
  # What it asks of a GPU that is not there.
  cudnn = "jax._src.cudnn.fused_attention_stablehlo."
  for name, answer in (
    ("check_cudnn_version", 91000),
    ("check_compute_capability", True),
    ("is_cuda_compute_capability_equal", False),
  ):
    monkeypatch.setattr(cudnn + name, lambda *_, answer=answer: answer)
  config = dataclasses.replace(EVEN_LLAMA, layer_windows=(512, None))
  found = lowered(mesh_of("gpu"), config, 2048)
  names = set(re.findall(r"__cudnn\$\w+", found))
  assert names == {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
  lengths = re.findall(r"sliding_window_length\\22: (\d+)", found)
  assert set(lengths) == {"512", "0"}


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize(
  ("groups", "queries", "size", "window"),
  [(8, 4, 64, None), (8, 1, 128, None), (4, 2, 128, 512)],
)
def test_cudnn_is_attention_in_value_and_gradient(
  groups, queries, size, window
):
  length = 2048
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = (
    (2, length, groups * queries, size),
    (2, groups, length, size),
    (2, groups, length, size),
    (2, length, groups * queries * size),
  )
  query, key, value, weights = (
    jax.random.normal(k, shape).astype(jnp.bfloat16)
    for k, shape in zip(keys, shapes, strict=True)
  )
  slots = jnp.broadcast_to(jnp.arange(length), (2, length))

  def weighted(attend, query, key, value):
    mixed = attend(query * size**-0.5, key, value)
    return jnp.sum((mixed * weights).astype(jnp.float32)), mixed

  def by_scores(query, key, value):
    return attention.attend(query, key, value, slots, window=window, cap=None)

  def by_cudnn(query, key, value):
    return fused_attention.attend_fused(
      "cudnn", query, key, value, None, window=window, cap=None
    )

  expected, found = (
    jax.jit(
      jax.value_and_grad(
        functools.partial(weighted, attend), argnums=(0, 1, 2), has_aux=True
      )
    )(query, key, value)
    for attend in (by_scores, by_cudnn)
  )
  for x, y in zip(
    jax.tree.leaves((expected[0][1], expected[1])),
    jax.tree.leaves((found[0][1], found[1])),
    strict=True,
  ):
    x, y = (np.asarray(array, np.float32) for array in (x, y))
    assert np.linalg.norm(x - y) <= 0.01 * np.linalg.norm(x)
