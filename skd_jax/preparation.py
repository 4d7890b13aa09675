"""The models that a distillation starts from: read, or trained by SFT."""

import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging

from skd_jax import learner, stages
from skd_jax.evaluation import evaluator
from skd_jax.experiment import Run
from skd_jax.losses import chunked
from skd_jax.models import loading
from skd_jax.parallel import sharding
from skd_jax.training import loop
from skd_jax.training import train_step as train_step_lib


def prepare_model(run: Run, stage: str) -> tuple[loading.LoadedModel, float]:
  """Gives the teacher, or the student's start: read, or trained by SFT.

  Args:
    run: the run.
    stage: "teacher" or "student_init".

  Returns:
    (the model, the seconds that its training took). The teacher's weights are
    in the run's dtype and lie as sharding.FROZEN says, the student's in float32
    and as TRAINED.
  """
  role = "teacher" if stage == "teacher" else "student"
  shape = run.config[role]
  read_ready = read_frozen if role == "teacher" else read_trained
  if shape.path:
    logging.info("%s: taken from %s", stage, shape.path)
    return read_ready(run, role, shape.path), 0.0
  needs = run.depends_on(role)
  result = stages.begin(run.workdir, stage, needs)
  if result is None:
    if shape.init_path:
      model = read_trained(run, role, shape.init_path)
    else:
      model = loading.from_scratch(
        shape,
        run.task.vocab_size,
        run.task.max_length,
        seed=run.config.seed + (role == "student"),
        dtype=run.dtype,
        placement=loading.Placement(run.mesh, sharding.TRAINED),
      )
    model, counts = fine_tune(run, stage, shape.fit, model)
    loading.export(run.workdir / stage, model, run.task)
    result = stages.finish(run.workdir, stage, needs, counts)
  model = read_ready(run, role, run.workdir / stage)
  return model, result.get("seconds_train", 0.0)


def read_trained(
  run: Run, role: str, path: str | pathlib.Path
) -> loading.LoadedModel:
  """Reads a model to be trained: in float32, laid out as sharding.TRAINED.

  Args:
    run: the run.
    role: "teacher" or "student".
    path: of its folder.
  """
  return _read(run, role, path, jnp.float32, sharding.TRAINED)


def read_frozen(
  run: Run, role: str, path: str | pathlib.Path
) -> loading.LoadedModel:
  """Reads a model to be asked: in the run's dtype, as sharding.FROZEN says."""
  return _read(run, role, path, run.dtype, sharding.FROZEN)


def _read(
  run: Run,
  role: str,
  path: str | pathlib.Path,
  param_dtype: Any,
  rules: sharding.Rules,
) -> loading.LoadedModel:
  return loading.load(
    path,
    run.task.vocab_size,
    dtype=run.dtype,
    param_dtype=param_dtype,
    placement=loading.Placement(run.mesh, rules),
    remat=run.config[role].remat,
  )


def fine_tune(
  run: Run,
  stage: str,
  fit_config: ml_collections.ConfigDict,
  model: loading.LoadedModel,
) -> tuple[loading.LoadedModel, dict[str, float]]:
  """Trains a model on the references by cross-entropy (SFT)."""
  begin, learn = learner.make_learner(
    run, fit_config, model, None, chunked.supervised_token_loss
  )
  present = jax.jit(train_step_lib.reference_rollout)

  def step_fn(state, batch, step):
    del step
    begun = time.perf_counter()
    written = present(batch)
    state, means = learn(state, None, batch, written)
    jax.block_until_ready(means)
    return state, means, learner.train_counts(batch.reference_length, begun)

  state, counts = loop.fit(
    step_fn,
    begin(model.params),
    run.train_batches(fit_config, run.config.seed),
    fit_config,
    workdir=run.workdir,
    stage=stage,
    seed=run.config.seed,
    visits=evaluator.validation_visits(run, fit_config, model.model),
  )
  return dataclasses.replace(model, params=state.params), counts
