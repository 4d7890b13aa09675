"""Scores of the validation split while a model trains, and answers to read."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import ml_collections

from skd_jax import builders, structs
from skd_jax.data import dataset
from skd_jax.data.tasks import Task
from skd_jax.evaluation import evaluator
from skd_jax.experiment import Experiment
from skd_jax.models import LoadedModel
from skd_jax.reporting import boards
from skd_jax.training import loop
from skd_jax.training.callbacks import Validate


def make_evaluator(experiment: Experiment) -> evaluator.Evaluator:
  """Returns what scores the models of a run."""
  return evaluator.Evaluator(
    tasks=experiment.tasks,
    stop_table=experiment.stop_table,
    eval_batches=experiment.eval_batches,
    chunk_size=experiment.chunk_size,
    comet=builders.comet(experiment.config),
    serving=builders.serving(experiment.config),
    answered=experiment.answered,
  )


def validation_callbacks(
  experiment: Experiment,
  fit: ml_collections.ConfigDict,
  model: LoadedModel,
  params_of: Callable[[structs.TrainState], structs.Params],
  teacher: LoadedModel | None = None,
) -> loop.Callbacks:
  """The callbacks that score the validation split, if there are any.

  The answers to its first examples are logged as text, beside the teacher's.
  """
  scorer = make_evaluator(experiment)
  count = experiment.config.evaluate.num_samples
  first = [
    _first_examples(task, count) for task in experiment.tasks.tasks if count
  ]

  @functools.cache
  def of_teacher() -> Mapping[str, Sequence[str]]:
    if teacher is None:
      return {}
    models = teacher.model, teacher.params
    return {t.name: scorer.answers(t, "validation", *models) for t in first}

  def scores_fn(state):
    params = params_of(state)
    found = scorer.evaluate("validation", model.model, params, teacher)
    by_model = {"answer": found.answers, "teacher": of_teacher()}
    samples = {"samples": _texts(first, by_model)} if first else {}
    return {**evaluator.flatten(found.scores), **samples}

  return Validate(scores_fn).every(fit.evaluate_every_steps, fit.num_steps)


def _first_examples(task: Task, count: int) -> Task:
  """A task with the first examples of its validation split alone."""
  split = dataset.first_examples(task.validation, count)
  split = dataclasses.replace(split, examples=split.examples[:count])
  return dataclasses.replace(task, validation=split)


def _texts(
  tasks: Sequence[Task],
  by_model: Mapping[str, Mapping[str, Sequence[str]]],
) -> boards.Texts:
  """Prompts and references, between them what each model answered, if it did.

  Args:
    tasks: whose validation examples are shown.
    by_model: answers by the title of the model's column, then by task.
  """
  answered = {title: of_task for title, of_task in by_model.items() if of_task}
  rows = [
    (
      example["source"],
      *(of_task[task.name][i] for of_task in answered.values()),
      example["target"],
    )
    for task in tasks
    for i, example in enumerate(task.validation.examples)
  ]
  return boards.Texts(("prompt", *answered, "reference"), rows)
