"""A failed step taken again, and each of its examples by itself.

A value that is not finite spreads: from one example to the loss, from the
gradient of one weight to those of all layers below it. So the search for the
fault follows the order in which a step computes.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from skd_jax import structs
from skd_jax.losses import chunked
from skd_jax.models import forward, lora
from skd_jax.parallel import processes, sharding
from skd_jax.training.failed_step import FailedStep
from skd_jax.training.train_step import TrainFns


@dataclasses.dataclass(frozen=True)
class Replay:
  """The result of a step that was taken again.

  metrics: of the train step, as in the log.
  losses: of each example, as in metrics.jsonl.
  norms: of the gradient, by the part of the model: the first name of a weight.
  first: the name of the first array that is not finite; "" where all are.
  """

  metrics: Mapping[str, Any]
  losses: Sequence[float]
  norms: Mapping[str, float]
  first: str


def take(
  failed: FailedStep,
  student: structs.LanguageModel,
  teacher_head: structs.Params,
  train: TrainFns,
) -> Replay:
  """Takes a step again.

  Args:
    failed: the step.
    student: what is trained.
    teacher_head: None without a teacher.
    train: the functions that train it.
  """
  trained, batch, rollout = failed.params, failed.batch, failed.rollout
  params = lora.attach(trained, train.frozen)
  total = _Total(
    gradient=jax.tree.map(jnp.zeros_like, trained),
    sums=chunked.LossSums.zero(),
    hidden=jnp.float32(0),
  )
  losses = []
  for row in range(rollout.tokens.shape[0]):
    total, loss = _add_example(
      student,
      train.loss,
      total,
      trained,
      train.frozen,
      teacher_head,
      batch,
      rollout,
      row,
    )
    losses.append(float(loss))
  _, metrics = train.step(train.init(params), teacher_head, batch, rollout)
  norms = jax.tree.map(lambda x: x / total.sums.weight, _norms(total.gradient))
  computed = {
    "params": params,
    "teacher_hidden": rollout.teacher_hidden,
    "hidden": total.hidden,
    "loss": metrics["loss"],
    "gradient": total.gradient,
  }
  return Replay(
    metrics=processes.to_host(metrics),
    losses=losses,
    norms={name: float(norm) for name, norm in norms.items()},
    first=first_not_finite(computed),
  )


@struct.dataclass
class _Total:
  """The sums over some examples."""

  gradient: structs.Params  # float32, of the sum of their losses
  sums: chunked.LossSums
  hidden: jax.Array  # float32 [], 0; NaN where a hidden state is not finite


@functools.partial(jax.jit, static_argnums=(0, 1))
def _add_example(
  student, loss_fn, total, trained, frozen, head, batch, rollout, row
):
  """Adds the example of a row; returns (the total, its loss)."""
  # As few rows as can be sharded, so that it needs no memory of the step.
  size = sharding.num_groups()
  batch, rollout = jax.tree.map(
    lambda x: jax.lax.dynamic_slice_in_dim(x, row // size * size, size),
    (batch, rollout),
  )
  params = lora.attach(trained, frozen)
  hidden = forward.response_hidden(
    student,
    params,
    batch.prompt,
    batch.prompt_length,
    rollout.tokens,
    batch.learned,
  )
  alone = jnp.arange(size) == row % size
  rollout = dataclasses.replace(
    rollout, length=jnp.where(alone, rollout.length, 0)
  )
  gradient, sums = jax.grad(
    lambda p: loss_fn(lora.attach(p, frozen), head, batch, rollout),
    has_aux=True,
  )(trained)
  total = _Total(
    gradient=jax.tree.map(jnp.add, total.gradient, gradient),
    sums=total.sums + sums,
    hidden=total.hidden + 0.0 * jnp.sum(hidden, dtype=jnp.float32),
  )
  return total, sums.means()["loss"]


@jax.jit
def _norms(gradient: structs.Params) -> dict[str, jax.Array]:
  return {name: optax.tree.norm(x) for name, x in gradient.items()}


@jax.jit
def _all_finite(tree: Any) -> Any:
  return jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)


def first_not_finite(computed: Mapping[str, Any]) -> str:
  """Returns the name of the first array that is not finite, or "".

  Args:
    computed: trees of float arrays, in the order in which they are computed;
      "gradient" is looked through from the head back to the embedding.
  """
  for name, tree in computed.items():
    finite = jax.tree_util.tree_flatten_with_path(_all_finite(tree))[0]
    bad = [
      jax.tree_util.keystr(path, simple=True, separator=".")
      for path, is_finite in finite
      if not is_finite
    ]
    if name == "gradient":
      bad.sort(key=_depth, reverse=True)
    if bad:
      return f"{name}.{bad[0]}".removesuffix(".")
  return ""


def _depth(weight: str) -> float:
  """Where the forward pass uses a weight."""
  first, _, rest = weight.partition(".")
  if first == "layers":
    return int(rest.partition(".")[0])
  return -1 if first == "embedding" else math.inf


def describe(failed: FailedStep, found: Replay) -> str:
  """Returns the result of a step, as lines of text."""
  index, length = processes.to_host((failed.batch.index, failed.rollout.length))
  rows = zip(index, length, found.losses, strict=True)
  return "\n".join(
    [
      f"step {failed.step}: loss {found.metrics['loss']:.4g}, "
      f"grad_norm {found.metrics['grad_norm']:.4g}",
      *(f"  example {i}, {n} tokens: loss {loss:.4g}" for i, n, loss in rows),
      *(f"  gradient of {k}: norm {x:.4g}" for k, x in found.norms.items()),
      f"The first that is not finite: {found.first}"
      if found.first
      else "All is finite: what failed was not the step, but what computed it.",
    ]
  )
