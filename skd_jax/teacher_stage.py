"""The stage `teacher_cache`: the teacher writes down what training reads.

Where no response depends on the student, the teacher is needed once, before
there is a student:

  teacher   score, write the records, compare some, release
  student             .............                   distil from the records

so that the two are never on a device together. A task may have a teacher of
its own: they come one after the other, before there is a student.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from skd_jax import (
  builders,
  method_checks,
  preparation,
  scoring,
  stages,
  structs,
)
from skd_jax.data import dataset, input_pipeline, teacher_records
from skd_jax.decoding import sampling
from skd_jax.evaluation import evaluator
from skd_jax.experiment import Experiment, train_set
from skd_jax.models import LoadedModel
from skd_jax.parallel import processes
from skd_jax.reporting import manifest
from skd_jax.training import generation, teacher_cache
from skd_jax.training.teacher_cache import CachedTeacher
from skd_jax.training.timing import timed

# A part is what an interrupted stage loses at most.
_BATCHES_PER_PART = 64


def score_teacher(
  experiment: Experiment, teacher: LoadedModel
) -> dict[str, Any]:
  """Scores the teacher on all tasks but those that have one of their own.

  Returns:
    As `scoring.score`; without the mean where tasks are left out.
  """
  if not experiment.config.teacher_cache.teachers:
    return scoring.score(experiment, "teacher", teacher, teacher)
  scores: dict[str, Any] = {"metrics": {}, "signature": {}, "seconds": 0.0}
  for task in _tasks_of(experiment):
    scores = _with_task(experiment, scores, task, teacher)
  return scores


def cache_teacher(
  experiment: Experiment, teacher: LoadedModel, folder: str | pathlib.Path
) -> CachedTeacher | None:
  """Opens the cache of the teacher; writes what is missing of it.

  Args:
    experiment: the run.
    teacher: the teacher.
    folder: that its weights are read from.

  Returns:
    The cache of all tasks but those that have a teacher of their own; None
    where teacher_cache.top_k is 0.

  Raises:
    ValueError: the cache is damaged, or was made from another teacher or other
      examples.
  """
  if not experiment.config.teacher_cache.top_k:
    return None
  method_checks.check_top_k(experiment.config, experiment.tasks.vocab_size)
  tasks = _tasks_of(experiment)
  return _open_cache(experiment, teacher, folder, "teacher_cache", tasks)


def _open_cache(
  experiment: Experiment,
  teacher: LoadedModel,
  folder: str | pathlib.Path,
  stage: str,
  tasks: Sequence[str],
) -> CachedTeacher:
  """As cache_teacher, of some tasks; in WORKDIR/STAGE."""
  config = experiment.config
  settings, fit = config.teacher_cache, config.distill
  whole = train_set(experiment.tasks, fit)
  names = [task.name for task in experiment.tasks.tasks]
  ids = [names.index(task) for task in tasks]
  split = dataset.select(whole, np.flatnonzero(np.isin(whole.task_id, ids)))
  split = dataset.select(split, input_pipeline.longest_first(split))
  size = _BATCHES_PER_PART * fit.batch_size
  parts = [
    (response, np.arange(start, min(start + size, len(split))))
    for response in range(settings.num_responses)
    for start in range(0, len(split), size)
  ]
  path = experiment.workdir / stage
  source = {
    "settings": stages.cache_keys(config)[stage],
    "weights": processes.on_first(manifest.digest, folder, _is_of_model),
    "examples": dataset.digest(split),
  }

  def write() -> dict[str, Any]:
    return _write(experiment, teacher, split, parts, path, source)

  totals = experiment.cached(stage, write)
  logging.info(
    "%s: %d records of %d tokens, %.3g MB, %.1f bytes per token",
    stage,
    totals["records"],
    totals["tokens"],
    totals["bytes"] / 1e6,
    totals["bytes"] / max(totals["tokens"], 1),
  )
  processes.on_first(teacher_records.check, path, source, len(parts))
  is_reference = config.rollout.mode == "reference"
  found = CachedTeacher(
    parts=(
      teacher_cache.TeacherRecords(
        records=teacher_records.Records(path, len(parts)),
        index=split.indices,
        seconds=totals["seconds"],
      ),
    ),
    k=settings.top_k,
    num_responses=settings.num_responses,
    source=structs.REFERENCE if is_reference else structs.TEACHER,
    max_new_tokens=experiment.tasks.max_new_tokens,
    steps_per_epoch=len(whole) // fit.batch_size,
    mesh=experiment.mesh,
  )
  _compare(experiment, found, teacher, split)
  return found


def add_task_teachers(
  experiment: Experiment, cache: CachedTeacher, scores: dict[str, Any]
) -> tuple[CachedTeacher, dict[str, Any]]:
  """Adds what the teachers of single tasks think, one after the other.

  Each is read, scored on its task, writes, and is released.

  Args:
    experiment: the run.
    cache: of the other tasks; their teacher is released.
    scores: of that teacher, from score_teacher.

  Returns:
    (the cache of all tasks, scores as `scoring.score` returns them, of each
    task by its teacher).

  Raises:
    ValueError: as cache_teacher.
  """
  teachers = experiment.config.teacher_cache.teachers
  if not teachers:
    return cache, scores
  parts = list(cache.parts)
  for task, folder in teachers.items():
    teacher = preparation.read_model(
      experiment, "teacher", folder, is_trained=False
    )
    scores = _with_task(experiment, scores, task, teacher)
    stage = f"teacher_cache_{task}"
    parts += _open_cache(experiment, teacher, folder, stage, [task]).parts
    release(teacher)
  metrics = evaluator.summarize(experiment.tasks.tasks, scores["metrics"])
  cache = dataclasses.replace(cache, parts=tuple(parts))
  return cache, scores | {"metrics": metrics}


def _tasks_of(experiment: Experiment) -> list[str]:
  """Returns the tasks that have no teacher of their own."""
  teachers = experiment.config.teacher_cache.teachers
  return [t.name for t in experiment.tasks.tasks if t.name not in teachers]


def _with_task(
  experiment: Experiment,
  scores: dict[str, Any],
  task: str,
  teacher: LoadedModel,
) -> dict[str, Any]:
  """Adds the scores of a teacher on one of its tasks."""
  found = scoring.score(experiment, "teacher", teacher, teacher, task)
  return {
    "metrics": scores["metrics"] | {task: found["metrics"]},
    "signature": scores["signature"] | found["signature"],
    "seconds": scores["seconds"] + found["seconds"],
  }


def release(model: LoadedModel) -> LoadedModel:
  """Frees the weights of a model on its devices.

  Returns:
    The model with their shapes and places alone.
  """
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    model.params,
  )
  # Not `del` alone: a compiled function may still refer to them.
  jax.tree.map(lambda x: x.delete(), model.params)
  return dataclasses.replace(model, params=shapes)


def _is_of_model(name: str) -> bool:
  return name == "config.json" or name.endswith(".safetensors")


def _write(
  experiment: Experiment,
  teacher: LoadedModel,
  split: dataset.TokenizedSet,
  parts: list[tuple[int, np.ndarray]],
  path: pathlib.Path,
  source: dict[str, Any],
) -> dict[str, Any]:
  """Writes the parts that are missing; `parts`: (response, places in split)."""
  config = experiment.config
  spec = builders.generation_spec(
    config, max_new_tokens=experiment.tasks.max_new_tokens, num_draft_tokens=1
  )
  spec = dataclasses.replace(spec, uses_teacher=True)
  # No student takes part: where the function has one, the teacher stands in.
  rollout_fn = generation.make_rollout_fn(
    spec,
    teacher,
    teacher,
    experiment.stop_table,
    mesh=experiment.mesh,
    dtype=experiment.dtype,
  )
  seconds: dict[str, float] = {}

  def records(response, places):
    chosen = dataset.select(split, places)
    for batch in experiment.eval_batches(chosen, config.distill.batch_size):
      rollout, more = generation.generate_responses(
        spec,
        rollout_fn,
        teacher.model,
        teacher.params,
        teacher.params,
        batch,
        sampling.row_keys(config.seed, response, batch.index),
        response,
      )
      for part, value in more.items():
        seconds[part] = seconds.get(part, 0.0) + value
      with timed(seconds, "verify"):
        made = teacher_cache.make_records(
          teacher,
          batch,
          rollout,
          response=response,
          k=config.teacher_cache.top_k,
          chunk_size=experiment.chunk_size,
        )
      yield from made

  for number in processes.on_first(
    teacher_records.begin, path, source, len(parts)
  ):
    # All processes compute; the first one writes.
    of_part = records(*parts[number])
    if processes.is_first():
      teacher_records.write_part(path, number, of_part)
    else:
      collections.deque(of_part, maxlen=0)
  found = processes.on_first(teacher_records.measure, path, len(parts))
  return found | {"seconds": seconds}


def _compare(
  experiment: Experiment,
  cache: CachedTeacher,
  teacher: LoadedModel,
  split: dataset.TokenizedSet,
) -> None:
  """Compares a few records with the teacher, as the settings say."""
  config = experiment.config
  count = min(config.teacher_cache.verify_records, len(split))
  if not count:
    return
  batch = experiment.one_batch(dataset.spread_examples(split, count))
  distance = teacher_cache.check_records(
    cache, teacher, batch, chunk_size=experiment.chunk_size
  )
  logging.info(
    "Teacher cache: %d records are within %.2g of their teacher, in total "
    "variation",
    count,
    distance,
  )
