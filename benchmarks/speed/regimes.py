"""Pairs whose teacher replaces a wanted share of the student's tokens.

How often the teacher corrects the student is tuned without touching any cost.
In a teacher with faint layers, the layers that the student lacks add
`faintness` times as much to the hidden state:

  faintness 0   the teacher is the student: only tokens beyond its own top K
                are corrected
  faintness 1   the teacher as it is: SmolLM2's student is corrected mostly
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.speed.pair import KEEP_EVERY, Pair

TOP_K = 25


@dataclasses.dataclass(frozen=True)
class Regime:
  """A pair, and the K of its acceptance rule top_k."""

  pair: Pair
  top_k: int


def with_faint_layers(pair: Pair, faintness: float) -> Pair:
  """Scales the outputs of the teacher's layers that the student lacks.

  Raises:
    ValueError: the teacher normalizes these outputs, which undoes the scale.
  """
  if pair.teacher.config.post_norm:
    raise ValueError(f"teacher = {pair.name!r}: must not normalize its layers")

  def scaled(index, layer):
    if int(index) % KEEP_EVERY == 0:
      return layer

    def scale(x):
      return (x * faintness).astype(x.dtype)

    attention, mlp = layer["attention"], layer["mlp"]
    return {
      **layer,
      "attention": attention | {"out": jax.tree.map(scale, attention["out"])},
      "mlp": mlp | {"down": jax.tree.map(scale, mlp["down"])},
    }

  layers = pair.teacher.params["layers"]
  params = pair.teacher.params | {
    "layers": {index: scaled(index, layer) for index, layer in layers.items()}
  }
  teacher = dataclasses.replace(pair.teacher, params=params)
  return dataclasses.replace(pair, teacher=teacher)


def tune(
  pair: Pair,
  rate: float,
  measure: Callable[[Pair], float],
  steps: int = 10,
) -> Regime:
  """Finds a teacher whose K = 25 replaces a share of the student's tokens.

  The logarithm of the faintness is bisected until the rate is met within a
  tenth, or the steps are over; the closest teacher is taken.

  Args:
    pair: the models.
    rate: of replaced tokens, such as 0.02.
    measure: returns the rate of a pair.
    steps: at most.
  """
  low, high = 1e-3, 1.0
  best, best_rate = pair, float("inf")
  for _ in range(steps):
    middle = float(np.sqrt(low * high))
    candidate = with_faint_layers(pair, middle)
    found = measure(candidate)
    if abs(found - rate) < abs(best_rate - rate):
      best, best_rate = candidate, found
    if abs(found - rate) <= 0.1 * rate:
      break
    low, high = (middle, high) if found < rate else (low, middle)
  print(f"Tuned a teacher to replace {rate:.0%}: it replaces {best_rate:.1%}")
  return Regime(best, TOP_K)
