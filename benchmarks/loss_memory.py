"""Memory and time of the chunked loss, over those of the plain one.

  python -m benchmarks.loss_memory [--quick]

Both compute the same sum of KL(teacher || student) and its gradient with
respect to the student's head and hidden states. The plain loss holds both
[T, V] logits; the chunked one, of skd_jax.loss, never does.

`memory_ratio` is chunked over plain, of the peak that the compiler reports
(memory_analysis: temporaries and outputs); `time_ratio` is measured.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import harness
from skd_jax import models, structs
from skd_jax.losses import chunked, divergence

_WIDTH = flags.DEFINE_integer(
  "width", None, "D, of the hidden states; 576 by default, as in SmolLM2-135M."
)
_CHUNK_SIZE = flags.DEFINE_integer(
  "chunk_size", None, "Tokens whose logits are held at once."
)


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


@dataclasses.dataclass(frozen=True)
class Problem:
  """One size: the model whose head is applied, and the arguments."""

  model: structs.LanguageModel
  arguments: tuple[Any, ...]  # head, hidden, teacher's head, inputs, mask


def make_rows(settings: Settings) -> list[harness.Row]:
  """Measures every vocabulary and length."""
  return [
    measure(vocab, length, settings)
    for vocab in settings.vocabs
    for length in settings.lengths
  ]


def measure(vocab: int, length: int, settings: Settings) -> harness.Row:
  """Compiles both losses for one size, and times them if they fit."""
  print(f"V = {vocab}, T = {length}", flush=True)
  problem = make_problem(vocab, length, settings.width)
  losses = {
    "plain": plain_loss(problem.model),
    "chunked": chunked_loss(problem.model, settings.chunk_size),
  }
  compiled = {
    name: jax.jit(jax.value_and_grad(function, argnums=(0, 1)))
    .lower(*problem.arguments)
    .compile()
    for name, function in losses.items()
  }
  memory = {name: peak_bytes(program) for name, program in compiled.items()}
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
      name: lambda program=program: program(*problem.arguments)
      for name, program in compiled.items()
    },
    settings.repeats,
  )
  return row | {
    "time_ratio": timings["chunked"].best / timings["plain"].best,
    "plain_seconds": timings["plain"].best,
    "chunked_seconds": timings["chunked"].best,
  }


def make_problem(vocab: int, length: int, width: int) -> Problem:
  """Makes hidden states, targets and heads of one size."""
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
  heads = [
    {"kernel": jax.random.normal(key, (vocab, width)) * width**-0.5}
    for key in keys[:2]
  ]
  hidden, teacher_hidden = (
    jax.random.normal(key, (length, width)) for key in keys[2:]
  )
  inputs = chunked.TokenInputs(
    tokens=jnp.zeros(length, jnp.int32),
    source=jnp.zeros(length, jnp.int8),
    teacher_hidden=teacher_hidden,
  )
  mask = jnp.ones(length, bool)
  arguments = (heads[0], hidden, heads[1], inputs, mask)
  return Problem(models.create(config), arguments)


def plain_loss(model: structs.LanguageModel) -> Callable[..., jax.Array]:
  """Returns the loss that holds the logits of all tokens, [T, V]."""

  def function(head, hidden, teacher_head, inputs, mask):
    student = model.head(head, hidden)
    teacher = model.head(teacher_head, inputs.teacher_hidden)
    return jnp.sum(
      jnp.where(mask, divergence.forward_kl(teacher, student), 0.0)
    )

  return function


def chunked_loss(
  model: structs.LanguageModel, chunk_size: int
) -> Callable[..., jax.Array]:
  """Returns the loss of skd_jax.loss, as the train step calls it."""
  token_loss = chunked.distillation_token_loss(divergence.forward_kl, "uniform")

  def function(head, hidden, teacher_head, inputs, mask):
    total, _ = chunked.chunked_loss(
      token_loss,
      model,
      model,
      chunk_size,
      head,
      hidden,
      teacher_head,
      inputs,
      mask,
    )
    return total

  return function


def peak_bytes(compiled: jax.stages.Compiled) -> int:
  """Returns the temporaries and outputs of a program, in bytes.

  Raises:
    ValueError: the compiler of this device does not tell.
  """
  analysis = compiled.memory_analysis()
  if analysis is None:
    raise ValueError("memory_analysis: this device has none")
  return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def rows_from_flags(quick: bool) -> Sequence[harness.Row]:
  """Runs what the command line asks for."""
  settings = QUICK if quick else Settings()
  return make_rows(
    dataclasses.replace(
      settings,
      width=_WIDTH.value or settings.width,
      chunk_size=_CHUNK_SIZE.value or settings.chunk_size,
    )
  )


if __name__ == "__main__":
  harness.run("loss_memory", rows_from_flags)
