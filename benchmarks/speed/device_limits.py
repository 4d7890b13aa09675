"""How near generating and training come to what the device can do.

  python -m benchmarks.speed.device_limits [--quick] [--shape=llama_1b]

The limits are measured in the same run: `copy` reads and writes a large array,
`matmul` multiplies two large matrices in the dtype of the model, which is
bfloat16 but on a CPU.

  decode  a student generates, a token of each row at a time. `bytes` of a step
          are its weights, read once, and the cache, read whole; `of_limit` is
          their rate over that of `copy`.
  train   a step of supervised fine-tuning. `flops` are those of the model: 6
          for a weight and a token, 12 for a number of a head and a pair of
          tokens in attention; what is computed a second time does not count.
          `of_limit` is their rate over that of `matmul`.

The seconds of a decode step are the difference of two calls of one program,
whose responses end after T / 2 and after T tokens: it has no prompts in it.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.speed import pair as pair_lib
from benchmarks.speed import rollouts
from skd_jax import structs
from skd_jax.losses import token_losses
from skd_jax.models.loading import LoadedModel
from skd_jax.parallel import sharding
from skd_jax.training import generation, train_step


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of the measurement."""

  batches: tuple[int, ...] = (1, 8, 16, 32)
  prompt_size: int = 32
  new_tokens: int = 256
  train_rows: int = 16
  train_length: int = 512
  chunk_size: int = 4096
  copied_bytes: int = 2**30
  matrix_size: int = 8192
  repeats: int = 5


ON_CPU = Settings(
  batches=(1, 16),
  new_tokens=64,
  train_length=64,
  copied_bytes=2**28,
  matrix_size=1024,
)
QUICK = Settings(
  batches=(1, 4),
  prompt_size=8,
  new_tokens=16,
  train_rows=4,
  train_length=32,
  copied_bytes=2**24,
  matrix_size=256,
)


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
  """Calls a function once, then some times more; returns their median."""
  return statistics.median(harness.interleaved({"it": function}, repeats)["it"])


def copy_rate(settings: Settings) -> float:
  """Returns the bytes that are read or written in a second."""
  x = jnp.ones(settings.copied_bytes // 4, jnp.float32)
  many = 10

  @jax.jit
  def copies(x):
    return jax.lax.fori_loop(0, many, lambda _, x: x * 0.5, x)

  call = functools.partial(copies, x)
  seconds = median_seconds(call, settings.repeats)
  return 2 * x.nbytes * many / seconds


def matmul_rate(settings: Settings, dtype: Any) -> float:
  """Returns the floating-point operations of matrix products in a second."""
  size, many = settings.matrix_size, 10
  shape = (size, size)
  a, b = (jax.random.normal(jax.random.key(i), shape, dtype) for i in (0, 1))

  @jax.jit
  def products(a, b):
    def one(_, x):
      return (x @ b) * jnp.asarray(size**-0.5, dtype)

    return jax.lax.fori_loop(0, many, one, a)

  seconds = median_seconds(functools.partial(products, a, b), settings.repeats)
  return 2 * size**3 * many / seconds


def num_bytes(arrays: Any) -> int:
  """Returns the size of arrays, or of their shapes."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))


def read_bytes(model: LoadedModel, batch_size: int, num_slots: int) -> int:
  """Returns the bytes of weights and cache that a decode step reads.

  Of an embedding that is not the head it reads a few rows.
  """
  weights = dict(model.params)
  if not model.config.tie_embeddings:
    del weights["embedding"]
  cache = jax.eval_shape(lambda: model.model.init_cache(batch_size, num_slots))
  return num_bytes(weights) + num_bytes(cache)


def decode_rows(
  model: LoadedModel, settings: Settings, copied: float
) -> Iterator[harness.Row]:
  """Times a decode step at each batch size."""
  calls = {
    size: decode_calls(model, size, settings) for size in settings.batches
  }
  harness.compile_all(half for half, _ in calls.values())
  length = settings.new_tokens
  slots = settings.prompt_size + length + 1
  for batch_size, (half, whole) in calls.items():
    print(f"decode, B = {batch_size}", flush=True)
    timings = harness.interleaved(
      {"half": half, "whole": whole}, settings.repeats
    )
    difference = statistics.median(timings["whole"]) - statistics.median(
      timings["half"]
    )
    seconds = difference / (length - length // 2)
    read = read_bytes(model, batch_size, slots)
    yield {
      "what": "decode",
      "batch": batch_size,
      "seconds": seconds,
      "tokens_per_s": batch_size / seconds,
      "gbytes_per_s": read / seconds / 1e9,
      "of_limit": read / seconds / copied,
    }


def decode_calls(
  model: LoadedModel, batch_size: int, settings: Settings
) -> tuple[Callable[[], Any], ...]:
  """Returns the calls of one program that generate T / 2 and T tokens a row."""
  length = settings.new_tokens
  # The teacher of the pair is not used.
  pair = pair_lib.Pair("", student=model, teacher=model)
  batch = pair_lib.make_prompts(pair, batch_size, settings.prompt_size)
  function = rollouts.make_rollout(pair, "student", max_new_tokens=length)

  def call_of(limit):
    limits = jnp.full(batch_size, limit, jnp.int32)
    limited = dataclasses.replace(batch, max_new_tokens=limits)
    return rollouts.bind(function, pair, limited)

  return call_of(length // 2), call_of(length)


def make_train_step(
  model: LoadedModel, settings: Settings
) -> Callable[[], dict[str, jax.Array]]:
  """Returns a training step that keeps its state, on random references."""
  rows, length = settings.train_rows, settings.train_length
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  whole = sharding.replicated(mesh)
  params = jax.tree.map(
    lambda x: jax.device_put(x.astype(jnp.float32), whole), model.params
  )
  train = train_step.make_train_fns(
    LoadedModel(model.config, model.model, params),
    None,
    token_loss=token_losses.supervised_token_loss,
    optimizer=train_step.make_optimizer(
      lambda step: 1e-5, clip_norm=1.0, weight_decay=0.0, beta1=0.9, beta2=0.98
    ),
    chunk_size=settings.chunk_size,
    num_microbatches=1,
    mesh=mesh,
  )
  numbers = jnp.arange(rows, dtype=jnp.int32)
  full = jnp.full(rows, length, jnp.int32)
  # The last token of a row is predicted and not read.
  batch = structs.Batch(
    prompt=numbers[:, None],
    prompt_length=jnp.ones_like(full),
    reference=jax.random.randint(
      jax.random.key(0), (rows, length), 0, model.config.vocab_size
    ),
    reference_length=full,
    index=numbers,
    task_id=jnp.zeros_like(full),
    max_new_tokens=full,
  )
  inputs = jax.device_put(
    (batch, generation.reference_rollout(batch)), sharding.rows(mesh)
  )
  state = train.init(params)

  def step():
    nonlocal state
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      state, metrics = train.step_with(state, train.frozen, None, *inputs)
    return metrics

  return step


def train_row(
  model: LoadedModel, settings: Settings, multiplied: float
) -> harness.Row:
  """Times a training step."""
  print("train", flush=True)
  rows, length = settings.train_rows, settings.train_length
  seconds = median_seconds(make_train_step(model, settings), settings.repeats)
  flops = train_flops(model, rows, length)
  return {
    "what": "train",
    "batch": rows,
    "length": length,
    "seconds": seconds,
    "tokens_per_s": rows * length / seconds,
    "tflops_per_s": flops / seconds / 1e12,
    "of_limit": flops / seconds / multiplied,
  }


def train_flops(model: LoadedModel, rows: int, length: int) -> float:
  """Returns the FLOPs of a forward and a backward pass, none counted twice."""
  config = model.config
  weights = sum(x.size for x in jax.tree.leaves(model.params))
  if not config.tie_embeddings:
    weights -= model.params["embedding"].size
  pairs = length * (length + 1) / 2  # Of a token and one that it sees.
  scores = 12 * pairs * config.num_layers * config.num_heads * config.head_dim
  return rows * (6 * weights * length + scores)


def rows_from_flags(quick: bool) -> Iterator[harness.Row]:
  """Runs what the command line asks for."""
  on_cpu = jax.default_backend() == "cpu"
  settings = QUICK if quick else ON_CPU if on_cpu else Settings()
  usual = "tiny" if quick else "smollm2_135m" if on_cpu else "llama_1b"
  name = pair_lib.shape_from_flags(usual)
  dtype = jnp.float32 if on_cpu else jnp.bfloat16
  model = pair_lib.random_model(pair_lib.config_of_shape(name), dtype)
  copied, multiplied = copy_rate(settings), matmul_rate(settings, dtype)
  shape = {"shape": name}
  yield shape | {"what": "copy", "gbytes_per_s": copied / 1e9}
  yield shape | {"what": "matmul", "tflops_per_s": multiplied / 1e12}
  for row in decode_rows(model, settings, copied):
    yield shape | row
  yield shape | train_row(model, settings, multiplied)


if __name__ == "__main__":
  harness.run(
    "device_limits",
    rows_from_flags,
    program="speed.device_limits",
    result="speed/{device}/device_limits.json",
  )
