"""The programs of a run, compiled from shapes; see benchmarks/tpu_plan.py."""

import dataclasses
import math
import pathlib
import time
import types
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections

from benchmarks import chips, harness, hlo, published_shapes, roofline
from skd_jax import config as config_lib
from skd_jax import (
  learner,
  model_store,
  models,
  policies,
  sharding,
  stopping,
  structs,
  validation,
)
from skd_jax import task as task_lib
from skd_jax.run import Run

Compiled = jax.stages.Compiled


class DoesNotFitError(Exception):
  """The compiler has no room for a program."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """A run without data: its models are shapes, and where they would lie."""

  run: Run
  student: model_store.LoadedModel
  teacher: model_store.LoadedModel

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
  validation.validate_rows(config, sharding.num_row_shards(mesh))
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
    shardings = model_store.Placement(mesh, rules).shardings(shape)
    params = jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(
        x.shape, param_dtype, sharding=where
      ),
      models.param_shapes(shape),
      shardings,
    )
    created = models.create(shape, dtype=dtype, remat=remat)
    return model_store.LoadedModel(shape, created, params)

  return Plan(
    run=Run(config, pathlib.Path(), cast(task_lib.Task, task), dtype, mesh),
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
      plan.teacher.model,
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


def compile_plan(plan: Plan) -> harness.Row:
  """Compiles a plan and measures the programs; see benchmarks/tpu_plan.py.

  Raises:
    DoesNotFitError: the compiler says that the memory does not suffice.
  """
  programs = compile_programs(plan)
  rollout, step = (
    program.as_text() for program in (programs.rollout, programs.train)
  )
  written, learnt = hlo.collectives(rollout), hlo.collectives(step)
  leaves = len(jax.tree.leaves(programs.state))
  return {
    **memory(plan, programs),
    **_mebibytes("rollout", written),
    **_mebibytes("train", learnt),
    "gathered": gathered_in_loop(plan, written),
    "donated": hlo.num_donated(step) >= leaves,
    "host_calls": hlo.host_calls(rollout) + hlo.host_calls(step),
    **programs.seconds,
  }


def _mebibytes(
  program: str, found: Sequence[hlo.Collective]
) -> dict[str, float]:
  return {
    f"{program}_{kind}_mib".replace("-", "_").replace(" ", "_"): size / 2**20
    for kind, size in hlo.bytes_by_kind(found).items()
  }


def held_bytes(tree: Any) -> int:
  """Returns the bytes that a device holds of a tree of placed shapes."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def cache_shapes(plan: Plan) -> list[tuple[int, ...]]:
  """Returns the shape of each array of the caches of a group of devices."""
  config = plan.run.config
  groups = sharding.num_row_shards(plan.run.mesh)
  rows = (config.rollout.batch_size or plan.num_rows) // groups
  slots = config.data.max_prompt_length + config.data.max_new_tokens
  slots += plan.num_draft_tokens
  return [
    x.shape
    for model in (plan.student, plan.teacher)
    for x in jax.tree.leaves(
      jax.eval_shape(lambda m=model: m.model.init_cache(rows, slots))
    )
  ]


def _cache_bytes(plan: Plan) -> int:
  """Returns the bytes that a device holds of the caches."""
  total = 0
  for model in (plan.student, plan.teacher):
    usable, _ = models.usable_rules(
      model.config, plan.run.mesh, sharding.FROZEN
    )
    parts = math.prod(plan.run.mesh.shape[a] for a in usable["kv_heads"])
    one = dataclasses.replace(plan, student=model, teacher=model)
    numbers = sum(map(math.prod, cache_shapes(one))) // 2
    total += numbers * plan.run.dtype.itemsize // parts
  return total


def memory(plan: Plan, programs: Programs) -> harness.Row:
  """Returns what a device holds, in GiB.

  `peak_gib` is the larger of the two programs' needs: arguments, results and
  temporaries, as the compiler counts them, with what else stays meanwhile, and
  the code of both.
  """
  teacher = held_bytes(plan.teacher.params)
  student = held_bytes(plan.student.params)
  optimizer = held_bytes(programs.state.opt_state)
  head = held_bytes(plan.teacher.model.head_params(plan.teacher.params))
  writing, training = (
    program.memory_analysis() for program in (programs.rollout, programs.train)
  )
  code = (
    writing.generated_code_size_in_bytes + training.generated_code_size_in_bytes
  )
  caches = _cache_bytes(plan)
  parts = {
    "teacher_gib": teacher,
    "student_gib": student,
    # The student before training stays, for the next seed.
    "start_gib": student,
    "optimizer_gib": optimizer,
    "caches_gib": caches,
    "rollout_temporaries_gib": max(writing.temp_size_in_bytes - caches, 0),
    "train_temporaries_gib": training.temp_size_in_bytes,
    "code_gib": code,
    "peak_gib": code
    + student
    + max(_needs(writing) + optimizer, _needs(training) + teacher - head),
  }
  return {name: value / chips.GIB for name, value in parts.items()}


def _needs(stats: Any) -> int:
  return (
    stats.argument_size_in_bytes
    + stats.output_size_in_bytes
    - stats.alias_size_in_bytes
    + stats.temp_size_in_bytes
  )


def gathered_in_loop(plan: Plan, found: Sequence[hlo.Collective]) -> list[str]:
  """Returns what the decode loop gathers that should lie where it is read.

  Sums do not count: activations are summed at every layer. What counts is any
  other array with as many numbers as a matrix of the weights, whole or
  as a device would have it along `tensor`, or as a cache of the rows of a
  group.

  Args:
    plan: what was compiled.
    found: the collectives of its rollout.
  """
  tensor = plan.run.mesh.shape["tensor"]
  large = {math.prod(shape): "a cache" for shape in cache_shapes(plan)}
  for x in jax.tree.leaves((plan.student.params, plan.teacher.params)):
    if x.ndim > 1:
      large[x.size] = large[x.size // tensor] = "a weight"
  return [
    f"{large[math.prod(shape)]}: {collective.kind} {list(shape)} for "
    f"{collective.source}"
    for collective in found
    if collective.loop_depth
    and collective.kind not in ("all-reduce", "reduce-scatter")
    for shape in collective.shapes
    if math.prod(shape) in large
  ]
