"""Scores of a whole model on the test split of every task."""

import dataclasses
import time
from typing import Any

from absl import logging

from skd_jax import results
from skd_jax.experiment import Experiment
from skd_jax.models import LoadedModel
from skd_jax.parallel import processes
from skd_jax.reporting import files
from skd_jax.validation import make_evaluator


def score(
  experiment: Experiment,
  name: str,
  model: LoadedModel,
  teacher: LoadedModel | None,
  task: str = "",
) -> dict[str, Any]:
  """Scores a model on the test split of every task; cached like a stage.

  Args:
    experiment: the run.
    name: of the model; its greedy answers are written as answers/NAME.txt, one
      per line, or with several tasks as answers/NAME.TASK.txt.
    model: the model.
    teacher: what its next-token distributions are compared with, if anything.
    task: one of several, for it alone; "": all.

  Returns:
    {"metrics": see evaluation/evaluator.py, "signature": by metric, "seconds"}.
  """
  scorer = make_evaluator(experiment)
  if task:
    chosen = tuple(t for t in experiment.tasks.tasks if t.name == task)
    scorer = dataclasses.replace(
      scorer, tasks=dataclasses.replace(experiment.tasks, tasks=chosen)
    )
  stage = f"evaluate_{name}_{task}" if task else f"evaluate_{name}"

  def evaluate() -> dict[str, Any]:
    start_time = time.perf_counter()
    found = scorer.evaluate("test", model.model, model.params, teacher)
    processes.on_first(
      results.write_answers,
      experiment.workdir,
      name,
      found.answers,
      by_task=len(experiment.tasks.tasks) > 1,
    )
    logging.info("%s: %s", stage, results.describe(found.scores))
    return {
      "metrics": found.scores,
      "signature": found.signatures,
      "seconds": time.perf_counter() - start_time,
    }

  found = experiment.cached(stage, evaluate)
  # A record has None in the place of NaN.
  return found | {"metrics": files.with_nan(found["metrics"])}
