"""The two programs of a step, compiled from shapes, and what they need.

No weight is read: models are shapes with shardings. The rollout and the train
step are those of the run that the config describes.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from benchmarks import harness
from benchmarks.tpu import checkpoints, chips, hlo
from skd_jax import builders, config_checks, models, structs
from skd_jax.decoding import stopping
from skd_jax.models import loading, lora, quantization
from skd_jax.parallel import sharding
from skd_jax.training import generation
from skd_jax.training import memory as memory_lib

Compiled, Lowered = jax.stages.Compiled, jax.stages.Lowered


class DoesNotFitError(Exception):
  """The compiler has no room for a program."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """A run without data, whose models are placed shapes."""

  config: ml_collections.ConfigDict
  mesh: jax.sharding.Mesh
  dtype: Any
  student: loading.LoadedModel
  teacher: loading.LoadedModel

  def rows(self, *shape: int, dtype: Any = jnp.int32) -> Any:
    """Returns the shape of an array [B, ...] of a batch."""
    num_rows = self.config.distill.batch_size
    return jax.ShapeDtypeStruct(
      (num_rows, *shape), dtype, sharding=sharding.rows(self.mesh)
    )

  def batch(self) -> structs.Batch:
    """Returns the shapes of the widest batch."""
    data = self.config.data
    return structs.Batch(
      prompt=self.rows(data.max_prompt_length),
      prompt_length=self.rows(),
      reference=self.rows(data.max_new_tokens),
      reference_length=self.rows(),
      index=self.rows(),
      task_id=self.rows(),
      max_new_tokens=self.rows(),
    )

  def cache_size(self) -> tuple[int, int]:
    """Returns (rows, slots) of the caches of a group."""
    config = self.config
    rows = config.rollout.batch_size or config.distill.batch_size
    slots = config.data.max_prompt_length + config.data.max_new_tokens
    slots += config.rollout.num_draft_tokens
    return rows // sharding.num_row_shards(self.mesh), slots

  def cache_shapes(self) -> list[tuple[int, ...]]:
    """Returns the shape of each cache array of a group."""
    # The platform of the mesh decides how many slots there are.
    with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
      caches = [
        jax.eval_shape(
          functools.partial(model.model.init_cache, *self.cache_size())
        )
        for model in (self.student, self.teacher)
      ]
    return [x.shape for x in jax.tree.leaves(caches)]


def make_plan(
  config: ml_collections.ConfigDict,
  devices: Sequence[Any],
  *,
  small: bool = False,
  layers: int = 0,
) -> Plan:
  """Builds the models of a config as shapes.

  Args:
    config: the config; teacher and student name their checkpoints.
    devices: to compile for.
    small: make models, lengths and batch small. The kind of the models and how
      their heads divide stay.
    layers: of both models; 0: all that they have.

  Raises:
    ValueError: a checkpoint is unknown, or the mesh does not fit the devices.
  """
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  teacher, student = checkpoints.load_pair(
    config.teacher.checkpoint, config.student.checkpoint
  )
  if small:
    config = config.copy_and_resolve_references()
    config.data.update(max_prompt_length=16, max_new_tokens=16)
    config.distill.update(batch_size=16, num_microbatches=2)
    teacher, student = _small(teacher), _small(student)
  if layers:
    teacher, student = _cut(teacher, layers), _cut(student, layers)
  config_checks.check_rows(config, sharding.num_row_shards(mesh))
  if config.rollout.num_draft_tokens < 1:
    raise ValueError(
      "rollout.num_draft_tokens = 0: must be 1 or above, as nothing is measured"
    )
  dtype = jnp.dtype("float32" if config.dtype == "float32" else "bfloat16")

  def params(shape, rules, param_dtype):
    return jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(
        x.shape, param_dtype, sharding=where
      ),
      models.param_shapes(shape),
      loading.Placement(mesh, rules).shardings(shape),
    )

  def model(shape, weights, remat):
    created = models.create(shape, dtype=dtype, remat=remat)
    return loading.LoadedModel(shape, created, weights)

  settings = config.student.lora
  if settings.rank:
    trained = models.adapted_shapes(
      student,
      params(student, sharding.FROZEN, dtype),
      rank=settings.rank,
      alpha=settings.alpha,
      targets=settings.targets,
    )
  else:
    trained = params(student, sharding.TRAINED, jnp.float32)
  frozen = quantization.shapes(
    params(teacher, sharding.FROZEN, dtype), config.teacher.quantization
  )
  return Plan(
    config=config,
    mesh=mesh,
    dtype=dtype,
    student=model(student, trained, config.student.remat),
    teacher=model(teacher, frozen, remat=False),
  )


def _cut(config: models.ModelConfig, layers: int) -> models.ModelConfig:
  windows = config.layer_windows[:layers]
  return dataclasses.replace(config, num_layers=layers, layer_windows=windows)


def _small(config: models.ModelConfig) -> models.ModelConfig:
  return dataclasses.replace(
    _cut(config, 2),
    # A vocabulary that does not divide here does not divide there.
    vocab_size=2048 + config.vocab_rows % 8,
    hidden_size=16 * config.num_heads,
    intermediate_size=64 * config.num_heads,
    head_dim=16,
  )


def lower_programs(
  plan: Plan,
) -> tuple[Lowered, Lowered, structs.TrainState]:
  """Lowers rollout and train step, as the run would compile them.

  Returns:
    (rollout, train step, shapes of the state).
  """
  config, mesh = plan.config, plan.mesh
  vocab_size = plan.student.config.vocab_size
  # The mesh of the context is abstract, because its devices cannot compute.
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    generate: Any = generation.make_rollout_fn(
      builders.generation_spec(
        config,
        max_new_tokens=config.data.max_new_tokens,
        num_draft_tokens=config.rollout.num_draft_tokens,
      ),
      plan.student,
      plan.teacher,
      stopping.make_stop_table(vocab_size, (0,)),
      mesh=mesh,
      dtype=plan.dtype,
    )
    threshold = jax.ShapeDtypeStruct(
      (), jnp.float32, sharding=sharding.replicated(mesh)
    )
    keys = plan.rows(dtype=jax.random.key(0).dtype)
    batch = plan.batch()
    arguments = plan.student.params, plan.teacher.params, batch, keys, threshold
    generated = jax.tree.map(
      lambda x: plan.rows(*x.shape[1:], dtype=x.dtype),
      jax.eval_shape(generate, *arguments),
    )
    train: Any = builders.train_fns(
      config,
      "distill",
      plan.student,
      plan.teacher,
      builders.token_loss(config, vocab_size),
      mesh,
    )
    state = jax.eval_shape(train.init, plan.student.params)
    head = plan.teacher.model.head_params(plan.teacher.params)
    return (
      generate.lower(*arguments),
      train.step_with.lower(state, train.frozen, head, batch, generated),
      state,
    )


def compile_program(lowered: Lowered) -> Compiled:
  """Compiles a program of a plan.

  Raises:
    DoesNotFitError: the compiler says that the memory does not suffice.
  """
  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    line = str(error).splitlines()[0]
    if "RESOURCE_EXHAUSTED" not in line:
      raise
    raise DoesNotFitError(line) from None


def measure(plan: Plan) -> harness.Row:
  """Compiles a plan; see benchmarks/tpu/plan.py for what it returns.

  Raises:
    DoesNotFitError: the compiler says that the memory does not suffice.
  """
  start_time = time.perf_counter()
  *lowered, state = lower_programs(plan)
  rollout, train = map(compile_program, lowered)
  compile_s = time.perf_counter() - start_time
  stats = rollout.memory_analysis(), train.memory_analysis()
  texts = rollout.as_text(), train.as_text()
  return memory(plan, state, *stats) | {
    "gathered": gathered_in_loop(plan, hlo.collectives(texts[0])),
    "donated": hlo.num_donated(texts[1]) >= len(jax.tree.leaves(state)),
    "host_calls": [call for text in texts for call in hlo.host_calls(text)],
    "compile_s": compile_s,
  }


def memory(
  plan: Plan, state: structs.TrainState, rollout: Any, train: Any
) -> harness.Row:
  """Returns what a device holds, in GiB.

  `peak_gib` is the larger of the two programs' needs: arguments, results and
  temporaries, as the compiler counts them, with what else stays meanwhile, and
  the code of both.

  Args:
    plan: what was compiled.
    state: of the train step.
    rollout: the compiler's memory analysis of the rollout.
    train: that of the train step.
  """

  def needs(stats: Any) -> int:
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + results + stats.temp_size_in_bytes

  held = memory_lib.held_bytes
  teacher, student = held(plan.teacher.params), held(plan.student.params)
  start = held(lora.split(plan.student.params)[0])
  optimizer = held(state.opt_state)
  head = held(plan.teacher.model.head_params(plan.teacher.params))
  code = sum(stats.generated_code_size_in_bytes for stats in (rollout, train))
  during_rollout = needs(rollout) + optimizer
  during_training = needs(train) + teacher - head
  caches = sum(
    memory_lib.cache_bytes(model, plan.mesh, *plan.cache_size())
    for model in (plan.student, plan.teacher)
  )
  found = {
    "teacher_gib": teacher,
    "student_gib": student,
    "optimizer_gib": optimizer,
    "caches_gib": caches,
    "rollout_temporaries_gib": max(rollout.temp_size_in_bytes - caches, 0),
    "train_temporaries_gib": train.temp_size_in_bytes,
    "code_gib": code,
    # What the student trains stays as it was as well, for the next seed.
    "peak_gib": code + start + max(during_rollout, during_training),
  }
  return {name: value / chips.GIB for name, value in found.items()}


def gathered_in_loop(
  plan: Plan, collectives: Sequence[hlo.Collective]
) -> list[str]:
  """Returns the weights and caches that the decode loop gathers.

  Sums do not count, because activations are summed at every layer. Any other
  collective counts whose result has as many numbers as a matrix of the weights
  (whole, or a device's part along `tensor`) or as a cache of a group.

  Args:
    plan: what was compiled.
    collectives: of its rollout.
  """
  tensor = plan.mesh.shape["tensor"]
  large = {math.prod(shape): "a cache" for shape in plan.cache_shapes()}
  for x in jax.tree.leaves((plan.student.params, plan.teacher.params)):
    if x.ndim > 1:
      large[x.size] = large[x.size // tensor] = "a weight"
  return [
    f"{large[math.prod(shape)]}: {found.kind} {list(shape)} for {found.source}"
    for found in collectives
    if found.loop_depth and found.kind not in ("all-reduce", "reduce-scatter")
    for shape in found.shapes
    if math.prod(shape) in large
  ]
