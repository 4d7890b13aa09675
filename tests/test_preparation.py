"""The student's start: layers of its teacher, and a short recovery."""

import os
import signal

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from skd_jax import experiment, methods, preparation, stages
from skd_jax.training import loop, sft
from tests import tiny_run

FIELD = "student.layers_of_teacher"


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
  """Returns the config of a teacher of three layers, with changes."""
  data = tmp_path_factory.mktemp("data")
  tiny_run.write_data(data)

  def make(**changes):
    config = methods.change(
      tiny_run.config(data),
      {
        "teacher.num_layers": 3,
        "teacher.fit.num_steps": 0,
        "student.fit.num_steps": 0,
        FIELD: (0, 2),
      },
    )
    return methods.change(config, changes)

  return make


def prepare(config, workdir):
  """Opens a run up to the student's start; returns teacher and start."""
  opened = experiment.open_experiment(config, workdir)
  with jax.set_mesh(opened.mesh):
    return [
      preparation.prepare_model(opened, stage)[0]
      for stage in ("teacher", "student_init")
    ]


@pytest.fixture(scope="module")
def finished(make_config, tmp_path_factory):
  """The workdir of a run whose student starts as two layers."""
  workdir = tmp_path_factory.mktemp("finished")
  prepare(make_config(), workdir)
  return workdir


def tensors_of(folder):
  return safetensors.load_file(folder / "model.safetensors")


def assert_layers_are(start, teacher, layers):
  """Two folders: the first holds these layers of the second, and no other."""
  ours, theirs = tensors_of(start), tensors_of(teacher)
  expected = {
    name: name for name in theirs if not name.startswith("model.layers.")
  }
  for new, old in enumerate(layers):
    prefix = f"model.layers.{old}."
    expected |= {
      name.replace(prefix, f"model.layers.{new}."): name
      for name in theirs
      if name.startswith(prefix)
    }
  assert ours.keys() == expected.keys()
  for name, of_teacher in expected.items():
    np.testing.assert_array_equal(ours[name], theirs[of_teacher])


def test_student_starts_as_layers_of_the_teacher_that_the_run_makes(finished):
  assert_layers_are(finished / "student_init", finished / "teacher", (0, 2))


def test_student_starts_as_layers_of_a_teacher_from_a_folder(
  finished, make_config, tmp_path
):
  config = make_config(
    **{"teacher.path": str(finished / "teacher"), FIELD: (1,)}
  )
  _, start = prepare(config, tmp_path)
  assert start.config.num_layers == 1
  assert len(start.model.init_cache(1, 1)) == 1
  assert_layers_are(tmp_path / "student_init", finished / "teacher", (1,))


@pytest.mark.slow
def test_second_start_continues_the_recovery_to_the_same_weights(
  finished, make_config, tmp_path, monkeypatch
):
  config = make_config(
    **{
      "teacher.path": str(finished / "teacher"),
      FIELD: (1,),
      "student.fit.num_steps": 4,
      "student.fit.checkpoint_every_steps": 1,
    }
  )
  prepare(config, tmp_path / "undisturbed")
  calls = []

  def interrupted(batch):
    calls.append(len(calls))
    if len(calls) == 2:
      os.kill(os.getpid(), signal.SIGINT)
    return reference_rollout(batch)

  reference_rollout = sft.generation.reference_rollout
  with monkeypatch.context() as patch:
    patch.setattr(sft.generation, "reference_rollout", interrupted)
    with pytest.raises(loop.Interrupted, match="step 2 of 'student_init'"):
      prepare(config, tmp_path / "stopped")
  prepare(config, tmp_path / "stopped")
  ours, whole = (
    tensors_of(tmp_path / name / "student_init")
    for name in ("stopped", "undisturbed")
  )
  for name, array in whole.items():
    np.testing.assert_array_equal(ours[name], array)
  name, other = (f"model.layers.{n}.mlp.up_proj.weight" for n in (0, 1))
  assert np.any(ours[name] != tensors_of(finished / "teacher")[other])

  def refuse(*_):
    raise AssertionError("the stage is run")

  monkeypatch.setattr(preparation, "_fine_tune", refuse)
  prepare(config, tmp_path / "stopped")


@pytest.mark.parametrize(
  ("field", "value"), [("teacher.fit.num_steps", 3), ("teacher.head_dim", 16)]
)
def test_changed_teacher_makes_the_start_stale_where_it_is_of_its_layers(
  finished, make_config, field, value
):
  def keys_of(**changes):
    key = stages.cache_keys(make_config(**changes))["student_init"]
    return {"student_init": key}

  stages.check_fresh(finished, keys_of())
  with pytest.raises(
    ValueError,
    match=rf"'student_init' .* stale: {field} was \d+ and is {value}",
  ):
    stages.check_fresh(finished, keys_of(**{field: value}))
  alone = keys_of(**{FIELD: ()})
  assert keys_of(**{FIELD: (), field: value}) == alone


@pytest.mark.parametrize("field", ["path", "init_path"])
def test_layers_that_the_folder_of_the_teacher_has_not_are_refused_untrained(
  finished, make_config, tmp_path, monkeypatch, field
):
  def refuse(*_):
    raise AssertionError("a model is trained")

  monkeypatch.setattr(preparation, "_fine_tune", refuse)
  config = make_config(
    **{f"teacher.{field}": str(finished / "teacher"), FIELD: (0, 3)}
  )
  with pytest.raises(ValueError) as caught:
    prepare(config, tmp_path)
  assert str(caught.value) == (
    f"{FIELD} = (0, 3): must be increasing layer numbers in [0, 2], one or more"
  )
