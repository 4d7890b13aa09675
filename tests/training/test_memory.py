"""The estimate of memory against hand counts and the compiler."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from skd_jax import models
from skd_jax.losses import divergence, token_losses
from skd_jax.models import quantization
from skd_jax.parallel import sharding
from skd_jax.training import generation, memory, train_step
from tests.conftest import make_batch
from tests.toy_models import noisy_params

_CONFIG = models.ModelConfig(
  vocab_size=300,
  hidden_size=32,
  intermediate_size=64,
  num_layers=3,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  tie_embeddings=True,
)
# Embedding; query and out, key and value, three of the MLP, two norms; a norm.
_WEIGHTS = 300 * 32 + 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 64) + 32
_ROWS, _PROMPT, _RESPONSE = 16, 24, 16


def _step(older_dtype=None, **changes):
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  remat = changes.get("remat", False)
  model = models.LoadedModel(
    _CONFIG,
    models.create(_CONFIG, remat=remat),
    jax.device_put(noisy_params(_CONFIG), sharding.replicated(mesh)),
  )
  train = train_step.make_train_fns(
    model,
    model,
    token_loss=token_losses.distillation_token_loss(
      divergence.forward_kl, "uniform"
    ),
    optimizer=train_step.make_optimizer(
      lambda step: 0.1, clip_norm=1.0, weight_decay=0.1, beta1=0.9, beta2=0.9
    ),
    chunk_size=32,
    num_microbatches=changes.get("num_microbatches", 1),
    mesh=mesh,
    older_dtype=older_dtype,
  )
  fields = {
    "student": model,
    "teacher": model,
    "generators": (model, model),
    "state": jax.eval_shape(train.init, model.params),
    "mesh": mesh,
    "dtype": jnp.float32,
    "remat": remat,
    "batch_size": _ROWS,
    "num_microbatches": 1,
    "slots": 0,
    "prompt": _PROMPT,
    "response": _RESPONSE,
    "num_draft_tokens": 3,
    "chunk_size": 32,
  }
  return memory.StepMemory(**fields | changes), train


def test_parts_are_those_counted_by_hand():
  step, _ = _step()
  weights = 4 * _WEIGHTS
  training, generating = step.training(), step.generating()
  assert training["student"] == 2 * weights  # In training, and the start.
  assert training["teacher"] == training["gradient"] == weights
  # Both moments, and the two counters of Adam and of the schedule.
  assert training["optimizer"] == 2 * weights + 8
  assert training["responses"] == _ROWS * _RESPONSE * 32 * 4
  assert training["logits"] == 32 * 300 * 4 * 4
  assert generating["cast weights"] == weights
  slots = _PROMPT + _RESPONSE + 3
  # Keys and values of 2 heads of size 8 in 3 layers, of both models.
  assert generating["caches"] == 2 * 3 * 2 * _ROWS * slots * 2 * 8 * 4
  assert generating["logits"] == _ROWS * 3 * 300 * 4 * 4


def test_lag_keeps_older_weights_and_responses_of_two_steps():
  plain, _ = _step()
  step, _ = _step(older_dtype=jnp.bfloat16)
  before, now = plain.training(), step.training()
  assert now["older weights"] == 2 * _WEIGHTS
  assert now["responses"] == 2 * before["responses"]
  assert now == {
    **before,
    **{k: now[k] for k in ("older weights", "responses")},
  }
  assert step.generating()["cast weights"] == 0  # They are cast already.


def test_cached_teacher_takes_its_top_tokens_alone():
  live, _ = _step()
  step, _ = _step(teacher=None, generators=(), cached_top_k=7)
  found = step.training()
  # Of each token 7 ids and log-probabilities, and the tail.
  assert found.pop("responses") == _ROWS * _RESPONSE * (7 * 8 + 4)
  expected = dict(live.training())
  del expected["teacher"], expected["responses"]
  assert found == expected


@pytest.mark.parametrize(("name", "least"), [("int8", 1), ("int4", 0.5)])
def test_compact_teacher_takes_a_byte_or_half_of_one_a_weight(name, least):
  step, _ = _step()
  compact = quantization.quantize(step.teacher.params, name)
  step = dataclasses.replace(
    step, teacher=dataclasses.replace(step.teacher, params=compact)
  )
  embedding, norms = 300 * 32, 7 * 32
  # Each has a scale; of int4, those of 64 rows have two.
  groups = 2 if name == "int4" else 1
  columns = 3 * (32 + 2 * 16 + 32 + 2 * 64 + groups * 32)
  kernels = least * (_WEIGHTS - embedding - norms)
  scales = 4 * (300 + columns)
  assert step.training()["teacher"] == kernels + embedding + scales + 4 * norms


def test_room_is_what_a_device_has_left(monkeypatch):
  stats = {"bytes_limit": 100, "bytes_in_use": 40}
  device = types.SimpleNamespace(memory_stats=lambda: stats)
  monkeypatch.setattr(jax, "local_devices", lambda: [device])
  assert memory.has_room(60)
  assert not memory.has_room(61)
  stats = None  # As of CPUs.
  assert memory.has_room(10**15)


def test_settings_that_are_named_as_help_do_help():
  step, _ = _step()
  total = sum(step.training().values())
  remat = dataclasses.replace(step, remat=True)
  parts = dataclasses.replace(step, num_microbatches=4)
  assert sum(remat.training().values()) < total
  assert parts.training()["activations"] == step.training()["activations"] / 4
  # The input of each layer, and the one layer that is computed again.
  length = _PROMPT + _RESPONSE - 1
  layer = step.training()["activations"] / 4
  assert remat.training()["activations"] == pytest.approx(
    layer + 3 * _ROWS * length * 32 * 4
  )
  few = dataclasses.replace(step, slots=4)
  assert few.generating()["caches"] == step.generating()["caches"] / 4


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_temporaries_are_within_a_factor_of_those_of_the_compiler(remat):
  step, train = _step(remat=remat)
  batch = make_batch(
    [[1] * _PROMPT] * _ROWS, references=[[2] * _RESPONSE] * _ROWS
  )
  rollout = dataclasses.replace(
    generation.reference_rollout(batch),
    teacher_hidden=jnp.zeros((_ROWS, _RESPONSE, 32)),
  )
  head = step.teacher.model.head_params(step.teacher.params)
  lowered = train.step_with.lower(step.state, None, head, batch, rollout)
  compiled = lowered.compile()
  found = step.training()
  temporary = found["gradient"] + found["activations"] + found["logits"]
  ratio = temporary / compiled.memory_analysis().temp_size_in_bytes
  # XLA on CPUs fuses what is counted without remat, and holds more with it.
  assert 1 / 2.5 < ratio < 2.5


@pytest.mark.parametrize(
  ("limit", "warned"), [(None, False), (2**40, False), (1000, True)]
)
def test_device_with_less_than_is_needed_is_warned_of(
  limit, warned, monkeypatch, caplog
):
  stats = None if limit is None else {"bytes_limit": limit}
  device = types.SimpleNamespace(memory_stats=lambda: stats)
  step, _ = _step()
  monkeypatch.setattr(jax, "local_devices", lambda: [device])
  with caplog.at_level("INFO", logger="absl"):
    memory.report("distillation", step)
  (record,) = caplog.records
  assert "Memory of distillation: about 0." in record.getMessage()
  assert (record.levelname == "WARNING") == warned
  assert ("what helps: num_microbatches, remat" in caplog.text) == warned
