"""Drafters: the best of a run, and several beside their start."""

import pytest

from skd_jax import records, study
from skd_jax.comparison import compare
from skd_jax.reporting import metric_log
from skd_jax.train import train_and_evaluate
from tests import tiny_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  return tiny_run.finish(tmp_path_factory)


@pytest.mark.slow
def test_a_run_ends_with_its_best_drafter(finished, tmp_path):
  # At this rate the student gets worse: its first validation is its best.
  config = tiny_run.from_finished(
    finished,
    **{
      "seeds": (0,),
      "data.metrics": ("acceptance", "greedy_acceptance", "bleu"),
      "distill.keep_best": 1,
      "distill.best_metric": "acceptance",
      "distill.result": "best",
      "evaluate.num_samples": 0,
      "distill.evaluate_every_steps": 2,
      "distill.learning_rate": 0.3,
      "distill.decay": "constant",
    },
  )
  config.data.test_split = config.data.validation_split
  report = train_and_evaluate(config, tmp_path)
  assert report["main_metric"] == "acceptance"
  assert report["metrics"]["teacher"]["acceptance"] == pytest.approx(100)
  log = metric_log.read_metrics(tmp_path / metric_log.FILE_NAME)
  curve = {
    line["step"]: line["validation_acceptance"]
    for line in log
    if "validation_acceptance" in line
  }
  best = max(curve, key=curve.__getitem__)
  assert list(curve) == [2, 4, 6]
  assert best < 6
  found = report["metrics"]["student"]["acceptance"]
  assert found == pytest.approx(curve[best], rel=1e-4)


@pytest.mark.slow
def test_a_study_of_drafters_has_the_start_as_an_arm(finished, tmp_path):
  config = tiny_run.from_finished(
    finished,
    **{
      "student.path": "",
      "student.fit.num_steps": 2,
      "distill.num_steps": 2,
      "distill.evaluate_every_steps": 2,
      "data.metrics": ("acceptance", "bleu"),
    },
  )
  asked = study.Study(
    name="drafters",
    question="?",
    regimes={"": {}},
    arms={
      "start": study.Arm("sft", {"distill.num_steps": 0}),
      "skd": study.Arm("skd"),
    },
    baselines=("start",),
    seeds=1,
    metric="acceptance",
    stopping="1 seed",
  )
  lines = compare(config, tmp_path, study=asked)
  before = records.find(lines, "student_init", None)["metrics"]
  start, skd = (records.find(lines, name, 0) for name in ("start", "skd"))
  assert start["metrics"] == pytest.approx(before)
  assert start["curve"] == []
  assert skd["score"] == "acceptance"
  assert [step for _, step, _ in skd["curve"]] == [2]
  assert skd["metrics"]["acceptance"] != start["metrics"]["acceptance"]
