"""A step taken again, and each of its examples by itself.

What is not finite spreads: from one example to the loss, from one weight's
gradient to those of all layers below it. So what fails is looked for in the
order in which a step computes.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from skd_jax import structs
from skd_jax.losses import chunked
from skd_jax.models import forward
from skd_jax.parallel import processes, sharding
from skd_jax.training.failed_step import FailedStep
from skd_jax.training.train_step import TrainFns


@dataclasses.dataclass(frozen=True)
class Replay:
  """What a step comes to.

  metrics: of the train step, as in the log.
  losses: of each example, as of metrics.jsonl.
  norms: of the gradient, by the first name of its weights.
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
  params, rollout = failed.params, failed.rollout
  add_example = jax.jit(_add_example(student, train.loss))
  at_once = sharding.num_groups()  # Rows: as few as can be sharded.
  gradient = jax.tree.map(jnp.zeros_like, params)
  sums, losses, is_finite = chunked.LossSums.zero(), [], jnp.bool_(True)
  for row in range(rollout.tokens.shape[0]):
    first = row // at_once * at_once
    part = jax.tree.map(
      lambda x, i=first: x[i : i + at_once], (failed.batch, rollout)
    )
    gradient, more, is_finite = add_example(
      gradient, is_finite, params, teacher_head, *part, row - first
    )
    sums += more
    losses.append(float(more.means()["loss"]))
  _, metrics = train.step(
    train.init(params), teacher_head, failed.batch, rollout
  )
  gradient = jax.tree.map(lambda x: x / sums.weight, gradient)
  computed = {
    "params": params,
    "teacher_hidden": rollout.teacher_hidden,
    "hidden": jnp.where(is_finite, 0.0, jnp.nan),
    "loss": metrics["loss"],
    "gradient": gradient,
  }
  return Replay(
    metrics=processes.to_host(metrics),
    losses=losses,
    norms={name: float(optax.tree.norm(x)) for name, x in gradient.items()},
    first=first_not_finite(computed),
  )


def _add_example(
  student: structs.LanguageModel, loss: Callable[..., Any]
) -> Callable[..., Any]:
  """Returns a function that adds one of a few rows to what others came to."""

  def add_example(gradient, is_finite, params, head, batch, rollout, row):
    hidden = forward.response_hidden(
      student, params, batch.prompt, batch.prompt_length, rollout.tokens
    )
    alone = jnp.arange(rollout.length.shape[0]) == row
    rollout = dataclasses.replace(
      rollout, length=jnp.where(alone, rollout.length, 0)
    )
    more, sums = jax.grad(loss, has_aux=True)(params, head, batch, rollout)
    gradient = jax.tree.map(jnp.add, gradient, more)
    return gradient, sums, is_finite & jnp.isfinite(hidden).all()

  return add_example


def first_not_finite(computed: Mapping[str, Any]) -> str:
  """Returns the name of the first array that is not finite, or "".

  Args:
    computed: trees of float arrays, in the order in which they are computed;
      "gradient" is looked through from the head back to the embedding.
  """
  for name, tree in computed.items():
    bad = [
      jax.tree_util.keystr(path, simple=True, separator=".")
      for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
      if not jnp.isfinite(x).all()
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
  """Returns what a step comes to, in lines."""
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
