"""What compiled programs hold, send and gather; see benchmarks/tpu_plan.py."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks import chips, harness, hlo, plans
from skd_jax import models
from skd_jax.parallel import sharding


def compile_plan(plan: plans.Plan) -> harness.Row:
  """Compiles a plan and measures the programs; see benchmarks/tpu_plan.py.

  Raises:
    DoesNotFitError: the compiler says that the memory does not suffice.
  """
  programs = plans.compile_programs(plan)
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


def cache_shapes(plan: plans.Plan) -> list[tuple[int, ...]]:
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


def _cache_bytes(plan: plans.Plan) -> int:
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


def memory(plan: plans.Plan, programs: plans.Programs) -> harness.Row:
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


def gathered_in_loop(
  plan: plans.Plan, found: Sequence[hlo.Collective]
) -> list[str]:
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
