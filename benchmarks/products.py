"""How fast the skinny matrix products of decoding are, by layout.

  python -m benchmarks.products [--quick]

A decode step multiplies M = B rows, a verification M = B G rows, with every
weight matrix once. As in a model, the matrices of 30 layers follow each other,
so that none is found in a cache. Layouts, of x [M, K] and a weight that lies as
[K, N] or as [N, K]:

  x W       the weight lies as [K, N]: the layers of skd_jax
  x V^T     it lies as [N, K]
  V x^T     it lies as [N, K], the result is [N, M]: the head of skd_jax

`gb_per_s` is what of the weights goes through memory; below the rates of
`python -m benchmarks.rollout_speed`, neither memory nor multiplication bounds
the product, but how the library feeds its kernel.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from benchmarks import harness
from skd_jax.models import loading

# Axes that are summed over, of (x, weight) or (weight, x).
_LAYOUTS = {
  "x W": lambda x, kn, nk: _dot(x, kn, 1, 0),
  "x V^T": lambda x, kn, nk: _dot(x, nk, 1, 1),
  "V x^T": lambda x, kn, nk: _dot(nk, x, 1, 1),
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of the measurement; those of SmolLM2-135M's MLP."""

  rows: tuple[int, ...] = (1, 4, 16, 64, 256)
  inner: int = 576
  outer: int = 1536
  num_matrices: int = 60
  repeats: int = 10


QUICK = Settings(rows=(1, 16), inner=64, outer=192, num_matrices=4, repeats=3)


def make_rows(settings: Settings) -> list[harness.Row]:
  """Times every layout for every M, in turns."""
  dtype = loading.compute_dtype("auto")
  keys = jax.random.split(jax.random.key(0), settings.num_matrices)
  shape = (settings.inner, settings.outer)
  wide = [jax.random.normal(key, shape, dtype) for key in keys]
  tall = [jnp.array(matrix.T) for matrix in wide]
  size = settings.inner * settings.outer * settings.num_matrices
  rows = []
  for num_rows in settings.rows:
    x = jnp.ones((num_rows, settings.inner), dtype)
    timings = harness.interleaved(
      {
        layout: functools.partial(_multiply_all(product), x, wide, tall)
        for layout, product in _LAYOUTS.items()
      },
      settings.repeats,
    )
    rows += [
      {
        "rows": num_rows,
        "layout": layout,
        "gflop_per_s": 2 * num_rows * size / timing.best / 1e9,
        "gb_per_s": size * jnp.dtype(dtype).itemsize / timing.best / 1e9,
      }
      for layout, timing in timings.items()
    ]
  return rows


def _multiply_all(product):
  @jax.jit
  def multiply(x, wide, tall):
    return [product(x, kn, nk) for kn, nk in zip(wide, tall, strict=True)]

  return multiply


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
  return jax.lax.dot_general(
    a,
    b,
    (((axis_a,), (axis_b,)), ((), ())),
    preferred_element_type=jnp.float32,
  )


def rows_from_flags(quick: bool) -> Sequence[harness.Row]:
  """Runs what the command line asks for."""
  return make_rows(QUICK if quick else Settings())


if __name__ == "__main__":
  harness.run("products", rows_from_flags)
