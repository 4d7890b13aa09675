"""Memory and time of a training step as its sequences get longer.

  python -m benchmarks.speed.long_sequences [--quick]
  python -m benchmarks.speed.long_sequences --shape=llama_1b
    --topology=v5p:2x2x1

A step has the same number of tokens whatever their length T: 8,192 in rows of
512, 2,048 or 8,192, of a tiny model or of --shape. `memory_ratio` is
the peak that the compiler reports over what weights, gradient, moments and one
activation per layer need; `remat` is on. Where T^2 scores were held, it would
grow with T.

With --topology the program is compiled for one of these TPUs, which need not be
there, and has no time.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import harness
from benchmarks.speed import pair
from benchmarks.tpu import chips
from skd_jax import models, structs
from skd_jax.losses import token_losses
from skd_jax.models.loading import LoadedModel
from skd_jax.parallel import sharding
from skd_jax.reporting import provenance
from skd_jax.training import generation, memory, train_step

_TOPOLOGY = flags.DEFINE_string(
  "topology", None, "Compile for these TPUs, such as v5e:1x1; measure no time."
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of the measurement."""

  lengths: tuple[int, ...] = (512, 2048, 8192)
  num_tokens: int = 8192
  shape: str = "tiny"  # Of pair.SHAPES.


QUICK = Settings(lengths=(128, 256), num_tokens=512)


def make_problem(
  length: int, settings: Settings, mesh: jax.sharding.Mesh
) -> tuple[train_step.TrainFns, tuple[Any, ...]]:
  """Returns the functions that train, and shapes for the step."""
  config = pair.config_of_shape(settings.shape)
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  dtype = jnp.float32 if on_cpu else jnp.bfloat16
  whole, rows = sharding.replicated(mesh), sharding.rows(mesh)

  def placed(tree, where):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree
    )

  student = LoadedModel(
    config,
    models.create(config, dtype=dtype, remat=True),
    placed(models.param_shapes(config), whole),
  )
  train = train_step.make_train_fns(
    student,
    None,
    token_loss=token_losses.supervised_token_loss,
    optimizer=train_step.make_optimizer(
      lambda step: 1e-4, clip_norm=1.0, weight_decay=0.0, beta1=0.9, beta2=0.98
    ),
    chunk_size=0,
    num_microbatches=1,
    mesh=mesh,
  )
  num_rows = settings.num_tokens // length

  def batch() -> structs.Batch:
    # The last token of a row is predicted and not read.
    numbers = jnp.zeros(num_rows, jnp.int32)
    return structs.Batch(
      prompt=numbers[:, None],
      prompt_length=numbers + 1,
      reference=jnp.zeros((num_rows, length), jnp.int32),
      reference_length=numbers + length,
      index=numbers,
      task_id=numbers,
      max_new_tokens=numbers + length,
    )

  state = jax.eval_shape(train.init, student.params)
  inputs = jax.eval_shape(
    lambda: (batch(), generation.reference_rollout(batch()))
  )
  return train, (state, train.frozen, None, *placed(inputs, rows))


def measure(
  length: int, settings: Settings, mesh: jax.sharding.Mesh, *, timed: bool
) -> harness.Row:
  """Compiles a step, and takes one if its devices are there and it is timed."""
  print(f"T = {length}", flush=True)
  train, shapes = make_problem(length, settings, mesh)
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    compiled = train.step_with.lower(*shapes).compile()
  stats: Any = compiled.memory_analysis()
  results = stats.output_size_in_bytes - stats.alias_size_in_bytes
  peak = stats.argument_size_in_bytes + stats.temp_size_in_bytes + results
  state = shapes[0]
  config = pair.config_of_shape(settings.shape)
  kept = config.num_layers * settings.num_tokens * config.hidden_size
  itemsize = 4 if mesh.devices.flat[0].platform == "cpu" else 2
  least = (
    memory.held_bytes(state) + memory.held_bytes(state.params) + kept * itemsize
  )
  row: harness.Row = {
    "shape": settings.shape,
    "length": length,
    "rows": settings.num_tokens // length,
    "memory_ratio": peak / least,
    "peak_gib": peak / memory.GIB,
    "least_gib": least / memory.GIB,
    "seconds": None,
  }
  if not timed:
    return row
  arguments = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), shapes
  )
  seconds, _ = harness.time_once(functools.partial(compiled, *arguments))
  return row | {
    "seconds": seconds,
    "tokens_per_s": settings.num_tokens / seconds,
  }


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Runs what the command line asks for."""
  settings = QUICK if quick else Settings()
  shape = pair.shape_from_flags(settings.shape)
  settings = dataclasses.replace(settings, shape=shape)
  devices: Sequence[Any] = jax.devices()[:1]
  if _TOPOLOGY.value:
    devices = chips.tpu_devices(_TOPOLOGY.value)[:1]
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=devices)
  timed = not _TOPOLOGY.value
  return [
    measure(length, settings, mesh, timed=timed) for length in settings.lengths
  ]


def device(quick: bool) -> str:
  """Returns the name of what the result depends on."""
  del quick
  name = _TOPOLOGY.value or provenance.device_name()
  return name.partition(":")[0]


if __name__ == "__main__":
  harness.run(
    "long_sequences",
    rows_from_flags,
    program="speed.long_sequences",
    result="speed/{device}/long_sequences.json",
    device=device,
  )
