"""How a model of a run is trained: its optimizer and its jitted train step."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from skd_jax import structs
from skd_jax.experiment import Run
from skd_jax.losses import chunked
from skd_jax.models import loading
from skd_jax.parallel import processes, sharding
from skd_jax.training import train_step as train_step_lib

# params -> state
Begin = Callable[[structs.Params], structs.TrainState]
# (state, teacher head, batch, rollout) -> (state, metrics)
Learn = Callable[..., tuple[structs.TrainState, dict[str, jax.Array]]]


def make_learner(
  run: Run,
  fit_config: ml_collections.ConfigDict,
  model: loading.LoadedModel,
  teacher: loading.LoadedModel | None,
  token_loss: chunked.TokenLoss,
) -> tuple[Begin, Learn]:
  """Returns the jitted first state and the jitted train step.

  Args:
    run: the run.
    fit_config: how it is trained.
    model: what is trained; moments lie on the mesh as its weights do.
    teacher: None where the loss asks no teacher.
    token_loss: the loss of a token.

  Returns:
    (`params -> TrainState`, whose weights are a copy; `(state, teacher head,
    batch, rollout) -> (state, metrics)`, which donates the state; its teacher
    head is not looked at where there is no teacher).
  """
  optimizer = train_step_lib.make_optimizer(
    train_step_lib.make_schedule(
      learning_rate=fit_config.learning_rate,
      num_steps=fit_config.num_steps,
      warmup_steps=fit_config.warmup_steps,
      decay=fit_config.decay,
    ),
    clip_norm=fit_config.clip_norm,
    weight_decay=fit_config.weight_decay,
    beta1=fit_config.beta1,
    beta2=fit_config.beta2,
  )
  loss_fn = functools.partial(
    train_step_lib.rollout_loss,
    student=model.model,
    teacher=None if teacher is None else teacher.model,
    token_loss=token_loss,
    chunk_size=run.config.loss.chunk_size,
  )

  def step(*arguments):
    state, metrics = train_step_lib.train_step(
      *arguments,
      loss_fn=loss_fn,
      optimizer=optimizer,
      num_microbatches=fit_config.num_microbatches,
    )
    if teacher is None:
      metrics.pop("kl")  # There is no teacher that it is the divergence from.
    return state, metrics

  begin = functools.partial(
    train_step_lib.init_train_state, optimizer=optimizer
  )
  of_params = jax.tree.map(lambda x: x.sharding, model.params)
  of_head = teacher and jax.tree.map(
    lambda x: x.sharding, teacher.model.head_params(teacher.params)
  )
  of_state = sharding.state_shardings(
    optimizer, jax.eval_shape(begin, model.params), of_params, run.mesh
  )
  rows, replicated = sharding.rows(run.mesh), sharding.replicated(run.mesh)
  return jax.jit(
    begin, in_shardings=(of_params,), out_shardings=of_state
  ), jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(of_state, of_head, rows, rows),
    out_shardings=(of_state, replicated),
  )


def train_counts(length: Any, begun: float) -> dict[str, float]:
  """Returns the tokens of a step and its seconds, since `begun`.

  Args:
    length: [B] int, trained tokens of each row.
    begun: of time.perf_counter.
  """
  return {
    "trained_tokens": int(np.sum(processes.to_host(length))),
    "seconds_train": time.perf_counter() - begun,
  }
