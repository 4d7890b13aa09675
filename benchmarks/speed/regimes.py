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
from skd_jax import structs

TOP_K = 25


@dataclasses.dataclass(frozen=True)
class Regime:
  """A pair, and the rule that replaces at a known rate."""

  pair: Pair
  accept: str
  threshold: float


def with_faint_layers(pair: Pair, faintness: float) -> Pair:
  """Scales the outputs of the teacher's layers that the student lacks.

  Raises:
    ValueError: the student is not every third layer of its teacher, or the
      teacher normalizes the output of a layer, which would undo the scale.
  """
  if not pair.every_third or pair.teacher.config.sandwich_norm:
    raise ValueError(
      f"pair = {pair.name!r}: must be a teacher without norms after its layers "
      "and every third layer of it, to have faint layers"
    )

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
  measure: Callable[[structs.Params], float],
  steps: int = 10,
) -> Regime:
  """Finds a teacher whose K = 25 replaces a share of the student's tokens.

  The logarithm of the faintness is bisected until the rate is met within a
  tenth, or the steps are over; the closest teacher is taken. A student that is
  no part of its teacher cannot be tuned: the rule `random` replaces its tokens
  blindly, at the cost of `top_k` without one count over the vocabulary.

  Args:
    pair: the models.
    rate: of replaced tokens, such as 0.02.
    measure: teacher's weights -> rate of replaced tokens.
    steps: at most.
  """
  if not pair.every_third:
    return Regime(pair, "random", rate)
  low, high = 1e-3, 1.0
  best, best_rate = pair, float("inf")
  for _ in range(steps):
    middle = float(np.sqrt(low * high))
    candidate = with_faint_layers(pair, middle)
    found = measure(candidate.teacher.params)
    if abs(found - rate) < abs(best_rate - rate):
      best, best_rate = candidate, found
    if abs(found - rate) <= 0.1 * rate:
      break
    low, high = (middle, high) if found < rate else (low, middle)
  print(f"Tuned a teacher to replace {rate:.0%}: it replaces {best_rate:.1%}")
  return Regime(best, "top_k", float(TOP_K))
