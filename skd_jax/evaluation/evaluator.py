"""Scores of a model on held-out data, task by task.

  one task        {"bleu": 30.1, "chrf": 55.0, "kl": 0.9, "agreement": 0.7,
                   "rank_correlation": 0.6, "teacher_top_mass": 0.97,
                   "student_top_mass": 0.93}
  several tasks   {"mean": 45.0, "translation": {"bleu": 30.1, ...},
                   "arithmetic": {"accuracy": 59.9, ...}}

The mean is that of each task's main metric, its first; every task counts the
same, however many examples it has.
"""

import functools
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import logging

from skd_jax import config as config_lib
from skd_jax import results, structs
from skd_jax.data import tasks as tasks_lib
from skd_jax.evaluation import agreement
from skd_jax.evaluation import metrics as metrics_lib
from skd_jax.experiment import Run
from skd_jax.models import loading
from skd_jax.parallel import processes
from skd_jax.training import loop

Scores = dict[str, Any]  # By metric, or by task and metric; see above.


def score_model(
  run: Run,
  name: str,
  model: loading.LoadedModel,
  teacher: loading.LoadedModel,
) -> dict[str, Any]:
  """Scores a model on the test split of every task.

  Args:
    run: the run.
    name: of the model; its greedy answers are written as answers/NAME.txt, one
      a line, or with several tasks as answers/NAME.TASK.txt.
    model: the model.
    teacher: what its next-token distributions are compared with.

  Returns:
    {"metrics": see the top of this file, "signature": by metric, "seconds"}.
  """
  begun = time.perf_counter()
  agreement_fn = agreement.make_agreement_fn(
    model.model, teacher.model, run.config.loss.chunk_size
  )
  by_task, signatures = {}, {}
  for part in run.task.parts:
    answers = greedy_answers(run, part, "test", model.model, model.params)
    values, signature = score_answers(run, part, "test", answers)
    by_task[part.name] = values | agreement.agreement(
      agreement_fn, model.params, teacher.params, run.eval_batches(part.test)
    )
    signatures |= signature
    several = len(run.task.parts) > 1
    file_name = f"{name}.{part.name}" if several else name
    results.write_answers(run.workdir, file_name, answers)
    logging.info("%s: %s", file_name, results.describe(by_task[part.name]))
  return {
    "metrics": summarize(run.task.parts, by_task),
    "signature": signatures,
    "seconds": time.perf_counter() - begun,
  }


def validation_visits(
  run: Run,
  fit_config: ml_collections.ConfigDict,
  model: structs.LanguageModel,
  teacher: loading.LoadedModel | None = None,
) -> dict[int, loop.Visit]:
  """Returns the visits that score the validation split, if there are any.

  Args:
    run: the run.
    fit_config: of the stage; says when.
    model: the model that is trained.
    teacher: what the model is compared with, if anything.

  Returns:
    Visits that log the scores as validation_NAME, and how model and teacher
    agree as held_out_NAME.
  """
  every = fit_config.evaluate_every_steps
  if not every:
    return {}

  def agree(params):
    if teacher is None:
      return {}
    return agreement.agreement(
      agreement.make_agreement_fn(
        model, teacher.model, run.config.loss.chunk_size
      ),
      params,
      teacher.params,
      itertools.chain.from_iterable(
        run.eval_batches(part.validation) for part in run.task.parts
      ),
    )

  def visit(state, step):
    del step
    by_task = {}
    for part in run.task.parts:
      answers = greedy_answers(run, part, "validation", model, state.params)
      by_task[part.name], _ = score_answers(run, part, "validation", answers)
    flat = results.flatten(summarize(run.task.parts, by_task))
    scored = {f"validation_{name}": value for name, value in flat.items()}
    return scored | {f"held_out_{k}": v for k, v in agree(state.params).items()}

  return dict.fromkeys(range(every, fit_config.num_steps + 1, every), visit)


def greedy_answers(
  run: Run,
  part: tasks_lib.Part,
  split: str,
  model: structs.LanguageModel,
  params: structs.Params,
) -> list[str]:
  """Answers each example of a held-out split of one task, in their order."""
  held_out = part.split(split)
  decode_fn = agreement.make_decode_fn(
    model, run.task.stop_table, part.max_new_tokens
  )
  texts, _ = agreement.answer(
    decode_fn,
    params,
    run.eval_batches(held_out),
    functools.partial(run.task.texts, part),
  )
  return [texts[i] for i in range(len(held_out.examples))]


def score_answers(
  run: Run, part: tasks_lib.Part, split: str, answers: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
  """Scores answers by the metrics of their task; see scores.score."""
  examples = part.split(split).examples
  return processes.on_first(
    metrics_lib.score,
    part.metrics,
    [example["source"] for example in examples],
    answers,
    [example["target"] for example in examples],
    config_lib.comet(run.config),
  )


def summarize(
  parts: Sequence[tasks_lib.Part], by_task: Mapping[str, dict[str, float]]
) -> Scores:
  """Returns the scores as in the drawing at the top of this file."""
  if len(parts) == 1:
    return by_task[parts[0].name]
  mean = statistics.fmean(by_task[p.name][p.metrics[0]] for p in parts)
  return {"mean": mean, **by_task}
