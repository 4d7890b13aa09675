"""Scores of a model on held-out data, task by task."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.data.tasks import Task
from skd_jax.decoding import sampling, stopping
from skd_jax.evaluation import answering, evaluator
from skd_jax.models import LoadedModel
from tests import conftest

V = 7
EOS = 6
MODEL = conftest.trigram_model()
PROMPTS = [[2, 3], [4], [5, 2, 1], [3, 3], [1, 5], [0]]
ORDER = [4, 0, 2, 1, 3]  # The example of each row; the last row only pads.


def _padded(batch, index):
  """The batch with other indices; rows of index -1 only pad."""
  index = jnp.asarray(index, jnp.int32)
  return dataclasses.replace(
    batch,
    index=index,
    reference_length=jnp.where(index < 0, 0, batch.reference_length),
  )


def _greedy(logits, prompt, limit):
  sequence = list(prompt)
  while len(sequence) < len(prompt) + limit:
    sequence.append(int(np.argmax(logits(sequence))))
    if sequence[-1] == EOS:
      break
  return sequence[len(prompt) :]


def _batches():
  # As the batches are made by length, the examples come in any order.
  return [
    _padded(conftest.make_batch(PROMPTS[:3], 3), ORDER[:3]),
    _padded(conftest.make_batch(PROMPTS[3:], 3), [*ORDER[3:], -1]),
  ]


def _text(ids):
  return " ".join(map(str, ids))


def _make_evaluator(*tasks):
  """Returns the evaluator of tasks that share their examples' prompts."""
  task_set = types.SimpleNamespace(
    tasks=tasks, texts=lambda task, rows: [_text(row) for row in rows]
  )
  return evaluator.Evaluator(
    tasks=task_set,
    stop_table=stopping.make_stop_table(V, (EOS,)),
    eval_batches=lambda split: split.batches,
    chunk_size=4,
  )


def _make_task(name="only", metrics=("accuracy",), targets=("#### 1",) * 5):
  split = types.SimpleNamespace(
    examples=[{"source": "?", "target": target} for target in targets],
    batches=_batches(),
  )
  # Nothing is asked of the split that is not named.
  return Task(name, 3, 5, (), metrics, validation=None, test=split)


def _expected(params):
  logits = conftest.trigram_logits(params)
  of_example = dict(zip(ORDER, PROMPTS[:5], strict=True))
  return [_text(_greedy(logits, of_example[i], 5)) for i in range(5)]


def test_answers_are_greedy_by_example_and_without_padding():
  params = conftest.trigram_params(V, seed=1)
  task = _make_task()
  answers = _make_evaluator(task).answers(task, "test", MODEL, params)
  assert answers == _expected(params)
  assert len(set(answers)) > 2


def test_one_task_has_flat_scores_and_agreement_with_a_teacher():
  params = conftest.trigram_params(V, seed=1)
  right = _expected(params)
  task = _make_task(targets=[*right[:3], "x", "y"])
  scorer = _make_evaluator(task)
  found = scorer.evaluate("test", MODEL, params)
  assert found.scores == {"accuracy": pytest.approx(60)}
  assert found.answers == {"only": right}
  assert set(found.signatures) == {"accuracy"}
  teacher = LoadedModel(None, MODEL, params)
  found = scorer.evaluate("test", MODEL, params, teacher)
  assert found.scores["accuracy"] == pytest.approx(60)
  assert found.scores["agreement"] == 1
  assert found.scores["kl"] == pytest.approx(0, abs=1e-6)


def test_several_tasks_have_the_mean_of_their_main_scores():
  params = conftest.trigram_params(V, seed=1)
  right = _expected(params)
  tasks = [
    _make_task("a", ("accuracy", "chrf"), right),
    _make_task("b", ("accuracy",), [*right[:1], *"vxyz"]),
  ]
  found = _make_evaluator(*tasks).evaluate("test", MODEL, params)
  assert found.scores == {
    "mean": pytest.approx(60),
    "a": {"accuracy": pytest.approx(100), "chrf": pytest.approx(100)},
    "b": {"accuracy": pytest.approx(20)},
  }
  assert evaluator.flatten(found.scores) == {
    "mean": pytest.approx(60),
    "a_accuracy": pytest.approx(100),
    "a_chrf": pytest.approx(100),
    "b_accuracy": pytest.approx(20),
  }
  assert evaluator.score_names(tasks) == [
    "mean",
    "a_accuracy",
    "a_chrf",
    "b_accuracy",
  ]
  assert evaluator.score_names(tasks[:1]) == ["accuracy", "chrf"]


def test_metrics_of_a_pair_stand_where_they_are_asked_for():
  params = conftest.trigram_params(V, seed=1)
  teacher = LoadedModel(None, MODEL, conftest.trigram_params(V, seed=2))
  metrics = ("acceptance", "accuracy", "greedy_acceptance")
  task = _make_task(metrics=metrics)
  scorer = dataclasses.replace(
    _make_evaluator(task), serving=sampling.Sampling(0.8, 0.9)
  )
  found = scorer.evaluate("test", MODEL, params, teacher)
  assert tuple(found.scores)[:3] == tuple(found.signatures) == metrics
  assert 0 < found.scores["greedy_acceptance"] < 100
  assert found.scores["acceptance"] != found.scores["greedy_acceptance"]
  assert "temperature:0.8|top_p:0.9" in found.signatures["acceptance"]
  assert "temperature:0|" in found.signatures["greedy_acceptance"]
  # Both kinds of answers are kept, and are those of this teacher alone.
  answered = dict(scorer.answered)
  assert len(answered) == 2
  scorer.evaluate("test", MODEL, teacher.params, teacher)
  assert all(scorer.answered[key] is answered[key] for key in answered)
  other = dataclasses.replace(teacher, params=params)
  found = scorer.evaluate("test", MODEL, params, other)
  assert found.scores["acceptance"] == pytest.approx(100)


def test_metrics_of_a_pair_need_a_teacher():
  params = conftest.trigram_params(V, seed=1)
  tasks = [
    _make_task("a", ("acceptance", "accuracy")),
    _make_task("b", ("accuracy",)),
  ]
  found = _make_evaluator(*tasks).evaluate("test", MODEL, params)
  assert {name: list(of_task) for name, of_task in found.scores.items()} == {
    "a": ["accuracy"],
    "b": ["accuracy"],
  }


def test_weights_of_one_model_share_a_compilation():
  task = _make_task()
  scorer = _make_evaluator(task)
  scorer.answers(task, "test", MODEL, conftest.trigram_params(V, seed=1))
  compiled = answering.answer._cache_size()
  scorer.answers(task, "test", MODEL, conftest.trigram_params(V, seed=2))
  _make_evaluator(task).answers(
    task, "test", MODEL, conftest.trigram_params(V, seed=3)
  )
  assert answering.answer._cache_size() == compiled
