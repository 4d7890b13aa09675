"""Weight-only quantization: the matrices of a frozen model in 8 or 4 bits.

  kernel [in, out]   int8: values int8 [in, out], scale [1, out]
                     int4: values int4 [in, out], scale [in / 32, out]
  table [V, D]       values int8 [V, D], scale [V, 1]

In the tree of the weights a `Quantized` takes the place of each such matrix: it
is values * scale, rounded to the nearest. The tables, embedding and head, have
8 bits in both formats, as an error there is one of every logit. Norms and
biases stay.

  shapes(params, "int8")     what a model has then; allocates nothing
  quantize(params, "int8")   a model that is in memory

The products read the small values. They are cast on the way into the matrix
units and scaled as soon as they come out, so that no copy of a weight in the
dtype of the activations is held.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from skd_jax import structs

FORMATS = ("int8", "int4")

# Rows of an int4 kernel that share a scale, as in the formats of llama.cpp. It
# divides the widths of published models, as 128 does not divide 576; a scale of
# a whole column costs much more (docs/many_chips.md).
_GROUP = 32
_DTYPES = {"int8": jnp.int8, "int4": jnp.int4}
_HIGHEST = {jnp.dtype(jnp.int8): 127, jnp.dtype(jnp.int4): 7}
_TABLES = ("embedding", "lm_head")


@struct.dataclass
class Quantized:
  """A matrix as small whole numbers, and a scale for each block of them."""

  values: Any  # int8 or int4 [rows, columns]
  scale: Any  # float32 [rows / n, columns / m], of blocks of n x m

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the matrix."""
    return self.values.shape


def is_quantized(weight: Any) -> bool:
  """Whether a weight is quantized; `is_leaf` for jax.tree."""
  return isinstance(weight, Quantized)


def check_whole(params: structs.Params) -> None:
  """Refuses weights that are quantized.

  Raises:
    ValueError: one is.
  """
  if any(map(is_quantized, jax.tree.leaves(params, is_leaf=is_quantized))):
    raise ValueError(
      "params has quantized weights: must be those that were quantized"
    )


def multiply(x: jax.Array, kernel: jax.Array | Quantized) -> jax.Array:
  """Multiplies [..., in] by a kernel [in, out], in the dtype of `x`."""
  if not isinstance(kernel, Quantized):
    return x @ kernel.astype(x.dtype)
  if kernel.scale.shape[0] > 1:
    # Rows of one sum have different scales.
    return x @ dequantize(kernel).astype(x.dtype)
  y = x @ kernel.values.astype(x.dtype)
  return (y * kernel.scale[0]).astype(x.dtype)


def multiply_rows(table: jax.Array | Quantized, x: jax.Array) -> jax.Array:
  """Multiplies the rows of a table [V, D] by [M, D]: float32 [V, M].

  Both products of the gradient have the dtype of `x`, as this one has, and are
  accumulated in float32.
  """
  if isinstance(table, Quantized):
    return _product(table.values.astype(x.dtype), x, (1, 1)) * table.scale
  return _multiply_rows(table, x)


@jax.custom_vjp
def _multiply_rows(table, x):
  return _product(table.astype(x.dtype), x, (1, 1))


def _multiply_rows_forward(table, x):
  """The arguments are `jax.custom_derivatives.CustomVJPPrimal`."""
  is_trained = table.perturbed
  table, x = table.value, x.value
  # The structure of what is saved is known when the backward pass is traced.
  return _multiply_rows(table, x), (table, x, () if is_trained else None)


def _multiply_rows_backward(saved, gradient):
  table, x, is_trained = saved
  # Float32 by float32 is half as fast on a GPU.
  gradient = gradient.astype(x.dtype)
  of_x = _product(gradient, table.astype(x.dtype), (0, 0)).astype(x.dtype)
  if is_trained is None:
    return None, of_x
  return _product(gradient, x, (1, 0)).astype(table.dtype), of_x


_multiply_rows.defvjp(
  _multiply_rows_forward, _multiply_rows_backward, symbolic_zeros=True
)


def _product(x, y, axes):
  """Returns the float32 product of two matrices over an axis of each."""
  first, second = axes
  return jax.lax.dot_general(
    x,
    y,
    (((first,), (second,)), ((), ())),
    preferred_element_type=jnp.float32,
  )


def lookup(table: jax.Array | Quantized, rows: jax.Array) -> jax.Array:
  """Returns some rows of a table [V, D]: int32 [...] -> [..., D]."""
  if not isinstance(table, Quantized):
    return table[rows]
  return table.values[rows] * table.scale[rows]


def dequantize(weight: jax.Array | Quantized) -> jax.Array:
  """Returns a weight as it is, or the float32 matrix that it stands for."""
  if not isinstance(weight, Quantized):
    return weight
  (rows, columns), (n, m) = weight.scale.shape, _block(weight)
  blocks = weight.values.astype(jnp.float32).reshape(rows, n, columns, m)
  return (blocks * weight.scale[:, None, :, None]).reshape(weight.shape)


def _block(weight: Quantized) -> tuple[int, ...]:
  pairs = zip(weight.shape, weight.scale.shape, strict=True)
  return tuple(size // number for size, number in pairs)


def shapes(params: structs.Params, name: str) -> structs.Params:
  """Returns what the weights of a model are once they are quantized.

  Args:
    params: arrays or jax.ShapeDtypeStruct; not quantized.
    name: of FORMATS; "" changes nothing.

  Returns:
    The tree with a `Quantized` of jax.ShapeDtypeStruct for each matrix. Where a
    matrix has a jax.sharding.NamedSharding, so have its parts: the scale is
    sharded as the matrix is, and whole along an axis that does not divide.

  Raises:
    ValueError: unknown format, a model with experts, or an encoder-decoder.
  """
  if name and name not in FORMATS:
    raise ValueError(f"quantization = {name!r}: must be one of {FORMATS} or ''")
  if name and "encoder" in params:
    raise ValueError(
      f"quantization = {name!r}: must be '' for an encoder-decoder"
    )

  def of(path, x):
    keys = [entry.key for entry in path]
    is_table = keys[-1] in _TABLES
    if not name or not (is_table or keys[-1] == "kernel"):
      return x
    if len(x.shape) > 2:
      raise ValueError(
        f"quantization = {name!r}: must be '' for a model with experts"
      )
    rows, columns = x.shape
    groups = rows // _GROUP if name == "int4" and rows % _GROUP == 0 else 1
    scale = (rows, 1) if is_table else (groups, columns)
    dtype = jnp.int8 if is_table else _DTYPES[name]
    where = getattr(x, "sharding", None)  # Arrays of numpy have none.
    return Quantized(
      jax.ShapeDtypeStruct(x.shape, dtype, sharding=where),
      jax.ShapeDtypeStruct(
        scale, jnp.float32, sharding=_of_scale(scale, where)
      ),
    )

  return jax.tree.map_with_path(of, params)


def _of_scale(
  shape: Sequence[int], of_values: jax.sharding.Sharding | None
) -> jax.sharding.Sharding | None:
  """Where a scale is placed, from where its values are."""
  if not isinstance(of_values, jax.sharding.NamedSharding):
    return of_values
  mesh, spec = of_values.mesh, (*of_values.spec, None, None)[:2]

  def divides(size, axes):
    kept = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axes))
    try:
      kept.shard_shape((size,))
    except ValueError:
      return False
    return True

  return jax.sharding.NamedSharding(
    mesh,
    jax.sharding.PartitionSpec(
      *(
        axes if divides(size, axes) else None
        for size, axes in zip(shape, spec, strict=True)
      )
    ),
  )


def quantize(params: structs.Params, name: str) -> structs.Params:
  """Quantizes the weights of a model, matrix by matrix.

  Args:
    params: arrays, of any float dtype; not quantized.
    name: of FORMATS; "" changes nothing.

  Returns:
    The weights, with their matrices as of `shapes`.

  Raises:
    ValueError: as of `shapes`, or a weight is not finite.
  """
  wanted = shapes(params, name)

  def of(like, x):
    return make(np.asarray(x), like) if is_quantized(like) else x

  return jax.tree.map(of, wanted, params, is_leaf=is_quantized)


def make(matrix: np.ndarray, like: Quantized) -> Quantized:
  """Quantizes a matrix on the host, and places it.

  Args:
    matrix: of any float dtype.
    like: its format, as of `shapes`.

  Returns:
    The nearest values for scales of which the largest value in magnitude of a
    block takes the whole range. Each device is given its slice only.

  Raises:
    ValueError: a weight is not finite.
  """
  (rows, columns), (n, m) = like.scale.shape, _block(like)
  blocks = np.asarray(matrix, np.float32).reshape(rows, n, columns, m)
  largest = np.maximum(blocks.max((1, 3)), -blocks.min((1, 3)))
  if not np.isfinite(largest).all():
    raise ValueError(
      f"a matrix {list(like.shape)} has weights that are not finite: must be "
      "numbers to be quantized"
    )
  # A block of zeros has any scale.
  scale = np.where(largest > 0, largest, 1) / _HIGHEST[like.values.dtype]
  scale = scale.astype(np.float32)
  values = np.rint(blocks / scale[:, None, :, None]).reshape(like.shape)
  return Quantized(
    _place(values.astype(like.values.dtype), like.values.sharding),
    _place(scale, like.scale.sharding),
  )


def _place(
  value: np.ndarray, sharding: jax.sharding.Sharding | None
) -> jax.Array:
  if sharding is None:
    return jnp.asarray(value)
  return jax.make_array_from_callback(
    value.shape, sharding, lambda index: value[index]
  )
