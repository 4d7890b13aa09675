"""The weights of before the last update, kept to generate with; see ahead.py.

A step donates the state that it is given, so they are a copy, in the dtype that
generates. With them goes the distance of the same step: by it the responses
were mixed, whatever is known once they are learned from.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from skd_jax import structs

# (trained weights, distance) -> copies.
KeepFn = Callable[[structs.Params, jax.Array | None], structs.OlderWeights]


def copy(
  params: structs.Params,
  distance: jax.Array | None,
  dtype: jax.typing.DTypeLike | None,
) -> structs.OlderWeights | None:
  """Returns what outlives the next step; None where dtype is; inside jit."""
  if dtype is None:
    return None
  return structs.OlderWeights(
    params=jax.tree.map(lambda x: jnp.array(x, dtype, copy=True), params),
    distance=None if distance is None else jnp.copy(distance),
  )


def make_keep_fn(
  shardings: structs.TrainState, dtype: jax.typing.DTypeLike | None
) -> KeepFn | None:
  """Returns `copy` with its dtype bound, jitted; None where dtype is.

  Args:
    shardings: of the state.
    dtype: of the weights that generate.
  """
  if dtype is None:
    return None

  def keep(params, distance):
    return copy(params, distance, dtype)

  return jax.jit(
    keep,
    in_shardings=(shardings.params, shardings.distance),
    out_shardings=shardings.older,
  )


def known(state: structs.TrainState) -> structs.TrainState:
  """Returns the state, or its shardings, with what a step reads of `older`."""
  if state.older is None:
    return state
  older = dataclasses.replace(state.older, params=None)
  return dataclasses.replace(state, older=older)
