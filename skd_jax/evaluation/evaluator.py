"""Scores of a model on a held-out split, task by task.

  one task        {"bleu": 30.1, "chrf": 55.0, "kl": 0.9, "agreement": 0.7,
                   "rank_correlation": 0.6, "teacher_top_mass": 0.97,
                   "student_top_mass": 0.93}
  several tasks   {"mean": 45.0, "translation": {"bleu": 30.1, ...},
                   "arithmetic": {"accuracy": 59.9, ...}}

The mean is that of each task's main metric, its first; every task counts the
same, however many examples it has.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from skd_jax import structs
from skd_jax.data.dataset import TokenizedSet
from skd_jax.data.tasks import Task, TaskSet
from skd_jax.decoding import sampling, stopping
from skd_jax.evaluation import agreement as agreement_lib
from skd_jax.evaluation import answering, drafting
from skd_jax.evaluation import metrics as metrics_lib
from skd_jax.models.loading import LoadedModel
from skd_jax.parallel import processes

Scores = dict[str, Any]  # By metric, or by task and metric; see above.
# By task, split and sampling: who answered, and the batches with the answers.
Answered = dict[Any, tuple[LoadedModel, list[structs.Batch]]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What a model scores on one split of every task."""

  scores: Scores
  signatures: dict[str, str]  # By metric: how to compute a score again.
  answers: dict[str, list[str]]  # By task, in the order of the examples.


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Scores models on the held-out splits of a run's tasks.

  tasks: the tasks.
  stop_table: what ends an answer.
  eval_batches: the batches of a split, each example once.
  chunk_size: tokens whose logits are held at once.
  comet: where the metric `comet` is.
  serving: how both models draw, for the metric `acceptance`.
  answered: what the teacher has answered, so that it answers once; is added to.
  """

  tasks: TaskSet
  stop_table: stopping.StopTable
  eval_batches: Callable[[TokenizedSet], Iterable[structs.Batch]]
  chunk_size: int
  comet: metrics_lib.Comet | None = None
  serving: sampling.Sampling = sampling.GREEDY
  answered: Answered = dataclasses.field(default_factory=dict)

  def evaluate(
    self,
    split: str,
    model: structs.LanguageModel,
    params: structs.Params,
    teacher: LoadedModel | None = None,
  ) -> Evaluation:
    """Answers and scores every example of a split.

    Args:
      split: "validation" or "test".
      model: the model.
      params: its weights.
      teacher: what its next-token distributions are compared with, if anything;
        without it there are no metrics of OF_PAIR.
    """
    by_task, signatures, answers = {}, {}, {}
    for task in self.tasks.tasks:
      answers[task.name] = self.answers(task, split, model, params)
      found, signature = self._score(task, split, answers[task.name])
      if teacher is not None:
        of_pair = self._of_pair(task, split, model, params, teacher)
        found, signature = found | of_pair[0], signature | of_pair[1]
      names = [name for name in task.metrics if name in found]
      by_task[task.name] = {name: found[name] for name in names}
      signatures |= {name: signature[name] for name in names}
      if teacher is not None:
        by_task[task.name] |= self._agreement(
          task, split, model, params, teacher
        )
    return Evaluation(summarize(self.tasks.tasks, by_task), signatures, answers)

  def answers(
    self,
    task: Task,
    split: str,
    model: structs.LanguageModel,
    params: structs.Params,
  ) -> list[str]:
    """Answers each example of a split of one task greedily, in their order."""
    held_out = task.split(split)
    texts: dict[int, str] = {}
    for batch in self.eval_batches(held_out):
      rollout, index = processes.to_host(
        (
          answering.answer(
            params,
            batch,
            stop_table=self.stop_table,
            model=model,
            sampling=sampling.GREEDY,
            max_new_tokens=task.max_new_tokens,
          ),
          batch.index,
        )
      )
      rows = np.flatnonzero(index >= 0)
      ids = [rollout.tokens[row, : rollout.length[row]] for row in rows]
      decoded = self.tasks.texts(task, ids)
      texts |= dict(zip(index[rows].tolist(), decoded, strict=True))
    return [texts[i] for i in range(len(held_out.examples))]

  def _score(
    self, task: Task, split: str, answers: Sequence[str]
  ) -> tuple[dict[str, float], dict[str, str]]:
    examples = task.split(split).examples
    return processes.on_first(
      metrics_lib.score,
      [name for name in task.metrics if name not in metrics_lib.OF_PAIR],
      [example["source"] for example in examples],
      answers,
      [example["target"] for example in examples],
      self.comet,
    )

  def _of_pair(
    self,
    task: Task,
    split: str,
    model: structs.LanguageModel,
    params: structs.Params,
    teacher: LoadedModel,
  ) -> tuple[dict[str, float], dict[str, str]]:
    """Scores what the student would draft; returns as `_score`."""
    scores, signatures = {}, {}
    for name in task.metrics:
      if name not in metrics_lib.OF_PAIR:
        continue
      how = self.serving if name == "acceptance" else sampling.GREEDY
      sums_fn = functools.partial(
        drafting.acceptance_sums,
        params,
        teacher.params,
        student=model,
        teacher=teacher.model,
        sampling=how,
        chunk_size=self.chunk_size,
      )
      answers = self._answers_of(teacher, task, split, how)
      scores[name] = 100 * drafting.acceptance(sums_fn, answers)
      signatures[name] = (
        "sum of min(student, teacher) on the teacher's answers|temperature:"
        f"{how.temperature:g}|top_p:{how.top_p:g}"
      )
    return scores, signatures

  def _answers_of(
    self, teacher: LoadedModel, task: Task, split: str, how: sampling.Sampling
  ) -> list[structs.Batch]:
    """Returns the batches of a split, with the teacher's answers."""
    key = task.name, split, how
    if key not in self.answered or self.answered[key][0] is not teacher:
      answer = functools.partial(
        answering.answer,
        teacher.params,
        stop_table=self.stop_table,
        model=teacher.model,
        sampling=how,
        max_new_tokens=task.max_new_tokens,
      )
      self.answered[key] = (
        teacher,
        [
          drafting.to_read(batch, answer(batch))
          for batch in self.eval_batches(task.split(split))
        ],
      )
    return self.answered[key][1]

  def _agreement(
    self,
    task: Task,
    split: str,
    model: structs.LanguageModel,
    params: structs.Params,
    teacher: LoadedModel,
  ) -> dict[str, float]:
    sums_fn = functools.partial(
      agreement_lib.agreement_sums,
      params,
      teacher.params,
      student=model,
      teacher=teacher.model,
      chunk_size=self.chunk_size,
    )
    return agreement_lib.agreement(
      sums_fn, self.eval_batches(task.split(split))
    )


def summarize(
  tasks: Sequence[Task], by_task: Mapping[str, dict[str, float]]
) -> Scores:
  """Returns the scores as in the drawing at the top of this file."""
  if len(tasks) == 1:
    return by_task[tasks[0].name]
  main = [by_task[t.name].get(t.metrics[0]) for t in tasks]
  known = [score for score in main if score is not None]
  if len(known) < len(main):  # Of student and teacher, and there is no teacher.
    return dict(by_task)
  return {"mean": statistics.fmean(known), **by_task}


def score_names(tasks: Sequence[Task]) -> list[str]:
  """Returns the flat names of the scores of answers, the main one first."""
  if len(tasks) == 1:
    return list(tasks[0].metrics)
  return ["mean", *(f"{t.name}_{name}" for t in tasks for name in t.metrics)]


def flatten(scores: Mapping[str, Any]) -> dict[str, float]:
  """Joins names: {"mean": .., "sums": {"accuracy": ..}} has "sums_accuracy"."""
  flat: dict[str, float] = {}
  for name, value in scores.items():
    inner = flatten(value) if isinstance(value, Mapping) else {"": value}
    flat |= {f"{name}_{k}" if k else name: v for k, v in inner.items()}
  return flat
