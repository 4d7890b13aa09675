"""Stages: taken when they are finished, refused when they are stale."""

import pytest

from skd_jax import config as config_lib
from skd_jax import stages

_NEEDS = {"data.kind": "embedded", "distill.num_steps": 10}


def test_new_stage_has_no_result(tmp_path):
  assert stages.begin(tmp_path, "teacher", _NEEDS) is None


def test_unfinished_stage_is_run_again(tmp_path):
  stages.begin(tmp_path, "teacher", _NEEDS)
  assert stages.begin(tmp_path, "teacher", _NEEDS) is None


def test_finished_stage_is_reused(tmp_path):
  stages.begin(tmp_path, "teacher", _NEEDS)
  stages.finish(tmp_path, "teacher", _NEEDS, {"seconds_train": 2.5})
  assert stages.begin(tmp_path, "teacher", dict(_NEEDS)) == {
    "seconds_train": 2.5
  }
  assert stages.begin(tmp_path, "student_init", _NEEDS) is None


@pytest.mark.parametrize("is_finished", [True, False])
def test_changed_setting_is_stale(tmp_path, is_finished):
  stages.begin(tmp_path, "teacher", _NEEDS)
  if is_finished:
    stages.finish(tmp_path, "teacher", _NEEDS, {})
  with pytest.raises(ValueError) as caught:
    stages.begin(tmp_path, "teacher", _NEEDS | {"distill.num_steps": 20})
  message = str(caught.value)
  assert "stage 'teacher'" in message
  assert "distill.num_steps was 10 and is 20" in message
  assert "data.kind" not in message
  assert "--workdir" in message
  assert "\n" not in message
  # The record is as it was: undoing the change is a way out.
  result = {} if is_finished else None
  assert stages.begin(tmp_path, "teacher", _NEEDS) == result


def test_added_and_removed_settings_are_stale(tmp_path):
  stages.begin(tmp_path, "teacher", _NEEDS)
  with pytest.raises(ValueError, match=r"seed was None and is 1"):
    stages.begin(tmp_path, "teacher", _NEEDS | {"seed": 1})
  with pytest.raises(ValueError, match=r"data.kind was 'embedded' and is None"):
    stages.begin(tmp_path, "teacher", {"distill.num_steps": 10})


def test_cadence_settings_do_not_make_a_stage_stale(tmp_path):
  config = config_lib.default_config()
  sections = ("teacher", "distill", "seed")
  stages.begin(tmp_path, "distill", stages.settings(config, *sections))
  for fit in (config.teacher.fit, config.distill):
    fit.log_every_steps += 1
    fit.checkpoint_every_steps += 1
    fit.evaluate_every_steps += 1
  now = stages.settings(config, *sections)
  assert stages.begin(tmp_path, "distill", now) is None
  config.teacher.fit.num_steps += 1
  with pytest.raises(ValueError, match=r"teacher\.fit\.num_steps was 1000"):
    stages.begin(tmp_path, "distill", stages.settings(config, *sections))


def test_settings_are_flat_and_as_json_reads_them_back(tmp_path):
  config = config_lib.default_config()
  config.data.stop_strings = ("Q:",)
  flat = stages.settings(config, "data", "teacher.fit", "seed")
  assert flat["data.stop_strings"] == ["Q:"]
  assert flat["teacher.fit.num_steps"] == 1000
  assert flat["seed"] == 0
  assert not [
    name for name in flat if not name.startswith(("data", "teac", "s"))
  ]
  stages.begin(tmp_path, "tokenizer", flat)
  assert stages.begin(tmp_path, "tokenizer", flat) is None
