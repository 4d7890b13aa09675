"""What is known of a pair before distillation, and when it is asked for."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from absl import logging

from skd_jax import builders, experiment, methods, pair, preparation
from skd_jax.decoding import sampling
from skd_jax.models import quantization
from skd_jax.parallel import processes
from skd_jax.reporting import manifest
from skd_jax.training import memory, probe
from tests import tiny_run

FOUND = probe.Probe(
  rule="top_k 2",
  replaced=0.1,
  rows=16,
  mean_length=5.0,
  truncated=0.0,
  outside_top_k=0.0,
  teacher_entropy=1.0,
  teacher_loss=0.5,
  max_entropy=5.7,
  kl=0.1,
  agreement=0.8,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  return tiny_run.finish(tmp_path_factory)


@pytest.fixture
def config(finished):
  """The config of the finished run, from the models that it left."""
  config = tiny_run.config(finished.parent / "data")
  config.teacher.path = str(finished / "teacher")
  config.student.path = str(finished / "student_init")
  return config


@pytest.fixture
def probed(monkeypatch):
  """The batches and keys of the probes that are made; no model is run."""
  calls = []

  def probe_pair(spec, student, teacher, stop_table, batch, keys, **_):
    calls.append(processes.to_host((batch, jax.random.key_data(keys))))
    return FOUND

  monkeypatch.setattr(probe, "probe_pair", probe_pair)
  return calls


def start(opened):
  spec = builders.generation_spec(
    opened.config, max_new_tokens=16, num_draft_tokens=3
  )
  with jax.set_mesh(opened.mesh):
    return pair.probe_start(opened, spec, None, None)


def test_probe_is_made_once_of_a_few_prompts(config, tmp_path, probed):
  opened = experiment.open_experiment(config, tmp_path)
  found = start(opened)
  assert found == dataclasses.asdict(FOUND) | {"verdict": probe.verdict(FOUND)}
  assert start(opened) == found
  ((batch, _),) = probed
  assert (batch.index >= 0).sum() == 16
  # Spread over the training prompts.
  assert len(set(batch.index.tolist()) - {-1}) == 16
  assert batch.index.max() == len(opened.tasks.train) - 1


def test_changed_rule_is_probed_again(config, tmp_path, probed):
  start(experiment.open_experiment(config, tmp_path))
  config.rollout.threshold = 3.0
  start(experiment.open_experiment(config, tmp_path))
  assert len(probed) == 2


def test_no_step_of_the_run_has_the_draws_of_the_probe(
  config, tmp_path, probed
):
  start(experiment.open_experiment(config, tmp_path))
  ((batch, keys),) = probed
  for step in range(config.distill.num_steps + 1):
    of_step = sampling.row_keys(config.seed, step, batch.index)
    assert not np.any(np.all(keys == jax.random.key_data(of_step), axis=-1))


@pytest.mark.parametrize(
  ("method", "number"),
  [("skd", 1), ("on_policy_kd", 1), ("supervised_kd", 0), ("seq_kd", 0)],
)
def test_pair_is_probed_where_the_student_writes(
  config, tmp_path, probed, method, number
):
  config = methods.apply_method(config, method)
  found = start(experiment.open_experiment(config, tmp_path))
  assert len(probed) == number
  assert (found is not None) == bool(number)
  assert (tmp_path / "stages" / "probe.json").exists() == bool(number)


def test_pair_of_one_run_gives_no_warning(config, tmp_path):
  opened = experiment.open_experiment(config, tmp_path)
  assert pair.pair_warnings(opened) == []


def test_warnings_are_returned_and_logged(
  finished, config, tmp_path, monkeypatch
):
  folder = tmp_path / "student"
  shutil.copytree(finished / "student_init", folder)
  (folder / manifest.NAME).unlink()
  of_model = json.loads((folder / "config.json").read_text())
  of_model["eos_token_id"] = [2, 3]
  for name in ("config.json", "generation_config.json"):
    (folder / name).write_text(json.dumps(of_model))
  config.student.path = str(folder)
  logged = []
  monkeypatch.setattr(logging, "warning", lambda *args: logged.append(args[-1]))
  opened = experiment.open_experiment(config, tmp_path / "w")
  (line,) = pair.pair_warnings(opened)
  assert line.startswith(f"student {folder}: ends its responses with [2, 3]; ")
  assert line in logged


def start_compact(config, workdir):
  config.teacher.quantization = "int8"
  opened = experiment.open_experiment(config, workdir)
  spec = builders.generation_spec(config, max_new_tokens=16, num_draft_tokens=3)
  with jax.set_mesh(opened.mesh):
    teacher, student = (
      preparation.prepare_model(opened, stage)[0]
      for stage in ("teacher", "student_init")
    )
    assert quantization.is_quantized(teacher.params["embedding"])
    assert not quantization.is_quantized(student.params["embedding"])
    return pair.probe_quantization(opened, spec, student, teacher)


def test_what_a_compact_teacher_has_lost_is_said_once(
  config, tmp_path, monkeypatch
):
  logged = []
  monkeypatch.setattr(logging, "info", lambda *args: logged.append(args))
  found = start_compact(config, tmp_path)
  assert found["tokens"] > 0
  assert 0 < found["kl"] < 1e-3
  # Of few tokens, whose best two are near ties: each CPU rounds its own way.
  assert 0.5 < found["agreement"] <= 1
  ((text, *values),) = [x for x in logged if x[0].startswith("Teacher in")]
  assert (text % tuple(values)).startswith("Teacher in int8: KL(full || int8)")
  shares = [100 * found[name] for name in ("agreement", "changed")]
  assert values[2:] == [found["kl"], found["tokens"], *shares]


def test_what_was_lost_is_not_measured_without_room(
  config, tmp_path, monkeypatch
):
  logged = []
  monkeypatch.setattr(logging, "info", lambda *args: logged.append(args[0]))
  monkeypatch.setattr(memory, "has_room", lambda num_bytes: num_bytes < 100)
  assert start_compact(config, tmp_path) is None
  assert any("is not measured" in text for text in logged)
  assert not (tmp_path / "stages" / "quantization.json").exists()


def test_full_teacher_is_not_measured(config, tmp_path):
  opened = experiment.open_experiment(config, tmp_path)
  assert pair.probe_quantization(opened, None, None, None) is None
