"""A failed step comes back from disk as it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.losses import cached
from skd_jax.parallel import sharding
from skd_jax.reporting import manifest
from skd_jax.training import failed_step, generation
from tests import damage
from tests.conftest import make_batch

_PARAMS = {"w": jnp.arange(6.0).reshape(2, 3), "layers": {"0": jnp.ones(2)}}
_BATCH = make_batch([[3], [1, 2, 5]], references=[[7, 8, 2], [9, 2]])
_MESH = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])


def _step(number=3, hidden=None):
  rollout = generation.reference_rollout(_BATCH)
  rollout = dataclasses.replace(rollout, teacher_hidden=hidden)
  return failed_step.FailedStep(number, _PARAMS, _BATCH, rollout)


def _assert_kept(path, step):
  found = failed_step.read(path, _PARAMS, _MESH)
  assert found.step == step.step
  ours, theirs = (
    (found.params, found.batch, found.rollout),
    (step.params, step.batch, step.rollout),
  )
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  same = jax.tree.map(lambda a, b: a.dtype == b.dtype, ours, theirs)
  assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("has_teacher", [True, False])
def test_failed_step_comes_back_as_it_was(tmp_path, has_teacher):
  hidden = jnp.full((2, 3, 4), 0.1, jnp.bfloat16) if has_teacher else None
  failed_step.save(tmp_path / "s", _step(hidden=hidden))
  _assert_kept(tmp_path / "s", _step(hidden=hidden))


def test_step_from_a_cached_teacher_comes_back_as_it_was(tmp_path):
  step = _step()
  logits = jnp.arange(30.0).reshape(2, 3, 5)
  top = cached.top_of_logits(logits, 2)
  rollout = dataclasses.replace(step.rollout, teacher_top=top)
  step = dataclasses.replace(step, rollout=rollout)
  failed_step.save(tmp_path / "s", step)
  _assert_kept(tmp_path / "s", step)


def test_later_failed_step_takes_the_place_of_an_earlier_one(tmp_path):
  for number in (7, 3):  # As a run that went on from an earlier checkpoint.
    failed_step.save(tmp_path / "s", _step(number))
  _assert_kept(tmp_path / "s", _step(3))


def test_damaged_failed_step_is_named(tmp_path):
  failed_step.save(tmp_path / "s", _step())
  files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
  data = [path for path in files if path.name != manifest.NAME]
  damage.KINDS["flipped"](max(data, key=lambda path: path.stat().st_size))
  with pytest.raises(ValueError, match="its content is not what was written"):
    failed_step.read(tmp_path / "s", _PARAMS, _MESH)
