"""Devices of their own for rollouts: the same run as on one mesh.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
    pytest tests/parallel/test_rollout_devices.py

Without eight devices all of it is skipped; check.sh sets the flag.
"""

import dataclasses
import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from skd_jax import preparation, train
from skd_jax.decoding import stopping
from skd_jax.distillation import prepare_distillation
from skd_jax.models import lora
from skd_jax.parallel import rollout_devices, sharding
from skd_jax.training import generation, generator, loop
from tests import tiny_run
from tests.parallel.mesh_pieces import (
  EOS,
  V,
  make_mesh,
  make_pieces,
  needs_eight_devices,
)
from tests.toy_models import EVEN_LLAMA

pytestmark = needs_eight_devices

STEPS = 4
AXES = {"data": 2, "fsdp": 2, "tensor": 1, "rollout_devices": 4}


def test_meshes_share_no_device():
  mesh = sharding.make_mesh(**AXES)
  there = rollout_devices.make_rollout_mesh(**AXES)
  devices = jax.devices()
  assert mesh.devices.ravel().tolist() == devices[:4]
  assert there.devices.ravel().tolist() == devices[4:]
  assert there.shape == {"data": 4, "fsdp": 1, "tensor": 1}
  all_do_both = AXES | {"data": 4, "rollout_devices": 0}
  assert rollout_devices.make_rollout_mesh(**all_do_both) == sharding.make_mesh(
    **all_do_both
  )


@pytest.mark.parametrize("asked", [-1, 3, 8, 10])
def test_devices_that_cannot_be_taken_away_are_an_error(asked):
  axes = AXES | {"tensor": 2, "rollout_devices": asked}
  said = rf"mesh.rollout_devices = {asked}: .* in \[0, 6\]"
  with pytest.raises(ValueError, match=said):
    sharding.make_mesh(**axes)


@pytest.mark.parametrize(
  ("axes", "num_devices", "through_host"),
  [
    ((None, None), 3, False),
    (("data", None), 2, False),
    # Parts that differ: two of two rows, four of one.
    (("data", None), 4, True),
    ((None, "tensor"), 2, True),
  ],
)
def test_parts_go_from_device_to_device_where_they_are_equal(
  axes, num_devices, through_host, monkeypatch
):
  mesh = make_mesh((2, 1, 1))
  there = sharding.make_mesh(
    data=num_devices, fsdp=1, tensor=1, devices=jax.devices()[-num_devices:]
  )
  value = np.arange(8.0).reshape(4, 2)
  x = jax.device_put(value, NamedSharding(mesh, PartitionSpec("data", None)))
  if axes == (None, None):
    x = jax.device_put(value, NamedSharding(mesh, PartitionSpec()))
  target = NamedSharding(there, PartitionSpec(*axes))
  whole = []
  put = jax.device_put
  monkeypatch.setattr(
    jax, "device_put", lambda x, to: whole.append(to) or put(x, to)
  )
  moved = rollout_devices.move(x, target)
  assert (target in whole) == through_host
  assert moved.sharding == target
  np.testing.assert_array_equal(moved, value)
  assert rollout_devices.move(moved, target) is moved


def test_trained_weights_are_gathered_and_move_in_parts():
  mesh = make_mesh((1, 2, 2))
  placed = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
  x = jax.device_put(np.arange(16.0).reshape(4, 4), placed)
  whole = rollout_devices.whole_along_fsdp(placed)
  assert whole.spec == PartitionSpec(None, "tensor")
  both = NamedSharding(mesh, PartitionSpec(("fsdp", "tensor")))
  assert rollout_devices.whole_along_fsdp(both).spec == PartitionSpec(
    ("tensor",)
  )
  there = sharding.make_mesh(
    data=2, fsdp=1, tensor=2, devices=jax.devices()[4:]
  )
  moved = rollout_devices.on_mesh(x, there)
  assert moved.sharding == NamedSharding(there, whole.spec)
  np.testing.assert_array_equal(moved, x)


@pytest.mark.parametrize(
  ("rank", "num_devices"),
  [
    (2, 4),
    *(pytest.param(*x, marks=pytest.mark.slow) for x in ((0, 4), (2, 2))),
  ],
)
def test_responses_are_those_of_one_device(rank, num_devices):
  def make(shape):
    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
      return make_pieces(mesh, EVEN_LLAMA, 24, rank=rank), mesh

  pieces, _ = make((1, 2, 2))
  there = sharding.make_mesh(
    data=num_devices // 2,
    fsdp=1,
    tensor=2,
    devices=jax.devices()[-num_devices:],
  )
  student, teacher = (
    dataclasses.replace(
      model, params=rollout_devices.on_mesh(model.params, there)
    )
    for model in (pieces.student, pieces.teacher)
  )
  rollout_fn = generation.make_rollout_fn(
    pieces.spec,
    student,
    teacher,
    stopping.make_stop_table(V, (EOS,)),
    mesh=there,
    dtype=jnp.float32,
  )
  generates = generator.Generator(
    pieces.spec,
    rollout_fn,
    there,
    lora.split(student.params)[1],
    teacher,
  )
  found = generates.begin(pieces.student.params, None, pieces.batch, 0, 0)
  assert found.tokens.sharding.device_set == {*there.devices.ravel()}
  one, mesh = make((1, 1, 1))
  with jax.set_mesh(mesh):
    expected = one.generate()
  np.testing.assert_array_equal(found.tokens, expected.tokens)
  np.testing.assert_array_equal(found.source, expected.source)


def open_pair(factory, mesh, **changes):
  """(experiment, distillation), of models that are not trained."""
  opened = tiny_run.open_untrained(
    factory,
    **{
      "distill.num_steps": STEPS,
      "distill.learning_rate": 0.02,
      "evaluate.num_samples": 1,
      "rollout.max_staleness": 1,
      "rollout.num_draft_tokens": 3,
      **{f"mesh.{axis}": size for axis, size in mesh.items()},
      **changes,
    },
  )
  with jax.set_mesh(opened.mesh):
    teacher, start = (
      preparation.prepare_model(opened, stage)[0]
      for stage in ("teacher", "student_init")
    )
    return opened, prepare_distillation(opened, start, teacher)


def distill(pair, workdir):
  """(trained weights, the tokens of each step)."""
  opened, distillation = pair
  tokens, record = [], loop.TrainLoop.record

  def recorded(self, state, metrics, seconds, stats, inputs):
    tokens.append(jax.device_get(inputs[1].tokens))
    return record(self, state, metrics, seconds, stats, inputs)

  with pytest.MonkeyPatch.context() as patch, jax.set_mesh(opened.mesh):
    patch.setattr(loop.TrainLoop, "record", recorded)
    opened = dataclasses.replace(opened, workdir=workdir)
    student, _ = train.distill(opened, distillation, 0)
    return jax.device_get(student.params), tokens


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
  return open_pair(tmp_path_factory, AXES)


@pytest.fixture(scope="module")
def whole(apart, tmp_path_factory):
  return distill(apart, tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
def test_run_is_that_of_one_mesh(apart, whole, tmp_path_factory, tmp_path):
  one_mesh = open_pair(tmp_path_factory, {"data": 8})
  weights, tokens = distill(one_mesh, tmp_path)
  assert len(tokens) == STEPS
  for found, expected in zip(whole[1], tokens, strict=True):
    np.testing.assert_array_equal(found, expected)
  # Of a step of up to 0.02 in each weight.
  close = functools.partial(np.testing.assert_allclose, atol=1e-3, rtol=1e-3)
  jax.tree.map(close, whole[0], weights)
  there = apart[1].generator.mesh
  assert not {*there.devices.ravel()} & {*apart[0].mesh.devices.ravel()}


def interrupt(pair, workdir):
  """Stops it by a signal in its second step."""
  trim_and_count, calls = train.trim_and_count, []

  def interrupted(*arguments):
    calls.append(len(calls))
    if len(calls) == 2:
      os.kill(os.getpid(), signal.SIGINT)
    return trim_and_count(*arguments)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "trim_and_count", interrupted)
    with pytest.raises(loop.Interrupted, match="step 2 of 'distill_seed_0'"):
      distill(pair, workdir)


def test_weights_that_leave_are_whole_along_fsdp(apart):
  opened, distillation = apart
  with jax.set_mesh(opened.mesh):
    state = distillation.train.init(distillation.start.params)
  kept, trained = (
    {
      name
      for x in jax.tree.leaves(params)
      for name in jax.tree.leaves([*x.sharding.spec])
    }
    for params in (state.older.params, state.params)
  )
  assert "fsdp" in trained
  assert "fsdp" not in kept


def test_stopped_run_ends_as_a_whole_one(apart, whole, tmp_path):
  interrupt(apart, tmp_path)
  weights, _ = distill(apart, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, weights, whole[0])


@pytest.mark.slow
def test_stopped_run_goes_on_with_another_split(
  apart, whole, tmp_path_factory, tmp_path
):
  interrupt(apart, tmp_path)
  one_mesh = open_pair(
    tmp_path_factory,
    {"data": 4, "tensor": 2},
    **{"data.dir": apart[0].config.data.dir},
  )
  weights, tokens = distill(one_mesh, tmp_path)
  np.testing.assert_array_equal(tokens, whole[1][2:])
  close = functools.partial(np.testing.assert_allclose, atol=1e-3, rtol=1e-3)
  jax.tree.map(close, weights, whole[0])


@pytest.mark.slow
def test_draft_length_is_measured_where_it_drafts(tmp_path_factory):
  _, distillation = open_pair(
    tmp_path_factory, AXES, **{"rollout.num_draft_tokens": 0}
  )
  assert distillation.spec.num_draft_tokens >= 1
