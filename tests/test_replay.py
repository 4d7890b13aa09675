"""A run that fails keeps its step; the command line takes it again."""

import hashlib

import pytest

from skd_jax import train
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


def test_failed_fine_tuning_can_be_taken_again(tmp_path):
  (tmp_path / "data").mkdir()
  tiny_run.write_data(tmp_path / "data")
  config = tiny_run.config(tmp_path / "data")
  config.teacher.fit.learning_rate = 1e38
  kept = _fail(config, tmp_path / "w", "teacher")
  _assert_shown_and_nothing_changed(kept, "teacher")


@pytest.mark.slow
def test_failed_distillation_can_be_taken_again(tmp_path, tmp_path_factory):
  finished = tiny_run.finish(tmp_path_factory)
  config = tiny_run.from_finished(finished, **{"distill.learning_rate": 1e38})
  kept = _fail(config, tmp_path / "w", "distill_seed_0")
  _assert_shown_and_nothing_changed(kept, "distill_seed_0")


@pytest.mark.parametrize("name", ["w", "w/failed_steps/distill_seed_0"])
def test_folder_that_is_no_failed_step_is_refused(tmp_path, name):
  (tmp_path / "w").mkdir()
  with pytest.raises(ValueError, match="must be WORKDIR/failed_steps/STAGE"):
    replay.replay(tmp_path / name)
