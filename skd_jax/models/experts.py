"""The sparse MLP: each token goes through k of E experts.

A router gives every token a distribution over the experts (arXiv 1701.06538).
The k most probable compute it, and their results are added by that weight:

  tokens               0      1      2              k = 2
  their experts        a, c   c, b   a, c
  sorted by expert     0 2 | 1 | 0 1 2              M k = 6 rows
                       a     b   c

No expert has a capacity, so no token is dropped, and what becomes of a token
does not depend on the others. Letters beyond those of layers.py: M tokens.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from skd_jax.models.config import ModelConfig
from skd_jax.parallel import sharding

Activation = Callable[[jax.Array], jax.Array]
Kernels = tuple[jax.Array, jax.Array, jax.Array]


def route(
  logits: jax.Array, num_chosen: int, *, normalize: bool
) -> tuple[jax.Array, jax.Array]:
  """Chooses the experts of each token.

  Args:
    logits: float32 [..., E], of the router.
    num_chosen: k.
    normalize: whether the weights of the chosen add up to 1; else they are the
      probabilities among all E.

  Returns:
    (weights float32 [..., k], experts int32 [..., k]), the largest first.
  """
  weights, experts = jax.lax.top_k(jax.nn.softmax(logits), num_chosen)
  if normalize:
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
  return weights, experts


def mix_experts(
  kernels: Kernels,
  tokens: tuple[jax.Array, jax.Array, jax.Array],
  *,
  activation: Activation,
) -> jax.Array:
  """Adds up what the chosen experts make of each token.

  Args:
    kernels: gate [E, D, F], up [E, D, F] and down [E, F, D], or equal parts of
      all of them along F.
    tokens: x [B, n, D], weights float32 [B, n, k], experts int32 [B, n, k].
    activation: of the gate.

  Returns:
    float32 [B, n, D], the sum over F as far as it is in the kernels.
  """
  x, weights, experts = tokens
  gate, up, down = (kernel.astype(x.dtype) for kernel in kernels)
  width, num_chosen = x.shape[-1], experts.shape[-1]
  order = jnp.argsort(experts.reshape(-1))
  sizes = jnp.bincount(experts.reshape(-1), length=gate.shape[0])
  rows = x.reshape(-1, width)[order // num_chosen]
  multiply = functools.partial(jax.lax.ragged_dot, group_sizes=sizes)
  hidden = activation(multiply(rows, gate)) * multiply(rows, up)
  results = multiply(hidden, down)[jnp.argsort(order)]
  results = results.reshape(*experts.shape, width).astype(jnp.float32)
  return jnp.sum(results * weights[..., None], axis=-2)


def _on_mesh(
  kernels: Kernels, tokens: Any, activation: Activation
) -> jax.Array:
  """Returns what mix_experts does, over the devices of the context.

  Each data-parallel group sorts its own tokens, and each device of a group has
  its part of F of every expert: whatever the router does, all have equal work.
  With whole experts on a device, all would wait for the busiest, and each would
  need room for all M k rows as wide as F.
  """
  mix = functools.partial(mix_experts, activation=activation)
  mesh = jax.sharding.get_abstract_mesh()
  # Inside `by_rows` the rows are sharded already.
  axes = {axis for axis in mesh.auto_axes if mesh.shape[axis] > 1}
  if not axes:
    return mix(kernels, tokens)
  spec = jax.sharding.PartitionSpec
  size, num_rows = kernels[2].shape[1], tokens[0].shape[0]
  is_cut = "tensor" in axes and size % mesh.shape["tensor"] == 0
  part = "tensor" if is_cut else None
  groups = tuple(axis for axis in sharding.ROW_AXES if axis in axes)
  divides = num_rows % math.prod(mesh.shape[axis] for axis in groups) == 0
  of_rows = spec(groups) if divides else spec()

  def on_device(kernels, tokens):
    mixed = mix(kernels, tokens)
    return jax.lax.psum(mixed, "tensor") if is_cut else mixed

  return jax.shard_map(
    on_device,
    in_specs=((spec(None, None, part),) * 2 + (spec(None, part),), of_rows),
    out_specs=of_rows,
    axis_names=axes,
    check_vma=False,
  )(kernels, tokens)


class Kernel(nnx.Module):
  """A matrix, or a matrix for each expert."""

  def __init__(
    self,
    shape: tuple[int, ...],
    stddev: float,
    param_dtype: Any,
    rngs: nnx.Rngs,
  ) -> None:
    init = nnx.initializers.normal(stddev)
    self.kernel = nnx.Param(init(rngs.params(), shape, param_dtype))


class ExpertMLP(nnx.Module):
  """The gated MLP of each expert, and the router; see the module."""

  def __init__(
    self,
    config: ModelConfig,
    activation: Activation,
    stddevs: tuple[float, float],
    param_dtype: Any,
    rngs: nnx.Rngs,
  ) -> None:
    self.config = config
    self.activation = activation
    inner, outer = stddevs
    count, narrow = config.num_experts, config.hidden_size
    wide = config.expert_size
    self.router = Kernel((narrow, count), inner, param_dtype, rngs)
    into = (count, narrow, wide)
    self.expert_gate = Kernel(into, inner, param_dtype, rngs)
    self.expert_up = Kernel(into, inner, param_dtype, rngs)
    self.expert_down = Kernel((count, wide, narrow), outer, param_dtype, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, n, D] -> [B, n, D], in the dtype of `x`."""
    # One rounding more or less may send a token elsewhere.
    logits = jnp.matmul(
      x.astype(jnp.float32),
      self.router.kernel[...].astype(jnp.float32),
      precision="highest",
    )
    weights, experts = route(
      logits,
      self.config.experts_per_token,
      normalize=self.config.normalize_expert_weights,
    )
    stacks = (self.expert_gate, self.expert_up, self.expert_down)
    kernels: Any = tuple(stack.kernel[...] for stack in stacks)
    mixed = _on_mesh(kernels, (x, weights, experts), self.activation)
    return mixed.astype(x.dtype)
