"""A run whose student is trained by adapters, from start to export."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from skd_jax import (
  comparison,
  comparison_runs,
  experiment,
  methods,
  models,
  preparation,
  student_export,
  study,
  train,
)
from skd_jax.distillation import prepare_distillation
from skd_jax.models import lora
from skd_jax.training import generation, loop
from tests import tiny_run

pytestmark = pytest.mark.slow

_VALUE = "base_model.model.model.layers.0.self_attn.v_proj"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """A workdir with an untrained teacher and student, to start from."""
  opened = tiny_run.open_untrained(tmp_path_factory)
  with jax.set_mesh(opened.mesh):
    for stage in ("teacher", "student_init"):
      preparation.prepare_model(opened, stage)
  return opened.workdir


def make_config(start):
  return tiny_run.from_finished(
    start,
    **{
      "seeds": (0,),
      "student.lora.rank": 2,
      "distill.num_steps": 4,
      "distill.learning_rate": 0.05,
      "distill.evaluate_every_steps": 4,
    },
  )


def distill(config, workdir):
  """Runs the first seed alone, or continues it."""
  opened = experiment.open_experiment(config, workdir)
  with jax.set_mesh(opened.mesh):
    teacher, start = (
      preparation.prepare_model(opened, stage)[0]
      for stage in ("teacher", "student_init")
    )
    prepared = prepare_distillation(opened, start, teacher)
    return train.distill(opened, prepared, 0)[0]


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("finished")
  config = make_config(start)
  train.train_and_evaluate(config, workdir)
  return config, workdir


def adapters_of(workdir):
  return safetensors.load_file(
    workdir / "students" / "seed_0" / "adapter_model.safetensors"
  )


def test_export_is_the_base_with_its_adapters_merged(start, finished):
  _, workdir = finished
  base = models.load_model(start / "student_init", dtype="float32")
  ours = models.load_model(workdir / "export", dtype="float32")
  adapters = adapters_of(workdir)
  a, b = (adapters[f"{_VALUE}.lora_{part}.weight"] for part in "AB")
  assert np.abs(b).max() > 0
  before, after = (
    model.params["layers"]["0"]["attention"]["value"]["kernel"]
    for model in (base, ours)
  )
  np.testing.assert_allclose(
    np.asarray(after), before + 16.0 / 2 * (b @ a).T, rtol=1e-4, atol=1e-6
  )
  np.testing.assert_array_equal(
    ours.params["embedding"], base.params["embedding"]
  )
  report = json.loads((workdir / "report.json").read_text("utf-8"))
  assert report["probe"] is not None


def test_card_counts_the_weights_of_the_merged_model(start, tmp_path):
  opened = experiment.open_experiment(make_config(start), tmp_path)
  found = {"metrics": {"bleu": 1.0, "chrf": 1.0}, "signature": {}}
  with jax.set_mesh(opened.mesh):
    student, _ = preparation.prepare_model(opened, "student_init")
    student_export.export_student(
      opened, student, {"student": found}, seed=0, command=""
    )
  export = tmp_path / "export"
  tensors = safetensors.load_file(export / "model.safetensors")
  count = sum(x.size for x in tensors.values())
  card = (export / "README.md").read_text("utf-8")
  assert f" model of {count:,} weights." in card


def test_arms_of_a_comparison_have_adapters_of_their_own(
  start, tmp_path, monkeypatch
):
  ranks = {}

  def distill(opened, distillation, _):
    params = distillation.start.params
    value = params["layers"]["0"]["attention"]["value"]["kernel"]
    is_adapted = lora.is_adapted(value)
    ranks[opened.config.student.lora.rank] = (
      value.a.shape[1] if is_adapted else 0
    )
    return distillation.start, loop.Totals().to_plain()

  scored = {"metrics": {}, "signature": {}}
  monkeypatch.setattr(train, "score", lambda *_: scored)
  monkeypatch.setattr(train, "distill", distill)
  monkeypatch.setattr(comparison_runs, "_measure", lambda *_: scored)
  asked = study.Study(
    name="adapters",
    question="",
    regimes={"": {}},
    arms={
      str(rank): study.Arm("skd", {"student.lora.rank": rank})
      for rank in (0, 2, 3)
    },
    baselines=["0"],
    seeds=1,
    metric="bleu",
    stopping="",
  )
  comparison.compare(make_config(start), tmp_path, study=asked)
  assert ranks == {0: 0, 2: 2, 3: 3}


def test_finished_run_is_read_back_and_not_repeated(finished, monkeypatch):
  config, workdir = finished

  def refuse(*_):
    raise AssertionError("the stage is run")

  monkeypatch.setattr(train, "_distillation_loop", refuse)
  train.train_and_evaluate(config, workdir)
  with pytest.raises(ValueError, match=r"stale: student\.lora\.rank was 2 and"):
    train.train_and_evaluate(
      methods.change(config, {"student.lora.rank": 4}), workdir
    )


def test_stopped_run_goes_on_to_the_same_adapters(
  finished, tmp_path, monkeypatch
):
  config, whole = finished
  calls = []

  def interrupted(*arguments):
    calls.append(len(calls))
    if len(calls) == 2:
      os.kill(os.getpid(), signal.SIGINT)
    return generate(*arguments)

  generate = generation.generate_responses
  with monkeypatch.context() as patch:
    patch.setattr(generation, "generate_responses", interrupted)
    with pytest.raises(loop.Interrupted, match="step 2 of 'distill_seed_0'"):
      distill(config, tmp_path)
  student = distill(config, tmp_path)
  ours, undisturbed = adapters_of(tmp_path), adapters_of(whole)
  assert ours.keys() == undisturbed.keys()
  # Each start compiles for itself; tests/training/test_adapters.py compares bit
  # for bit. A step moves by 0.05.
  for name, value in undisturbed.items():
    np.testing.assert_allclose(ours[name], value, atol=1e-4)
  value = student.params["layers"]["0"]["attention"]["value"]["kernel"]
  np.testing.assert_array_equal(value.b, ours[f"{_VALUE}.lora_B.weight"].T)
