"""Which student a run keeps."""

import pytest

from skd_jax import records, study, validation
from skd_jax.comparison import compare
from skd_jax.reporting import metric_log
from skd_jax.train import train_and_evaluate
from tests import tiny_run


def keep(scores, record, saved):
  """Calls KeepBest with {step: score}, in order."""
  for step, score in scores.items():
    found = validation.KeepBest(
      lambda state, step, score=score: {"validation_bleu": score, "other": 1},
      "validation_bleu",
      record,
      saved.append,
    )(f"state {step}", step)
    assert found == {"validation_bleu": score, "other": 1}


def test_the_best_student_is_saved_in_place_of_the_one_before(tmp_path):
  record, saved = tmp_path / "best.json", []
  assert validation.read_best(record) == {}
  keep({2: 10.0, 4: 30.0, 6: 20.0, 8: 30.0}, record, saved)
  assert saved == ["state 2", "state 4"]
  assert validation.read_best(record) == {"step": 4, "score": 30.0}
  # Continued from step 2, and begun anew.
  keep({4: 30.0, 6: 20.0}, record, saved)
  keep({2: 10.0, 4: 5.0}, record, saved)
  assert saved[2:] == ["state 4", "state 2"]
  assert validation.read_best(record) == {"step": 2, "score": 10.0}


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
      "evaluate.chosen_student": "best",
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
  record = tmp_path / "students" / "seed_0.best.json"
  assert validation.read_best(record)["step"] == best
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
