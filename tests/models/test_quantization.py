"""A model of small whole numbers computes what the numbers stand for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from skd_jax.models import loading, quantization
from skd_jax.parallel import sharding
from tests.toy_models import GEMMA, LLAMA, M2M100, noisy_params

TOKENS = jnp.asarray([[3, 1, 4, 1], [5, 9, 2, 6]])
POSITIONS = jnp.broadcast_to(jnp.arange(4), TOKENS.shape)
# Its kernels have 4, 8 and 11 groups of rows.
WIDE = dataclasses.replace(
  LLAMA, hidden_size=128, intermediate_size=352, num_heads=4, head_dim=64
)


def reference(matrix, name):
  """The matrix that the quantized one stands for, number by number."""
  highest = {"int8": 127, "int4": 7}[name]
  size = 32 if name == "int4" and len(matrix) % 32 == 0 else len(matrix)
  result = np.zeros_like(matrix)
  for column in range(matrix.shape[1]):
    for start in range(0, len(matrix), size):
      block = matrix[start : start + size, column]
      scale = max(abs(float(x)) for x in block) / highest
      for i, x in enumerate(block):
        whole = round(float(x) / scale) if scale else 0
        result[start + i, column] = whole * scale
  return result


def random_kernel(rows, columns=5):
  rng = np.random.default_rng(0)
  matrix = rng.normal(size=(rows, columns)).astype(np.float32)
  matrix[:, 1] *= 100  # Columns do not share their scales.
  matrix[:, 2] = 0
  return matrix


def quantize_kernel(matrix, name):
  return quantization.quantize({"kernel": jnp.asarray(matrix)}, name)["kernel"]


@pytest.mark.parametrize("rows", [40, 256])
@pytest.mark.parametrize("name", quantization.FORMATS)
def test_product_is_that_of_the_reference(name, rows):
  matrix = random_kernel(rows)
  wanted = reference(matrix, name)
  x = np.random.default_rng(1).normal(size=(3, rows)).astype(np.float32)
  kernel = quantize_kernel(matrix, name)
  np.testing.assert_allclose(
    quantization.dequantize(kernel), wanted, rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    quantization.multiply(jnp.asarray(x), kernel),
    x @ wanted,
    rtol=1e-4,
    atol=1e-3,
  )
  half = quantization.multiply(jnp.asarray(x, jnp.bfloat16), kernel)
  assert half.dtype == jnp.bfloat16


def test_rows_of_a_table_have_scales_of_their_own():
  matrix = random_kernel(40, 7).T
  table = quantization.quantize({"lm_head": jnp.asarray(matrix)}, "int4")
  table = table["lm_head"]
  assert table.values.dtype == jnp.int8
  wanted = reference(matrix.T, "int8").T
  x = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
  np.testing.assert_allclose(
    quantization.multiply_rows(table, jnp.asarray(x)),
    wanted @ x.T,
    rtol=1e-4,
    atol=1e-3,
  )
  rows = jnp.asarray([[1, 0], [4, 1]])
  np.testing.assert_allclose(
    quantization.lookup(table, rows), wanted[rows], rtol=1e-5
  )


@pytest.mark.parametrize(
  ("name", "config"),
  [("int8", GEMMA), pytest.param("int4", WIDE, marks=pytest.mark.slow)],
)
def test_model_computes_what_its_dequantized_weights_do(name, config):
  small = quantization.quantize(noisy_params(config, scale=0.05), name)
  whole = jax.tree.map(
    quantization.dequantize, small, is_leaf=quantization.is_quantized
  )
  model = models.create(config)

  @jax.jit
  def run(params):
    cache = model.init_cache(2, 4)
    hidden, _ = model.apply(params, TOKENS, POSITIONS, None)
    _, cache = model.apply(params, TOKENS[:, :3], POSITIONS[:, :3], cache)
    last, _ = model.apply(params, TOKENS[:, 3:], POSITIONS[:, 3:], cache)
    head = model.head_params(params)
    return model.head(head, hidden), model.head(head, last)

  for ours, theirs in zip(run(small), run(whole), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int4", 4)])
def test_matrices_take_what_is_promised(name, bits):
  whole = models.param_shapes(WIDE, param_dtype=jnp.bfloat16)
  params = quantization.shapes(whole, name)
  kernel = params["layers"]["0"]["mlp"]["down"]["kernel"]
  assert jnp.iinfo(kernel.values.dtype).bits == bits
  groups = 11 if name == "int4" else 1
  assert kernel.scale.shape == (groups, WIDE.hidden_size)
  for table in ("embedding", "lm_head"):
    assert params[table].values.dtype == jnp.int8
    assert params[table].scale.shape == (WIDE.vocab_size, 1)
  # Everything else stays as it was.
  kept = [
    x
    for x in jax.tree.leaves(params, is_leaf=quantization.is_quantized)
    if not quantization.is_quantized(x)
  ]
  assert {x.ndim for x in kept} == {1}
  assert {x.dtype for x in kept} == {jnp.dtype("bfloat16")}


def test_loaded_weights_are_those_quantized_in_memory(tmp_path):
  params = noisy_params(WIDE)
  whole = models.LoadedModel(WIDE, models.create(WIDE), params)
  models.save_model(tmp_path / "m", whole)
  for name in quantization.FORMATS:
    loaded = models.load_model(
      tmp_path / "m", vocab_size=50, dtype="float32", quantization=name
    )
    cut = params | {
      table: params[table][:50] for table in ("embedding", "lm_head")
    }
    jax.tree.map(
      np.testing.assert_array_equal,
      loaded.params,
      quantization.quantize(cut, name),
    )


def test_unknown_format_is_refused():
  with pytest.raises(
    ValueError, match=r"^quantization = 'int3': must be one of"
  ):
    quantization.quantize(noisy_params(LLAMA), "int3")


def test_quantized_weights_are_neither_adapted_nor_saved(tmp_path):
  params = quantization.quantize(noisy_params(LLAMA), "int8")
  with pytest.raises(ValueError, match="quantized weights"):
    models.add_adapters(
      LLAMA, params, rank=2, alpha=1.0, targets=("q_proj",), seed=0
    )
  loaded = models.LoadedModel(LLAMA, models.create(LLAMA), params)
  with pytest.raises(ValueError, match="quantized weights"):
    models.save_model(tmp_path / "m", loaded)


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
@pytest.mark.parametrize(
  ("rows", "of_scale"), [(1024, ("tensor", None)), (128, (None, None))]
)
def test_groups_of_rows_are_sharded_where_they_divide(rows, of_scale):
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=8)
  spec = jax.sharding.PartitionSpec("tensor", None)
  matrix = random_kernel(rows)
  placed = jax.device_put(matrix, jax.sharding.NamedSharding(mesh, spec))
  kernel = quantization.quantize({"kernel": placed}, "int4")["kernel"]
  assert kernel.values.sharding.shard_shape(kernel.shape) == (rows // 8, 5)
  assert kernel.scale.sharding.spec == jax.sharding.PartitionSpec(*of_scale)
  x = np.random.default_rng(1).normal(size=(3, rows)).astype(np.float32)
  np.testing.assert_allclose(
    jax.jit(quantization.multiply)(x, kernel),
    quantization.multiply(jnp.asarray(x), quantize_kernel(matrix, "int4")),
    rtol=1e-4,
    atol=1e-3,
  )


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
def test_weights_are_read_where_they_are_placed(tmp_path):
  whole = models.LoadedModel(
    WIDE, models.create(WIDE), noisy_params(WIDE, scale=0.05)
  )
  models.save_model(tmp_path / "m", whole)
  mesh = sharding.make_mesh(data=4, fsdp=1, tensor=2)
  loaded = models.load_model(
    tmp_path / "m",
    dtype="float32",
    quantization="int4",
    placement=loading.Placement(mesh, sharding.FROZEN),
  )
  alone = quantization.quantize(whole.params, "int4")
  jax.tree.map(np.testing.assert_array_equal, loaded.params, alone)
  mlp = loaded.params["layers"]["0"]["mlp"]
  for name, shape in (("up", (4, 176)), ("down", (11, 128))):
    scale = mlp[name]["kernel"].scale
    # Eleven groups of rows do not divide by two.
    assert scale.sharding.shard_shape(scale.shape) == shape


def test_gradient_of_a_head_is_of_products_in_the_dtype_of_its_input():
  keys = jax.random.split(jax.random.key(0), 3)
  table = jax.random.normal(keys[0], (40, 24))
  x = jax.random.normal(keys[1], (7, 24)).astype(jnp.bfloat16)
  weights = jax.random.normal(keys[2], (40, 7))

  def loss(table, x):
    return jnp.sum(weights * quantization.multiply_rows(table, x))

  program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(table, x))
  assert program.count("dot_general") == 3
  assert program.count("preferred_element_type=float32") == 3
  of_table, of_x = jax.grad(loss, (0, 1))(table, x)
  short = np.asarray(weights.astype(jnp.bfloat16), np.float32)
  # The sums are not rounded: a table of float32 has their gradient.
  np.testing.assert_allclose(of_table, short @ np.asarray(x, np.float32), 1e-5)
  rounded = np.asarray(table.astype(jnp.bfloat16), np.float32)
  expected = jnp.asarray(short.T @ rounded).astype(jnp.bfloat16)
  np.testing.assert_allclose(
    np.asarray(of_x, np.float32), np.asarray(expected, np.float32), 1e-2
  )


def test_head_that_the_loss_does_not_look_at_has_no_gradient():
  table, x = jnp.ones((4, 3)), jnp.ones((2, 3))

  def loss(table, x):
    unused = quantization.multiply_rows(table, x)
    return jnp.sum(x) + jnp.sum(jax.lax.stop_gradient(unused))

  of_table, of_x = jax.grad(loss, (0, 1))(table, x)
  np.testing.assert_array_equal(of_table, 0)
  np.testing.assert_array_equal(of_x, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(bad):
  matrix = np.full((4, 3), 0.02, np.float32)
  matrix[1, 2] = bad
  with pytest.raises(
    ValueError, match=r"\[4, 3\] has weights that are not fin"
  ):
    quantize_kernel(matrix, "int8")


def test_weights_of_numpy_are_quantized():
  matrix = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  tree = {"kernel": matrix}
  found = quantization.quantize(tree, "int8")["kernel"]
  wanted = quantization.quantize(jax.tree.map(jnp.asarray, tree), "int8")
  jax.tree.map(np.testing.assert_array_equal, found, wanted["kernel"])


def test_an_encoder_decoder_is_not_loaded_quantized(tmp_path):
  models.save(tmp_path / "m", M2M100, noisy_params(M2M100))
  with pytest.raises(ValueError, match="must be '' for an encoder-decoder"):
    models.load_model(tmp_path / "m", quantization="int8")
