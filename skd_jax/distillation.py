"""What the seeds of a run share: models in their places, compiled functions."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from skd_jax import builders, stage_memory
from skd_jax.decoding import sampling
from skd_jax.experiment import Experiment
from skd_jax.models import LoadedModel, lora
from skd_jax.parallel import rollout_devices
from skd_jax.training import draft_length, generation, memory
from skd_jax.training.generator import Generator
from skd_jax.training.teacher_cache import CachedTeacher
from skd_jax.training.train_step import TrainFns


@dataclasses.dataclass(frozen=True)
class Distillation:
  """What the seeds of a run share; on the devices that train, but for one.

  start: the student before distillation.
  teacher: one that is cached has no weights any more, only their shapes.
  cache: None: the teacher is there.
  spec: who generates.
  rollout_fn: of the spec.
  generator: of the spec; it may have devices of its own.
  train: what trains.
  """

  start: LoadedModel
  teacher: LoadedModel
  cache: CachedTeacher | None
  spec: generation.GenerationSpec
  rollout_fn: generation.RolloutFn
  generator: Generator
  train: TrainFns


def prepare_distillation(
  experiment: Experiment,
  start: LoadedModel,
  teacher: LoadedModel,
  cache: CachedTeacher | None = None,
) -> Distillation:
  """Builds the rollout and the train step, once for all seeds."""
  config, mesh = experiment.config, experiment.rollout_mesh
  make_rollout_fn = functools.partial(
    generation.make_rollout_fn,
    stop_table=experiment.stop_table,
    dtype=experiment.dtype,
  )
  # Where they generate.
  student_there, teacher_there = (
    dataclasses.replace(
      model, params=rollout_devices.on_mesh(model.params, mesh)
    )
    for model in (start, teacher)
  )
  make_rollout_fn_there = functools.partial(
    make_rollout_fn, student=student_there, teacher=teacher_there, mesh=mesh
  )
  spec = builders.generation_spec(
    config,
    max_new_tokens=experiment.tasks.max_new_tokens,
    num_draft_tokens=config.rollout.num_draft_tokens,
  )
  if spec.mode == "skd" and not spec.num_draft_tokens:
    spec = _with_fastest_drafts(
      experiment, spec, make_rollout_fn_there, student_there, teacher_there
    )
  is_apart = mesh != experiment.mesh
  train = builders.train_fns(
    config,
    "distill",
    start,
    teacher if spec.uses_teacher else None,
    builders.token_loss(config, experiment.tasks.vocab_size),
    experiment.mesh,
    spec.by_distance,
    experiment.dtype if config.rollout.max_staleness else None,
    older_is_whole=is_apart,
  )
  memory.report(
    "distillation",
    stage_memory.step_memory(
      config,
      "distill",
      experiment.tasks,
      train,
      start,
      teacher if cache is None else None,
      spec.num_draft_tokens,
      mesh=experiment.mesh,
      dtype=experiment.dtype,
    ),
  )
  rollout_fn = rollout_fn_there = make_rollout_fn_there(spec)
  if is_apart:
    rollout_fn = make_rollout_fn(
      spec, student=start, teacher=teacher, mesh=experiment.mesh
    )
  frozen = lora.split(student_there.params)[1]
  generator = Generator(spec, rollout_fn_there, mesh, frozen, teacher_there)
  return Distillation(start, teacher, cache, spec, rollout_fn, generator, train)


def _with_fastest_drafts(
  experiment: Experiment,
  spec: generation.GenerationSpec,
  make_rollout_fn: Callable[[generation.GenerationSpec], generation.RolloutFn],
  student: LoadedModel,
  teacher: LoadedModel,
) -> generation.GenerationSpec:
  """Returns the spec with the draft length that is the fastest at first.

  Args:
    experiment: the run; what is found is a stage of it.
    spec: who generates.
    make_rollout_fn: with the models bound.
    student: where it generates.
    teacher: likewise.
  """
  config, mesh = experiment.config, experiment.rollout_mesh

  def measure() -> dict[str, Any]:
    batch = next(experiment.train_batches(config.distill, config.seeds[0]))
    with jax.set_mesh(mesh):
      batch = rollout_devices.rows_on_mesh(batch, mesh)
      return draft_length.fastest(
        draft_length.measure_draft_lengths(
          spec,
          make_rollout_fn,
          student.params,
          teacher.params,
          batch,
          sampling.row_keys(config.seed, 0, batch.index),
        )
      )

  return dataclasses.replace(spec, **experiment.cached("draft_length", measure))
