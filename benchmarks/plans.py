"""The programs of a run, compiled from shapes; see benchmarks/tpu_plan.py."""

import dataclasses
import pathlib
import time
import types
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections

from benchmarks import harness, published_shapes, roofline
from skd_jax import config as config_lib
from skd_jax import config_checks, learner, models, policies, structs
from skd_jax.data import tasks as tasks_lib
from skd_jax.decoding import stopping
from skd_jax.experiment import Run
from skd_jax.models import loading
from skd_jax.parallel import sharding

Compiled = jax.stages.Compiled


class DoesNotFitError(Exception):
  """The compiler has no room for a program."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """A run without data: its models are shapes, and where they would lie."""

  run: Run
  student: loading.LoadedModel
  teacher: loading.LoadedModel

  @property
  def num_rows(self) -> int:
    """B, over all devices."""
    return self.run.config.distill.batch_size

  @property
  def num_draft_tokens(self) -> int:
    """G."""
    return self.run.config.rollout.num_draft_tokens

  def describe(self) -> harness.Row:
    """Returns what is planned, in figures."""
    distill = self.run.config.distill
    return {
      "mesh": "x".join(str(n) for n in self.run.mesh.shape.values()),
      "batch": distill.batch_size,
      "microbatches": distill.num_microbatches,
      "teacher_params": published_shapes.num_params(self.teacher.config),
      "student_params": published_shapes.num_params(self.student.config),
    }

  def work(self, replacement_rate: float) -> roofline.Work:
    """Returns the step, for its roofline."""
    return step_work(
      self.run.config,
      self.student.config,
      self.teacher.config,
      replacement_rate,
    )

  def rows(self, *shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    """Returns the shape of an array [B, ...] of a batch."""
    return jax.ShapeDtypeStruct(
      (self.num_rows, *shape), dtype, sharding=sharding.rows(self.run.mesh)
    )

  def batch(self) -> structs.Batch:
    """Returns the shapes of the widest batch."""
    data = self.run.config.data
    return structs.Batch(
      prompt=cast(Any, self.rows(data.max_prompt_length)),
      prompt_length=cast(Any, self.rows()),
      reference=cast(Any, self.rows(data.max_new_tokens)),
      reference_length=cast(Any, self.rows()),
      index=cast(Any, self.rows()),
      task=cast(Any, self.rows()),
      max_new_tokens=cast(Any, self.rows()),
    )


def step_work(
  config: ml_collections.ConfigDict,
  student: models.ModelConfig,
  teacher: models.ModelConfig,
  replacement_rate: float,
) -> roofline.Work:
  """Returns the step of a config with the longest prompts and responses."""
  return roofline.Work(
    student=student,
    teacher=teacher,
    rows=config.distill.batch_size,
    prompt_tokens=config.data.max_prompt_length,
    response_tokens=config.data.max_new_tokens,
    num_draft_tokens=config.rollout.num_draft_tokens,
    replacement_rate=replacement_rate,
    num_microbatches=config.distill.num_microbatches,
    remat=config.student.remat,
  )


def make_plan(
  config: ml_collections.ConfigDict, devices: Sequence[Any]
) -> Plan:
  """Builds the models of a config as shapes.

  Args:
    config: the config; teacher and student name their checkpoints.
    devices: to compile for.

  Raises:
    ValueError: unknown checkpoints, or a mesh that does not fit the devices.
  """
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  teacher, student = published_shapes.load_pair(
    config.teacher.checkpoint, config.student.checkpoint
  )
  return plan_of_shapes(config, mesh, teacher, student)


def plan_of_shapes(
  config: ml_collections.ConfigDict,
  mesh: jax.sharding.Mesh,
  teacher: models.ModelConfig,
  student: models.ModelConfig,
) -> Plan:
  """Builds a plan of any two models over one vocabulary."""
  config_checks.validate_rows(config, sharding.num_row_shards(mesh))
  if config.rollout.num_draft_tokens < 1:
    raise ValueError(
      "rollout.num_draft_tokens = 0: must be 1 or above, as nothing is measured"
    )
  dtype = jnp.dtype("float32" if config.dtype == "float32" else "bfloat16")
  task = types.SimpleNamespace(
    max_new_tokens=config.data.max_new_tokens,
    stop_table=stopping.make_stop_table(student.vocab_size, (0,)),
  )

  def model(shape, rules, param_dtype, remat):
    shardings = loading.Placement(mesh, rules).shardings(shape)
    params = jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(
        x.shape, param_dtype, sharding=where
      ),
      models.param_shapes(shape),
      shardings,
    )
    created = models.create(shape, dtype=dtype, remat=remat)
    return loading.LoadedModel(shape, created, params)

  return Plan(
    run=Run(config, pathlib.Path(), cast(tasks_lib.Task, task), dtype, mesh),
    student=model(student, sharding.TRAINED, jnp.float32, config.student.remat),
    teacher=model(teacher, sharding.FROZEN, dtype, remat=False),
  )


def make_small_plan(
  config: ml_collections.ConfigDict, devices: Sequence[Any]
) -> Plan:
  """Builds the plan of a config with small models, lengths and batch.

  What depends on the kind of model, and how its heads divide, stays.
  """
  config = config.copy_and_resolve_references()
  config.data.update(max_prompt_length=16, max_new_tokens=16)
  config.distill.update(batch_size=16, num_microbatches=2)
  pair = published_shapes.load_pair(
    config.teacher.checkpoint, config.student.checkpoint
  )
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  return plan_of_shapes(config, mesh, *map(_small, pair))


def _small(config: models.ModelConfig) -> models.ModelConfig:
  return dataclasses.replace(
    config,
    # A vocabulary that does not divide stays whole, here as there.
    vocab_size=2048 + config.vocab_size % 8,
    hidden_size=16 * config.num_heads,
    intermediate_size=64 * config.num_heads,
    head_dim=16,
    num_layers=2,
    layer_windows=config.layer_windows[:2],
  )


@dataclasses.dataclass(frozen=True)
class Programs:
  """The two programs of a step."""

  rollout: Compiled
  train: Compiled
  state: structs.TrainState  # Shapes, as the train step takes it.
  seconds: dict[str, float]


def compile_programs(plan: Plan) -> Programs:
  """Compiles rollout and train step, as the run would.

  Raises:
    DoesNotFitError: the compiler says that the memory does not suffice.
  """
  run = plan.run
  mesh = run.mesh
  # The mesh of the context is abstract: its devices cannot compute.
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    policy = policies.make_policy_fn(
      run, plan.student, plan.teacher, plan.num_draft_tokens
    )
    threshold = jax.ShapeDtypeStruct(
      (), jnp.float32, sharding=sharding.replicated(mesh)
    )
    keys = plan.rows(dtype=jax.random.key(0).dtype)
    batch = plan.batch()
    writing = (plan.student.params, plan.teacher.params, batch, keys, threshold)
    rollout, rollout_seconds = _compile(policy, *writing)
    written = jax.tree.map(
      lambda x: plan.rows(*x.shape[1:], dtype=x.dtype),
      jax.eval_shape(policy, *writing),
    )
    begin, learn = learner.make_learner(
      run,
      run.config.distill,
      plan.student,
      plan.teacher,
      config_lib.token_loss(run.config, plan.student.config.vocab_size),
    )
    state = jax.eval_shape(begin, plan.student.params)
    head = plan.teacher.model.head_params(plan.teacher.params)
    step, train_seconds = _compile(learn, state, head, batch, written)
  seconds = {
    "compile_rollout_s": rollout_seconds,
    "compile_train_s": train_seconds,
  }
  return Programs(rollout, step, state, seconds)


def _compile(function: Any, *arguments: Any) -> tuple[Compiled, float]:
  begun = time.perf_counter()
  try:
    compiled = function.lower(*arguments).compile()
  except jax.errors.JaxRuntimeError as error:
    line = str(error).splitlines()[0]
    if "RESOURCE_EXHAUSTED" not in line:
      raise
    raise DoesNotFitError(line) from None
  return compiled, time.perf_counter() - begun
