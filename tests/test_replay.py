"""A run that fails keeps its step; the command line takes it again."""

import hashlib

import pytest

from skd_jax import config_checks, experiment, methods, train
from tests import command_lines, tiny_run

replay = command_lines.load("skd_jax.replay")


def _contents(folder):
  return {
    path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob("*")
    if path.is_file()
  }


def _fail(config, workdir, stage):
  """Runs until the weights have become too large; returns what is kept."""
  with pytest.raises(
    FloatingPointError, match=f"{stage}, step [23]: "
  ) as error:
    train.train_and_evaluate(config, workdir)
  kept = workdir / "failed_steps" / stage
  assert f"`python -m skd_jax.replay {kept}` shows" in str(error.value)
  return kept


def _assert_shown_and_nothing_changed(kept, stage):
  workdir = kept.parent.parent
  before = _contents(workdir)
  first, *examples, last = replay.replay(kept).splitlines()
  assert first.startswith(f"{stage}, step ")
  assert "nan" in first
  assert sum("  example " in line for line in examples) == 8
  assert any(line.startswith("  gradient of layers") for line in examples)
  assert last.startswith("The first that is not finite: ")
  assert _contents(workdir) == before


@pytest.fixture
def config(tmp_path):
  """Of a run whose models are hardly trained."""
  (tmp_path / "data").mkdir()
  tiny_run.write_data(tmp_path / "data")
  result = tiny_run.config(tmp_path / "data")
  for model in (result.teacher, result.student):
    model.fit.num_steps = 2
  result.distill.evaluate_every_steps = 0
  return result


@pytest.mark.slow
@pytest.mark.parametrize(
  ("section", "stage"),
  [("teacher.fit", "teacher"), ("distill", "distill_seed_0")],
)
def test_failed_step_of_a_stage_can_be_taken_again(
  config, tmp_path, section, stage
):
  changes = {f"{section}.learning_rate": 1e38, f"{section}.num_steps": 6}
  config = methods.change(config, changes)
  kept = _fail(config, tmp_path / "w", stage)
  _assert_shown_and_nothing_changed(kept, stage)


def test_step_is_taken_again_after_the_time_its_run_had(
  config, tmp_path, monkeypatch
):
  class Opened(Exception):
    pass

  def opened(config, _):
    config_checks.check_config(config)
    raise Opened

  kept = tmp_path / "w" / "failed_steps" / "distill_seed_0"
  kept.mkdir(parents=True)
  over = methods.change(config, {"must_save_by": "2020-01-01"})
  experiment.write_config(tmp_path / "w", over)
  monkeypatch.setattr(experiment, "read_experiment", opened)
  with pytest.raises(Opened):
    replay.replay(kept)


@pytest.mark.parametrize("name", ["w", "w/failed_steps/distill_seed_0"])
def test_folder_that_is_no_failed_step_is_refused(tmp_path, name):
  (tmp_path / "w").mkdir()
  with pytest.raises(ValueError, match="must be WORKDIR/failed_steps/STAGE"):
    replay.replay(tmp_path / name)
