"""Memory and time of the chunked loss, over those of the plain one.

  python -m benchmarks.speed.loss_memory [--quick]

Both compute the same sum of KL(teacher || student) and its gradient with
respect to the student's head and hidden states. The plain loss holds the
logits [T, V] of both models; the chunked one (skd_jax.losses.chunked) never
does.

`memory_ratio` is chunked over plain, of the peak that the compiler reports
(memory_analysis: temporaries and outputs); `time_ratio` is measured.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from skd_jax import models, structs
from skd_jax.losses import chunked, divergence, token_losses


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of the measurement."""

  vocabs: tuple[int, ...] = (32_000, 152_000, 256_000)
  lengths: tuple[int, ...] = (512, 2048)
  width: int = 576
  chunk_size: int = 64
  repeats: int = 2


QUICK = Settings(
  vocabs=(8_000, 32_000), lengths=(128, 512), width=64, chunk_size=32
)


def measure(vocab: int, length: int, settings: Settings) -> harness.Row:
  """Compiles both losses for one size, and times them if they fit."""
  print(f"V = {vocab}, T = {length}", flush=True)
  model, arguments = make_problem(vocab, length, settings.width)
  programs = {
    name: jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    .lower(*arguments)
    .compile()
    for name, loss in make_losses(model, settings.chunk_size).items()
  }
  memory = {name: peak_bytes(program) for name, program in programs.items()}
  row: harness.Row = {
    "vocab": vocab,
    "length": length,
    "memory_ratio": memory["chunked"] / memory["plain"],
    "time_ratio": None,
    "plain_gib": memory["plain"] / 2**30,
    "chunked_gib": memory["chunked"] / 2**30,
    "width": settings.width,
    "chunk_size": settings.chunk_size,
  }
  available = harness.available_bytes()
  if memory["plain"] > 0.9 * available:
    note = f"plain does not fit into the {available / 2**30:.0f} GiB available"
    return row | {"note": note}
  timings = harness.interleaved(
    {
      name: functools.partial(program, *arguments)
      for name, program in programs.items()
    },
    settings.repeats,
  )
  plain, chunk = min(timings["plain"]), min(timings["chunked"])
  seconds = {"plain_seconds": plain, "chunked_seconds": chunk}
  return row | {"time_ratio": chunk / plain} | seconds


def make_problem(
  vocab: int, length: int, width: int
) -> tuple[structs.LanguageModel, tuple[Any, ...]]:
  """Returns a model with the head, and the arguments of both losses."""
  config = models.ModelConfig(
    vocab_size=vocab,
    hidden_size=width,
    intermediate_size=width,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
  )
  keys = jax.random.split(jax.random.key(0), 4)
  student_head, teacher_head = (
    {"kernel": jax.random.normal(key, (vocab, width)) * width**-0.5}
    for key in keys[:2]
  )
  hidden, teacher_hidden = (
    jax.random.normal(key, (length, width)) for key in keys[2:]
  )
  inputs = token_losses.TokenInputs(
    tokens=jnp.zeros(length, jnp.int32),
    source=jnp.zeros(length, jnp.int8),
    teacher_hidden=teacher_hidden,
  )
  mask = jnp.ones(length, bool)
  arguments = (student_head, hidden, teacher_head, inputs, mask)
  return models.create(config), arguments


def make_losses(
  model: structs.LanguageModel, chunk_size: int
) -> dict[str, Callable[..., jax.Array]]:
  """Returns both losses by name."""
  token_loss = token_losses.distillation_token_loss(
    divergence.forward_kl, "uniform"
  )

  def plain_loss(head, hidden, teacher_head, inputs, mask):
    student = model.head(head, hidden)
    teacher = model.head(teacher_head, inputs.teacher_hidden)
    kl = divergence.forward_kl(teacher, student)
    return jnp.sum(jnp.where(mask, kl, 0.0))

  def chunked_loss(*arguments):
    return chunked.chunked_loss(
      token_loss, model, model, chunk_size, *arguments
    )[0]

  return {"plain": plain_loss, "chunked": chunked_loss}


def peak_bytes(compiled: jax.stages.Compiled) -> int:
  """Returns the temporaries and outputs of a program, in bytes.

  Raises:
    ValueError: the compiler of this device does not tell.
  """
  analysis = compiled.memory_analysis()
  if analysis is None:
    raise ValueError("memory_analysis: this device has none")
  return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Runs what the command line asks for."""
  settings = QUICK if quick else Settings()
  return [
    measure(vocab, length, settings)
    for vocab in settings.vocabs
    for length in settings.lengths
  ]


if __name__ == "__main__":
  harness.run(
    "loss_memory",
    rows_from_flags,
    program="speed.loss_memory",
    result="speed/{device}/loss_memory.json",
  )
