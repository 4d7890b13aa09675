"""What the settings become: the one place that maps fields."""

import dataclasses

import jax
import pytest
from absl import logging

from skd_jax import builders, methods, models
from skd_jax import config as config_lib
from skd_jax.data.tasks import TaskSettings
from skd_jax.losses import token_losses
from skd_jax.parallel import sharding


@pytest.fixture
def config():
  return config_lib.default_config()


@pytest.mark.parametrize(
  ("method", "uses_teacher", "mode"),
  [
    ("sft", False, "reference"),
    ("seq_kd", False, "teacher"),
    ("supervised_kd", True, "reference"),
    ("on_policy_kd", True, "on_policy"),
    ("skd", True, "skd"),
  ],
)
def test_spec_says_who_generates_and_whether_the_teacher_takes_part(
  config, method, uses_teacher, mode
):
  spec = builders.generation_spec(
    methods.apply_method(config, method), max_new_tokens=9, num_draft_tokens=2
  )
  assert (spec.mode, spec.uses_teacher) == (mode, uses_teacher)
  assert (spec.max_new_tokens, spec.num_draft_tokens) == (9, 2)
  assert hash(spec) == hash(dataclasses.replace(spec))
  # Only SKD has verified what it generates, and that not of references.
  assert spec.needs_teacher_pass(0.0) == (uses_teacher and mode != "skd")
  assert spec.needs_teacher_pass(0.5) == uses_teacher


def test_task_settings_are_the_data_section(config):
  config.data.stop_strings = ("Q:",)
  (name,) = builders.task_settings(config)
  settings = builders.task_settings(config)[name]
  assert name == "data"
  for field in dataclasses.fields(TaskSettings):
    assert getattr(settings, field.name) == config.data[field.name]


@pytest.mark.parametrize(
  ("warmup_steps", "said"),
  [
    (10, ""),
    (
      11,
      "distill.warmup_steps = 11: more than a tenth of num_steps = 100, so 10",
    ),
  ],
)
def test_long_warm_up_is_said(config, monkeypatch, warmup_steps, said):
  config.distill.update(num_steps=100, warmup_steps=warmup_steps)
  shape = models.ModelConfig(
    vocab_size=8,
    hidden_size=4,
    intermediate_size=4,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=4,
    tie_embeddings=True,
  )
  shown = []
  monkeypatch.setattr(logging, "info", lambda text, *a: shown.append(text % a))
  builders.train_fns(
    config,
    "distill",
    models.LoadedModel(
      shape, models.create(shape), models.init_params(shape, jax.random.key(0))
    ),
    None,
    token_losses.supervised_token_loss,
    sharding.make_mesh(data=-1, fsdp=1, tensor=1),
  )
  assert shown == [said] * bool(said)
