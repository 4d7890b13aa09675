"""A small pair on a mesh of eight devices, which the mesh tests share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import builders, methods, models, structs
from skd_jax import config as config_lib
from skd_jax.decoding import sampling, stopping
from skd_jax.models import loading, lora, quantization
from skd_jax.parallel import sharding
from skd_jax.training import generation, train_step
from tests.conftest import make_batch
from tests.toy_models import noisy_params

needs_eight_devices = pytest.mark.skipif(
  len(jax.devices()) < 8,
  reason="needs XLA_FLAGS=--xla_force_host_platform_device_count=8",
)

V, T, EOS, ROWS, G = 64, 6, 3, 16, 3
FEW = [(2, 2, 2), (1, 1, 8)]


def make_mesh(shape):
  data, fsdp, tensor = shape
  size = data * fsdp * tensor
  return sharding.make_mesh(
    data=data, fsdp=fsdp, tensor=tensor, devices=jax.devices()[:size]
  )


def load(config, seed, mesh, rules):
  """A confident model, placed on a mesh."""
  placement = loading.Placement(mesh, rules)
  params = jax.device_put(
    noisy_params(config, seed, scale=0.3), placement.shardings(config)
  )
  return loading.LoadedModel(config, models.create(config), params)


def load_adapted(config, mesh, rank):
  """A confident model that is trained by adapters."""
  base = load(config, 0, mesh, sharding.FROZEN)
  params = models.add_adapters(
    config,
    base.params,
    rank=rank,
    alpha=2.0 * rank,
    targets=lora.TARGETS,
    seed=0,
  )
  return dataclasses.replace(base, params=params)


def make_config(method="skd", **changes):
  config = methods.apply_method(config_lib.default_config(), method)
  return methods.change(
    config,
    {
      "rollout.threshold": 8.0,
      "rollout.student_temperature": 1.0,
      "rollout.student_top_p": 0.9,
      "rollout.teacher_top_p": 0.9,
      "distill.num_steps": 10,
      "distill.learning_rate": 1e-3,
      "distill.num_microbatches": 2,
      "loss.chunk_size": 8,
      **changes,
    },
  )


def make_prompts(ending=()):
  rng = np.random.default_rng(7)
  prompts = [
    [*rng.integers(4, V, rng.integers(1, 5)).tolist(), *ending]
    for _ in range(ROWS)
  ]
  batch = jax.device_get(make_batch(prompts, references=[[5, 6, 3]] * ROWS))
  limits = np.asarray([1 + i % T for i in range(ROWS)], np.int32)
  return dataclasses.replace(batch, max_new_tokens=limits)


@dataclasses.dataclass(frozen=True)
class Pieces:
  """What a step of distillation needs, on a mesh."""

  student: loading.LoadedModel
  teacher: loading.LoadedModel
  spec: generation.GenerationSpec
  rollout_fn: generation.RolloutFn
  train: train_step.TrainFns
  batch: structs.Batch

  @property
  def params(self):
    return self.student.params, self.teacher.params

  @property
  def teacher_head(self):
    if not self.spec.uses_teacher:
      return None
    return self.teacher.model.head_params(self.teacher.params)

  def generate(self, student_params=None, seen=None):
    """The responses of the first step; `seen`: the distance of the state."""
    keys = sampling.row_keys(0, 0, self.batch.index)
    return generation.generate_responses(
      self.spec,
      self.rollout_fn,
      self.teacher.model,
      student_params or self.student.params,
      self.teacher.params,
      self.batch,
      keys,
      0,
      seen,
    )[0]


def make_pieces(
  mesh,
  model_config,
  teacher_width,
  rank=0,
  compact="",
  older_dtype=None,
  **changes,
):
  config = make_config(**changes)
  if rank:
    student = load_adapted(model_config, mesh, rank)
  else:
    student = load(model_config, 0, mesh, sharding.TRAINED)
  wide = dataclasses.replace(model_config, hidden_size=teacher_width)
  teacher = load(wide, 1, mesh, sharding.FROZEN)
  small = quantization.quantize(teacher.params, compact)
  teacher = dataclasses.replace(teacher, params=small)
  spec = builders.generation_spec(config, max_new_tokens=T, num_draft_tokens=G)
  vocab_size = model_config.vocab_size
  # What a decoder behind an encoder starts from.
  ending = [7] * getattr(model_config, "decoder_prompt_size", 0)
  return Pieces(
    student=student,
    teacher=teacher,
    spec=spec,
    rollout_fn=generation.make_rollout_fn(
      spec,
      student,
      teacher,
      stopping.make_stop_table(vocab_size, (EOS,)),
      mesh=mesh,
      dtype=jnp.float32,
    ),
    train=builders.train_fns(
      config,
      "distill",
      student,
      teacher if spec.uses_teacher else None,
      builders.token_loss(config, vocab_size),
      mesh,
      spec.by_distance,
      older_dtype,
    ),
    batch=sharding.place_rows(make_prompts(ending), mesh, ROWS),
  )
