"""The models of a run: read or trained by SFT, exported."""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import ml_collections
from absl import logging

from skd_jax import builders, config_checks, stage_memory
from skd_jax import field_checks as fields
from skd_jax.experiment import Experiment
from skd_jax.losses import token_losses
from skd_jax.models import (
  LoadedModel,
  Placement,
  add_adapters,
  init_model,
  load_adapters,
  load_config,
  load_model,
  prune_layers,
  save_adapters,
  save_model,
)
from skd_jax.parallel import sharding
from skd_jax.training import loop, memory, sft
from skd_jax.training.train_step import TrainFns
from skd_jax.validation import validation_callbacks


def prepare_model(
  experiment: Experiment, stage: str
) -> tuple[LoadedModel, dict[str, float]]:
  """Gives the teacher, or the student's start: read, or trained by SFT.

  Args:
    experiment: the run.
    stage: "teacher" or "student_init".

  Returns:
    (the model, the seconds that its training took, by part as of timing.py).
    The teacher's weights are in the run's dtype and placed as sharding.FROZEN
    says, the student's in float32 and as TRAINED; where it is trained by
    adapters, it has them, and is otherwise as the teacher.

  Raises:
    ValueError: the student is to start as layers that the teacher has not.
  """
  _check_layers_of_teacher(experiment.config)
  role = "teacher" if stage == "teacher" else "student"
  is_trained = role == "student"
  path = experiment.config[role].path
  if path:
    logging.info("%s: taken from %s", stage, path)
    if is_trained and experiment.config.student.lora.rank:
      return _with_adapters(experiment, path), {}
    return read_model(experiment, role, path, is_trained=is_trained), {}
  folder = experiment.workdir / stage

  def fine_tune() -> dict[str, Any]:
    model, totals = _fine_tune(experiment, role, stage)
    export(experiment, folder, model)
    return totals

  totals = experiment.cached(stage, fine_tune)
  model = read_model(experiment, role, folder, is_trained=is_trained)
  return model, totals["seconds"]


def read_model(
  experiment: Experiment,
  role: str,
  path: str | pathlib.Path,
  *,
  is_trained: bool,
) -> LoadedModel:
  """Reads a model of a run.

  Args:
    experiment: the run.
    role: "teacher" or "student".
    path: of its folder.
    is_trained: whether it is to be trained: in float32, as sharding.TRAINED;
      else in the run's dtype, as sharding.FROZEN, and quantized where the
      config says so.
  """
  shape = experiment.config[role]
  rules = sharding.TRAINED if is_trained else sharding.FROZEN
  return load_model(
    path,
    vocab_size=experiment.tasks.vocab_size,
    dtype=experiment.dtype,
    param_dtype=jnp.float32 if is_trained else experiment.dtype,
    placement=Placement(experiment.mesh, rules),
    quantization="" if is_trained else shape.get("quantization", ""),
    remat=shape.remat,
  )


def _with_adapters(experiment: Experiment, path: str) -> LoadedModel:
  """Reads a student that is trained by adapters alone, and gives it them."""
  lora, seed = experiment.config.student.lora, experiment.config.seed
  base = read_model(experiment, "student", path, is_trained=False)
  with fields.prefix("student.lora."):
    params = add_adapters(
      base.config,
      base.params,
      rank=lora.rank,
      alpha=lora.alpha,
      targets=lora.targets,
      seed=seed,
    )
  return dataclasses.replace(base, params=params)


def save_student(
  experiment: Experiment, folder: pathlib.Path, student: LoadedModel
) -> None:
  """Writes what a seed has trained: a whole folder, or the adapters alone."""
  config = experiment.config.student
  if config.lora.rank:
    base = config.checkpoint or config.path
    save_adapters(folder, student.config, student.params, base=base)
  else:
    export(experiment, folder, student)


def read_student(
  experiment: Experiment, folder: pathlib.Path, start: LoadedModel
) -> LoadedModel:
  """Reads what save_student has written.

  Args:
    experiment: the run.
    folder: of the seed.
    start: the student before; adapters are put in the place of its own.
  """
  if experiment.config.student.lora.rank:
    params = load_adapters(folder, start.config, start.params)
  else:
    params = read_model(experiment, "student", folder, is_trained=True).params
  return dataclasses.replace(start, params=params)


def prepare_fine_tuning(
  experiment: Experiment, role: str
) -> tuple[LoadedModel, TrainFns]:
  """Returns a model before its SFT, and the functions that train it.

  Args:
    experiment: the run.
    role: "teacher" or "student".
  """
  model = _untrained(experiment, role)
  train = builders.train_fns(
    experiment.config,
    f"{role}.fit",
    model,
    None,
    token_losses.supervised_token_loss,
    experiment.mesh,
  )
  return model, train


def _fine_tune(
  experiment: Experiment, role: str, stage: str
) -> tuple[LoadedModel, dict[str, Any]]:
  """Trains a model on the references by cross-entropy (SFT)."""
  config, shape = experiment.config, experiment.config[role]
  model, train = prepare_fine_tuning(experiment, role)
  memory.report(
    stage,
    stage_memory.step_memory(
      config,
      f"{role}.fit",
      experiment.tasks,
      train,
      model,
      mesh=experiment.mesh,
      dtype=experiment.dtype,
    ),
  )
  with loop.open_loop(
    train.init(model.params),
    experiment.train_batches(shape.fit, config.seed),
    workdir=experiment.workdir,
    name=stage,
    stage=stage,
    seed=config.seed,
    callbacks=validation_callbacks(experiment, shape.fit, model, train.params),
    num_steps=shape.fit.num_steps,
    cadence=builders.cadence(config, f"{role}.fit"),
    guards=builders.guards(config, f"{role}.fit"),
    open_boards=builders.open_boards(config),
  ) as training:
    sft.fine_tune(training, train)
  model = dataclasses.replace(model, params=training.state.params)
  return model, training.totals.to_plain()


def _untrained(experiment: Experiment, role: str) -> LoadedModel:
  """Reads or initializes what the training of a model starts from."""
  config, shape = experiment.config, experiment.config[role]
  if shape.init_path:
    return read_model(experiment, role, shape.init_path, is_trained=True)
  if role == "student" and shape.layers_of_teacher:
    folder = config.teacher.path or experiment.workdir / "teacher"
    teacher = read_model(experiment, role, folder, is_trained=True)
    return prune_layers(teacher, shape.layers_of_teacher, remat=shape.remat)
  tasks = experiment.tasks
  return init_model(
    builders.model_shape(shape, tasks.vocab_size, tasks.max_length),
    seed=config.seed + (role == "student"),
    dtype=experiment.dtype,
    placement=Placement(experiment.mesh, sharding.TRAINED),
    remat=shape.remat,
  )


def _check_layers_of_teacher(config: ml_collections.ConfigDict) -> None:
  """Checks them against the folder of the teacher, before it is trained."""
  folder = config.teacher.path or config.teacher.init_path
  if folder and config.student.layers_of_teacher:
    config_checks.check_layers_of_teacher(
      config, load_config(folder).num_layers
    )


def export(
  experiment: Experiment, folder: pathlib.Path, model: LoadedModel
) -> None:
  """Writes a Hugging Face folder with the weights and the tokenizer."""
  tasks = experiment.tasks
  save_model(folder, model, tasks.tokenizer, eos_ids=tasks.eos_ids)
