"""A stage under way goes on with other settings of its training, if asked."""

import pytest

from skd_jax import stage_changes, stages

_KEY = {"distill.learning_rate": 1e-3, "data.kind": "embedded"}
_LOWER = {**_KEY, "distill.learning_rate": 1e-4}


@pytest.fixture
def workdir(tmp_path):
  """A workdir in which `distill_seed_0` is at step 40."""

  def stop():
    (tmp_path / "checkpoints" / "distill_seed_0" / "40").mkdir(parents=True)
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    stages.cached(tmp_path, "distill_seed_0", _KEY, stop)
  return tmp_path


def test_learning_rate_of_a_stage_under_way_may_change(workdir):
  keys = {"distill_seed_0": _LOWER, "distill_seed_1": _LOWER}
  with pytest.raises(ValueError, match="is stale"):
    stages.check_fresh(workdir, keys)
  stage_changes.accept(workdir, keys)
  stages.check_fresh(workdir, keys)
  (change,) = stage_changes.read(workdir)
  assert change == {
    "stage": "distill_seed_0",
    "step": 40,
    "changed": {"distill.learning_rate": [1e-3, 1e-4]},
  }
  # Nothing more to change, and again another rate.
  stage_changes.accept(workdir, keys)
  stage_changes.accept(workdir, {"distill_seed_0": _KEY})
  assert len(stage_changes.read(workdir)) == 2


def test_data_of_a_stage_may_not_change(workdir):
  keys = {"distill_seed_0": {**_LOWER, "data.kind": "arithmetic"}}
  stage_changes.accept(workdir, keys)
  with pytest.raises(ValueError, match=r"data\.kind was 'embedded'"):
    stages.check_fresh(workdir, keys)
  assert not stage_changes.read(workdir)


def test_finished_stage_may_not_change_and_then_none_does(workdir):
  stages.cached(workdir, "teacher", _KEY, lambda: {"tokens": 1})
  before = (workdir / "stages" / "distill_seed_0.json").read_text()
  keys = {"distill_seed_0": _LOWER, "teacher": _LOWER}
  stage_changes.accept(workdir, keys)
  with pytest.raises(ValueError, match="stage 'teacher'"):
    stages.check_fresh(workdir, {"teacher": _LOWER})
  assert (workdir / "stages" / "distill_seed_0.json").read_text() == before


def test_changes_are_of_training_rollout_and_loss_alone():
  allowed = (
    "distill.learning_rate",
    "teacher.fit.num_steps",
    "distill.max_skipped_steps",
    "rollout.threshold",
    "loss.divergence",
  )
  refused = ("distill.batch_size", "student.num_layers", "data.dir", "seed")
  # A checkpoint has older weights, or it has none.
  refused += ("rollout.max_staleness",)
  assert all(stage_changes.may_change(field, 1, 2) for field in allowed)
  assert not any(stage_changes.may_change(field, 1, 2) for field in refused)


def test_schedule_by_distance_is_neither_taken_up_nor_left_under_way():
  def may_change(before, now):
    return stage_changes.may_change("rollout.threshold_schedule", before, now)

  assert may_change("constant", "linear")
  assert not may_change("constant", "distance")
  assert not may_change("distance", "linear")


def test_draft_length_is_measured_again_with_other_settings(workdir):
  for key, found in ((_KEY, 3), (_LOWER, 5)):
    measured = stages.cached(
      workdir, "draft_length", key, lambda found=found: {"length": found}
    )
    assert measured == {"length": found}
