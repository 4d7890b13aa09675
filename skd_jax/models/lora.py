"""Low-rank adapters, LoRA (arXiv 2106.09685): small weights beside frozen ones.

  x @ kernel [in, out]   becomes
  x @ kernel + scale * (x @ a [in, R]) @ b [R, out]

In the tree of the weights an `Adapted` takes the place of each kernel that has
an adapter. The code that runs the model does not know of it.

  add_adapters(params)            a drawn, b zero: the model computes the same
  split(params)                   -> what is trained, what is frozen
  attach(trained, frozen)         -> the weights again; nothing is copied
  merge(weight)                   -> the one kernel that computes the same
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax import structs
from skd_jax.models import hf_names, quantization
from skd_jax.models.config import ModelConfig

# What may be adapted, by the names of Hugging Face and PEFT.
_OF_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
TARGETS = (*_OF_ATTENTION, "gate_proj", "up_proj", "down_proj")
# Those that have other names.
OTHER_TARGETS = (
  "dense",  # Phi-3-small
  *("out_proj", "fc1", "fc2"),  # M2M100
  *("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"),  # T5
)


@struct.dataclass
class Adapted:
  """A frozen kernel and its adapter."""

  kernel: jax.Array  # [in, out]
  a: Any  # float32 [in, R]; None where it is split off
  b: Any  # float32 [R, out]; likewise
  scale: float = struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the kernel."""
    return self.kernel.shape


def is_adapted(weight: Any) -> bool:
  """Whether a weight has an adapter; `is_leaf` for jax.tree."""
  return isinstance(weight, Adapted)


def multiply(
  x: jax.Array, kernel: jax.Array | quantization.Quantized | Adapted
) -> jax.Array:
  """Multiplies [..., in] by a kernel in the dtype of `x`; nothing is merged."""
  if not isinstance(kernel, Adapted):
    return quantization.multiply(x, kernel)
  small = x @ kernel.a.astype(x.dtype) * kernel.scale
  return x @ kernel.kernel.astype(x.dtype) + small @ kernel.b.astype(x.dtype)


def merge(weight: jax.Array | Adapted) -> jax.Array:
  """Returns a weight as it is, or the float32 sum of kernel and adapter."""
  return _merged(weight) if isinstance(weight, Adapted) else weight


@jax.jit
def _merged(weight: Adapted) -> jax.Array:
  product = jnp.matmul(weight.a, weight.b, precision="highest")
  return weight.kernel.astype(jnp.float32) + weight.scale * product


def check_targets(
  config: ModelConfig, shapes: structs.Params, targets: Sequence[str]
) -> None:
  """Checks that a model has kernels that can be adapted.

  Those of an MLP cannot where any layer has experts: the dense layers alone
  would have adapters.

  Args:
    config: of the model.
    shapes: its weights, or a tree like them.
    targets: of TARGETS or OTHER_TARGETS.

  Raises:
    ValueError: the model has no such projection.
  """
  leaves, _ = hf_names.named_leaves(config, shapes)
  known = {leaf.projection for leaf in leaves} - {""}
  if config.num_experts:
    known &= set(_OF_ATTENTION)
  for target in targets:
    if target not in known:
      raise ValueError(
        f"targets has {target!r}: must be of "
        f"{', '.join(sorted(known)) or 'another model'}"
      )


def add_adapters(
  config: ModelConfig,
  params: structs.Params,
  *,
  rank: int,
  alpha: float,
  targets: Sequence[str],
  seed: int,
) -> structs.Params:
  """Gives the target kernels of every layer an adapter.

  `a` is normal with deviation 1 / sqrt(in) and `b` is zero, so that the model
  computes what it did.

  Args:
    config: of the model.
    params: its weights, which are not copied.
    rank: R.
    alpha: the scale is alpha / R.
    targets: of TARGETS.
    seed: of `a`.

  Returns:
    The weights. An adapter is sharded as its kernel, and whole along R.

  Raises:
    ValueError: the model has no such projection, or is quantized.
  """
  quantization.check_whole(params)
  shapes = adapted_shapes(
    config, params, rank=rank, alpha=alpha, targets=targets
  )
  leaves, treedef = jax.tree.flatten(shapes, is_leaf=is_adapted)
  chosen = {i: x for i, x in enumerate(leaves) if is_adapted(x)}

  def draw(key):
    drawn = {}
    for i, weight in chosen.items():
      a = jax.random.normal(jax.random.fold_in(key, i), weight.a.shape)
      a /= weight.shape[0] ** 0.5
      drawn[i] = {"a": a, "b": jnp.zeros(weight.b.shape)}
    return drawn

  shardings = {
    i: {"a": weight.a.sharding, "b": weight.b.sharding}
    for i, weight in chosen.items()
  }
  drawn = jax.jit(draw, out_shardings=shardings)(jax.random.key(seed))
  return treedef.unflatten(
    dataclasses.replace(x, **drawn[i]) if i in drawn else x
    for i, x in enumerate(leaves)
  )


def adapted_shapes(
  config: ModelConfig,
  params: structs.Params,
  *,
  rank: int,
  alpha: float,
  targets: Sequence[str],
) -> structs.Params:
  """Returns the weights with the shapes of adapters; draws nothing.

  Args:
    config: see add_adapters; so are the others.
    params: arrays or jax.ShapeDtypeStruct.
    rank: R.
    alpha: the scale is alpha / R.
    targets: of TARGETS.

  Returns:
    `a` and `b` are jax.ShapeDtypeStruct with the shardings of add_adapters.

  Raises:
    ValueError: the model has no such projection.
  """
  check_targets(config, params, targets)
  leaves, treedef = hf_names.named_leaves(config, params)
  names = [leaf.projection for leaf in leaves]

  def of(name, weight):
    if name not in targets:
      return weight
    rows, columns = weight.shape
    parts = {
      part: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
      for part, shape, sharding in zip(
        ("a", "b"),
        ((rows, rank), (rank, columns)),
        _shardings(weight.sharding),
        strict=True,
      )
    }
    return Adapted(weight, **parts, scale=alpha / rank)

  return treedef.unflatten(map(of, names, treedef.flatten_up_to(params)))


def _shardings(of_kernel: Any) -> tuple[Any, Any]:
  """Where `a` and `b` are placed, from where their kernel is."""
  if not isinstance(of_kernel, jax.sharding.NamedSharding):
    return of_kernel, of_kernel
  rows, columns = (*of_kernel.spec, None, None)[:2]
  place = functools.partial(jax.sharding.NamedSharding, of_kernel.mesh)
  spec = jax.sharding.PartitionSpec
  return place(spec(rows, None)), place(spec(None, columns))


def split(params: structs.Params) -> tuple[structs.Params, structs.Params]:
  """Separates what is trained from what is frozen.

  Args:
    params: weights, or a tree like them, such as of their shardings.

  Returns:
    (trained, frozen). With adapters, {"a", "b"} of each, in a tree of dicts
    with the keys of the weights, and the weights without them. Without
    adapters, the weights and None.
  """
  adapters, frozen = _split(params)
  return (adapters, frozen) if adapters else (params, None)


def _split(tree: Any) -> tuple[dict[str, Any], Any]:
  if isinstance(tree, Adapted):
    without = dataclasses.replace(tree, a=None, b=None)
    return {"a": tree.a, "b": tree.b}, without
  if not isinstance(tree, dict):
    return {}, tree
  parts = {name: _split(inner) for name, inner in tree.items()}
  adapters = {name: inner for name, (inner, _) in parts.items() if inner}
  return adapters, {name: inner for name, (_, inner) in parts.items()}


def attach(trained: structs.Params, frozen: structs.Params) -> structs.Params:
  """Joins what `split` has separated; differentiable in `trained`."""
  if frozen is None:
    return trained
  if isinstance(frozen, Adapted):
    return dataclasses.replace(frozen, **trained)
  return {
    name: attach(trained[name], inner) if name in trained else inner
    for name, inner in frozen.items()
  }
