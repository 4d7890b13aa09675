"""What is saved comes back as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import structs
from skd_jax.training import checkpoint


def _state(step=0, width=3, offset=0.0):
  return structs.TrainState(
    step=jnp.int32(step),
    params={"w": jnp.arange(width, dtype=jnp.float32) / 3 + offset},
    opt_state=(
      {"mu": jnp.full(width, 0.1 + offset, jnp.bfloat16)},
      jnp.int32(step),
    ),
  )


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
