"""What is saved comes back as it was."""

import dataclasses
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from skd_jax import structs
from skd_jax.reporting import manifest
from skd_jax.training import checkpoint
from skd_jax.training.cadence import Kept
from tests import damage


def _state(step=0, width=3, offset=0.0):
  return structs.TrainState(
    step=jnp.int32(step),
    params={"w": jnp.arange(width, dtype=jnp.float32) / 3 + offset},
    opt_state=(
      {"mu": jnp.full(width, 0.1 + offset, jnp.bfloat16)},
      jnp.int32(step),
    ),
  )


def _save(path, *steps):
  with checkpoint.open_manager(path) as manager:
    for step in steps:
      checkpoint.save(manager, _state(step, offset=step), {"at": step})


def _assert_restored(path, step):
  with checkpoint.open_manager(path) as manager:
    state, data = checkpoint.restore(manager, _state())
  assert data == {"at": step}
  jax.tree.map(
    np.testing.assert_array_equal, state, _state(step, offset=float(step))
  )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  """A folder with the checkpoints of steps 1 and 2; not to be changed."""
  path = tmp_path_factory.mktemp("two") / "c"
  _save(path, 1, 2)
  return path


@pytest.fixture
def copy(two, tmp_path):
  """A copy of it, to be changed."""
  return shutil.copytree(two, tmp_path / "c")


def test_older_weights_are_saved_where_a_state_has_them(tmp_path):
  older = structs.OlderWeights({"w": jnp.ones(3, jnp.bfloat16)}, jnp.ones(2))
  with_older = dataclasses.replace(_state(step=7), older=older)
  for name, state in (("with", with_older), ("without", _state(step=7))):
    with checkpoint.open_manager(tmp_path / name) as manager:
      checkpoint.save(manager, state, {})
    like = jax.tree.map(jnp.zeros_like, state)
    with checkpoint.open_manager(tmp_path / name) as manager:
      restored, _ = checkpoint.restore(manager, like)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
  # As those that were written before there was a lag.
  tree = ocp.StandardCheckpointHandler().metadata(
    tmp_path / "without" / "7" / "state"
  )
  assert set(tree.tree) == {"step", "params", "opt_state", "distance"}
  with (
    checkpoint.open_manager(tmp_path / "without") as manager,
    pytest.raises(ValueError, match=r"older\.distance has shape None"),
  ):
    checkpoint.restore(manager, with_older)


def test_state_and_data_position_come_back_bit_for_bit(tmp_path):
  saved = _state(step=7, offset=1.0)
  with checkpoint.open_manager(tmp_path / "c") as manager:
    checkpoint.save(manager, saved, {"batches": {"next": 7}})
  with checkpoint.open_manager(tmp_path / "c") as manager:
    state, data = checkpoint.restore(manager, _state())
  assert data == {"batches": {"next": 7}}
  assert jax.tree.structure(state) == jax.tree.structure(saved)
  for ours, theirs in zip(
    jax.tree.leaves(state), jax.tree.leaves(saved), strict=True
  ):
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_nothing_saved_is_nothing_restored(tmp_path):
  with checkpoint.open_manager(tmp_path / "c") as manager:
    assert checkpoint.restore(manager, _state()) is None


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path):
  with checkpoint.open_manager(tmp_path / "c") as manager:
    for step in (1, 2, 3):
      checkpoint.save(manager, _state(step, offset=step), {"at": step})
  with checkpoint.open_manager(tmp_path / "c") as manager:
    assert manager.all_steps() == [2, 3]
    state, data = checkpoint.restore(manager, _state())
  assert int(state.step) == 3
  assert data == {"at": 3}


def test_another_shape_is_an_error(tmp_path):
  with checkpoint.open_manager(tmp_path / "c") as manager:
    checkpoint.save(manager, _state(step=1), {})
  with (
    checkpoint.open_manager(tmp_path / "c") as manager,
    pytest.raises(ValueError, match=r"shape \(3,\), must be \(4,\)$"),
  ):
    checkpoint.restore(manager, _state(width=4))


@pytest.mark.parametrize("kind", damage.KINDS)
def test_any_damaged_file_is_named_and_the_one_before_is_used(
  two, tmp_path, caplog, kind
):
  names = damage.files_of(two / "2")
  assert len(names) > 10
  for number, name in enumerate(names):
    path = shutil.copytree(two, tmp_path / str(number))
    damage.KINDS[kind](path / "2" / name)
    caplog.clear()
    if name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
      _assert_restored(path, 2)
      continue
    _assert_restored(path, 1)
    said = caplog.text
    # A manifest with a flipped bit accuses one of the others.
    is_accuser = kind == "flipped" and name == manifest.NAME
    named = path / "2" / ("" if is_accuser else name)
    # That one is deleted is all that there is to say of a manifest.
    if (kind, name) == ("deleted", manifest.NAME):
      named = f"{path / '2'}: has no manifest"
    assert str(named) in said
    assert "of step 2 is now 2.set_aside; that of step 1 is used" in said


@pytest.mark.parametrize("kind", damage.KINDS)
def test_step_that_was_set_aside_is_saved_again(copy, caplog, kind):
  for _ in range(2):
    damage.KINDS[kind](copy / "2" / "state" / "manifest.ocdbt")
    _assert_restored(copy, 1)
    assert (copy / "2.set_aside").is_dir()
    _save(copy, 2)
    caplog.clear()
    _assert_restored(copy, 2)
    assert not _warnings(caplog)


def _warnings(caplog):
  return [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_without_a_whole_checkpoint_nothing_is_restored(copy):
  for step, name in ((1, "data/metadata"), (2, "state/_METADATA")):
    damage.KINDS["flipped"](copy / str(step) / name)
  before = damage.files_of(copy)
  with (
    pytest.raises(ValueError, match=f"^no checkpoint in {copy} can be") as said,
    checkpoint.open_manager(copy),
  ):
    pass
  for path in (copy / "1/data/metadata", copy / "2/state/_METADATA"):
    assert f"{path}: its content is not what was written" in str(said.value)
  assert f"or delete {copy} to begin" in str(said.value)
  assert "\n" not in str(said.value)
  assert damage.files_of(copy) == before


def test_unverified_checkpoint_is_used_where_there_is_no_other(copy, caplog):
  (copy / "2" / manifest.NAME).unlink()
  (copy / "1" / manifest.NAME).unlink()
  _assert_restored(copy, 2)
  assert f"{copy / '2'}: has no manifest: it is used unverified" in caplog.text


def test_verified_checkpoint_is_used_before_a_newer_unverified_one(
  copy, caplog
):
  (copy / "2" / manifest.NAME).unlink()
  _assert_restored(copy, 1)
  assert f"{copy / '2'}: has no manifest. The checkpoint of step 2" in (
    caplog.text
  )


def test_no_checkpoint_counts_without_its_manifest(
  tmp_path, monkeypatch, caplog
):
  _save(tmp_path / "c", 1)

  def fail(*_, **__):
    raise OSError("killed")

  with monkeypatch.context() as patch:
    patch.setattr(manifest, "write", fail)
    with pytest.raises(OSError, match="killed"):
      _save(tmp_path / "c", 2)
  caplog.clear()
  _assert_restored(tmp_path / "c", 1)
  assert not _warnings(caplog)
  _save(tmp_path / "c", 2)
  _assert_restored(tmp_path / "c", 2)


@pytest.fixture
def fail_to_write(monkeypatch):
  """fail_to_write(TIMES): the disk is full for so many checkpoints."""
  write = manifest.write
  monkeypatch.setattr(checkpoint, "RETRY_SECONDS", (0.0, 0.0))

  def fail(times):
    left = iter(range(times))

    def write_or_fail(*arguments, **settings):
      if next(left, None) is not None:
        raise OSError(28, "No space left on device")
      write(*arguments, **settings)

    monkeypatch.setattr(manifest, "write", write_or_fail)

  return fail


def test_failed_save_is_said_and_tried_again(tmp_path, fail_to_write, caplog):
  fail_to_write(2)
  with checkpoint.open_manager(tmp_path / "c") as manager:
    checkpoint.save(manager, _state(1, offset=1), {"at": 1}, waits=True)
    assert manager.all_steps() == [1]
  said = [record.getMessage() for record in _warnings(caplog)]
  assert len([text for text in said if "No space left on" in text]) == 2
  _assert_restored(tmp_path / "c", 1)


def test_save_that_fails_in_the_background_is_made_up_for_by_the_next(
  tmp_path, fail_to_write
):
  fail_to_write(1)
  _save(tmp_path / "c", 1, 2)
  # What is left of the first takes no room any more.
  assert [path.name for path in (tmp_path / "c").iterdir()] == ["2"]
  _assert_restored(tmp_path / "c", 2)


def test_save_that_keeps_failing_ends_the_run_and_keeps_the_one_before(
  tmp_path, fail_to_write
):
  _save(tmp_path / "c", 1)
  fail_to_write(3)
  with (
    pytest.raises(OSError, match="No space left on device"),
    checkpoint.open_manager(tmp_path / "c") as manager,
  ):
    checkpoint.save(manager, _state(2, offset=2), {"at": 2}, waits=True)
  _assert_restored(tmp_path / "c", 1)
  _save(tmp_path / "c", 2)
  _assert_restored(tmp_path / "c", 2)


_BEST = Kept(last=1, best=2)


def _save_scored(path, scores, kept=_BEST):
  with checkpoint.open_manager(path, kept) as manager:
    for step, score in scores.items():
      state = _state(step, offset=step)
      checkpoint.save(manager, state, {"at": step}, score=score)


def _best(path, kept=_BEST):
  with checkpoint.open_manager(path, kept) as manager:
    return int(checkpoint.restore_best(manager, _state()).step)


def test_best_are_kept_beside_the_last(tmp_path):
  _save_scored(tmp_path, {1: 3.0, 2: 9.0, 3: None})
  _save_scored(tmp_path, {4: 5.0, 5: 1.0, 6: None})
  with checkpoint.open_manager(tmp_path, _BEST) as manager:
    assert manager.all_steps() == [2, 4, 6]
  assert _best(tmp_path) == 2
  _assert_restored(tmp_path, 6)  # A run goes on from the last.
  _save_scored(tmp_path, {7: 9.0})  # Of equal ones, the newest.
  assert _best(tmp_path) == 7


def test_last_few_are_kept_where_none_is_scored(tmp_path):
  _save_scored(tmp_path, {1: 9.0, 2: 3.0, 3: 1.0, 4: 0.0}, Kept(last=3))
  with checkpoint.open_manager(tmp_path) as manager:
    assert manager.all_steps() == [2, 3, 4]
  with pytest.raises(ValueError, match="no checkpoint has a score"):
    _best(tmp_path)


@pytest.mark.parametrize("name", ["metrics/metrics", "data/metadata"])
def test_best_that_is_damaged_is_named(tmp_path, name):
  _save_scored(tmp_path, {1: 9.0, 2: 3.0, 3: None})
  damage.KINDS["flipped"](tmp_path / "1" / name)
  with pytest.raises(ValueError, match=f"^{tmp_path / '1' / name}: its conte"):
    _best(tmp_path)
