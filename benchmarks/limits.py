"""What the machine can do, and what a decode round needs of it.

A pass over the weights takes at least as long as it takes to read the weights
and the filled part of the cache, and at least as long as its multiplications:

  seconds >= max(bytes / bandwidth, operations / rate)

Bandwidth and rate are measured, in the same run and by the same compiler.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from skd_jax import models


@dataclasses.dataclass(frozen=True)
class Machine:
  """What was measured."""

  bytes_per_s: float  # Of memory, the best of reading and copying.
  flops_per_s: float  # Of a large square product in the given dtype.


def measure(dtype: Any, *, quick: bool = False) -> Machine:
  """Measures memory bandwidth and the rate of matrix products.

  Args:
    dtype: of the matrix product.
    quick: smaller arrays, still larger than most last-level caches.
  """
  on_cpu = jax.default_backend() == "cpu"
  return Machine(
    bytes_per_s=measure_bandwidth(
      num_bytes=2**28 if quick else 2**30, repeats=3 if quick else 7
    ),
    flops_per_s=measure_matmul(
      size=(1024 if quick else 2048) if on_cpu else 8192,
      dtype=dtype,
      repeats=3 if quick else 7,
    ),
  )


def measure_bandwidth(num_bytes: int, repeats: int) -> float:
  """Returns bytes/s: the best of a sum, a product with a vector and a copy.

  Args:
    num_bytes: of the array; larger than the last-level cache.
    repeats: of each kernel; the best counts.
  """
  width = 4096
  matrix = jnp.ones((num_bytes // 4 // width, width), jnp.float32)
  vector = jnp.ones(width, jnp.float32)
  kernels = {
    # (function, bytes that go through memory, as parts of the array)
    "sum": (jax.jit(lambda x: jnp.sum(x, axis=1)), 1),
    "product": (jax.jit(lambda x: x @ vector), 1),
    "copy": (jax.jit(lambda x: x + 1), 2),
  }
  timings = harness.interleaved(
    {name: lambda f=f: f(matrix) for name, (f, _) in kernels.items()}, repeats
  )
  return max(
    parts * matrix.nbytes / timings[name].best
    for name, (_, parts) in kernels.items()
  )


def measure_matmul(size: int, dtype: Any, repeats: int) -> float:
  """Returns operations/s of a [size, size] product, accumulated in float32."""
  matrix = jnp.ones((size, size), dtype)
  product = jax.jit(lambda a, b: a @ b)
  timing = harness.interleaved(
    {"matmul": lambda: product(matrix, matrix)}, repeats
  )
  return 2 * size**3 / timing["matmul"].best


def layer_weights(config: models.ModelConfig) -> int:
  """Counts the weights of the matrices of one layer."""
  heads = config.num_heads * config.head_dim
  kv_heads = config.num_kv_heads * config.head_dim
  attention = config.hidden_size * (2 * heads + 2 * kv_heads)
  return attention + 3 * config.hidden_size * config.intermediate_size


def pass_seconds(
  machine: Machine,
  config: models.ModelConfig,
  *,
  rows: int,
  tokens: int,
  context: float,
  itemsize: int,
  head: bool = True,
) -> float:
  """Returns the least seconds of one pass with a cache.

  Args:
    machine: from measure.
    config: the model.
    rows: B.
    tokens: read by each row in this pass.
    context: slots of the cache that each of them sees, on average.
    itemsize: bytes of a weight and of a cached number.
    head: whether every token goes through the head.
  """
  weights = config.num_layers * layer_weights(config)
  if head:
    weights += config.vocab_size * config.hidden_size
  kv_heads = config.num_kv_heads * config.head_dim
  cached = 2 * config.num_layers * rows * kv_heads * context
  heads = config.num_heads * config.head_dim
  attention = 4 * config.num_layers * rows * tokens * heads * context
  flops = 2 * rows * tokens * weights + attention
  return max(
    (weights + cached) * itemsize / machine.bytes_per_s,
    flops / machine.flops_per_s,
  )


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Of a rollout in which no response ends early."""

  rows: int
  prompt_size: int
  new_tokens: int
  itemsize: int  # Bytes of a weight and of a cached number.

  @property
  def context(self) -> float:
    """Slots of the cache that a new token sees, on average."""
    return self.prompt_size + self.new_tokens / 2


def read_seconds(
  machine: Machine, config: models.ModelConfig, sizes: Sizes, tokens: int
) -> float:
  """Returns the least seconds to read `tokens` a row, without the head."""
  return pass_seconds(
    machine,
    config,
    rows=sizes.rows,
    tokens=tokens,
    context=tokens / 2,
    itemsize=sizes.itemsize,
    head=False,
  )


def step_seconds(
  machine: Machine, config: models.ModelConfig, sizes: Sizes, tokens: int = 1
) -> float:
  """Returns the least seconds of a decode step or of a verification."""
  return pass_seconds(
    machine,
    config,
    rows=sizes.rows,
    tokens=tokens,
    context=sizes.context,
    itemsize=sizes.itemsize,
  )


def write_seconds(
  machine: Machine, config: models.ModelConfig, sizes: Sizes
) -> float:
  """Returns the least seconds in which one model writes all responses."""
  prompts = read_seconds(machine, config, sizes, sizes.prompt_size)
  return prompts + sizes.new_tokens * step_seconds(machine, config, sizes)


def on_policy_seconds(
  machine: Machine,
  student: models.ModelConfig,
  teacher: models.ModelConfig,
  sizes: Sizes,
) -> float:
  """Returns the least seconds: the student writes, the teacher reads it."""
  tokens = sizes.prompt_size + sizes.new_tokens
  return write_seconds(machine, student, sizes) + read_seconds(
    machine, teacher, sizes, tokens
  )


def skd_seconds(
  machine: Machine,
  student: models.ModelConfig,
  teacher: models.ModelConfig,
  sizes: Sizes,
  *,
  num_draft_tokens: int,
  rounds: int,
) -> float:
  """Returns the least seconds of a rollout of so many rounds."""
  prompts = sum(
    read_seconds(machine, config, sizes, sizes.prompt_size)
    for config in (student, teacher)
  )
  draft = num_draft_tokens * step_seconds(machine, student, sizes)
  verify = step_seconds(machine, teacher, sizes, num_draft_tokens)
  return prompts + rounds * (draft + verify)


def training_seconds(
  machine: Machine,
  student: models.ModelConfig,
  teacher: models.ModelConfig,
  sizes: Sizes,
) -> float:
  """Returns the least seconds of the products of a train step.

  Three products for each weight of the student, forward and backward, for
  prompt and response; the teacher's head, forward, for the response.
  """
  tokens = sizes.rows * (sizes.prompt_size + sizes.new_tokens)
  layers = student.num_layers * layer_weights(student)
  heads = student.vocab_size * (3 * student.hidden_size + teacher.hidden_size)
  flops = 6 * tokens * layers + 2 * sizes.rows * sizes.new_tokens * heads
  return flops / machine.flops_per_s
