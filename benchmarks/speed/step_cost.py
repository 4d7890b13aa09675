"""What a training step costs: SKD, on-policy KD, supervised KD, TRL's GKD.

  python -m benchmarks.speed.step_cost [--quick] [--teacher=HF_FOLDER]

A step is all of it: the rollout (or the teacher's pass over the references),
forward and backward pass of the student, and AdamW. All steps have the same
models, prompts, lengths and loss, KL(teacher || student).

  on_policy          the student generates, the teacher reads it once
  supervised         supervised KD: the teacher reads references
  skd_all_accepted   SKD, K = V
  skd_2pct, _10pct   SKD, K = 25, with a teacher that replaces such a share
  trl_gkd            TRL's GKDTrainer, on-policy (lmbda = 1, beta = 0)
"""

import dataclasses
import functools
import statistics
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import harness
from benchmarks.speed import pair as pair_lib
from benchmarks.speed import peers, rollouts
from benchmarks.speed.pair import Pair
from benchmarks.speed.regimes import Regime
from benchmarks.speed.rollouts import Contestant
from skd_jax import structs
from skd_jax.losses import divergence, token_losses
from skd_jax.training import generation
from skd_jax.training import train_step as train_step_lib

_ROWS = flags.DEFINE_integer("rows", None, "Of a step; by default 16.")
_CHUNK = flags.DEFINE_integer(
  "chunk", None, "Tokens whose loss is computed at once; by default 512."
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of the measurement."""

  batch_size: int = 16
  prompt_size: int = 32
  new_tokens: int = 64
  draft_lengths: tuple[int, ...] = (3, 4, 8)
  repeats: int = 3
  chunk_size: int = 512


QUICK = Settings(
  batch_size=4,
  prompt_size=8,
  new_tokens=16,
  draft_lengths=(4, 8),
)


class Trainer:
  """A student in training: its state, and a jitted step that donates it."""

  def __init__(self, pair: Pair, chunk_size: int) -> None:
    optimizer = train_step_lib.make_optimizer(
      train_step_lib.make_schedule(
        learning_rate=1e-5, num_steps=1000, warmup_steps=0, decay="linear"
      ),
      clip_norm=1.0,
      weight_decay=0.0,
      beta1=0.9,
      beta2=0.999,
    )
    loss_fn = functools.partial(
      train_step_lib.rollout_loss,
      student=pair.student.model,
      teacher=pair.teacher.model,
      token_loss=token_losses.distillation_token_loss(
        divergence.forward_kl, "uniform"
      ),
      chunk_size=chunk_size,
    )
    self._step = jax.jit(
      functools.partial(
        train_step_lib.train_step,
        loss_fn=loss_fn,
        optimizer=optimizer,
        num_microbatches=1,
      ),
      donate_argnums=0,
    )
    self._teacher_head = pair.teacher.model.head_params(pair.teacher.params)
    weights = jax.tree.map(
      lambda x: jnp.array(x, jnp.float32, copy=True), pair.student.params
    )
    self.state = train_step_lib.init_train_state(weights, optimizer)

  def train(
    self, batch: structs.Batch, generated: structs.Rollout
  ) -> dict[str, jax.Array]:
    """Takes one step on a rollout with teacher_hidden; returns its metrics."""
    self.state, metrics = self._step(
      self.state, self._teacher_head, batch, generated
    )
    return metrics


def make_rows(pair: Pair, settings: Settings) -> list[harness.Row]:
  """Times one step of each method, in turns.

  Every method generates with the student as it was at the start, so that the
  replacement rate stays what it was tuned to, and trains the same state.
  """
  tuned = rollouts.usual_regimes(
    pair,
    num_rows=settings.batch_size,
    prompt_size=settings.prompt_size,
    new_tokens=settings.new_tokens,
  )
  batch = pair_lib.make_prompts(pair, settings.batch_size, settings.prompt_size)
  field = make_contestants(pair, tuned, batch, settings)
  trainer = Trainer(pair, settings.chunk_size)

  def step_of(contestant):
    return lambda: trainer.train(batch, contestant.call())

  calls = {what: step_of(contestant) for what, contestant in field.items()}
  missing = peers.missing(peers.GKD)
  if not missing:
    _, calls["trl_gkd"] = peers.make_gkd_step(
      pair, batch.prompt, settings.new_tokens
    )
  timings = harness.interleaved(calls, settings.repeats)
  rows: list[harness.Row] = [
    {
      "what": what,
      "seconds": min(seconds),
      "ratio_to_on_policy": min(seconds) / min(timings["on_policy"]),
      "seconds_median": statistics.median(seconds),
      **(field[what].columns if what in field else {}),
    }
    for what, seconds in timings.items()
  ]
  if missing:
    rows.append({"what": "trl_gkd", "seconds": None, "note": missing})
  return rows


def make_contestants(
  pair: Pair,
  tuned: Mapping[str, Regime],
  batch: structs.Batch,
  settings: Settings,
) -> dict[str, Contestant]:
  """Returns the rollout, with teacher_hidden, of each method."""
  function = rollouts.make_rollout(
    pair, "on_policy", max_new_tokens=settings.new_tokens
  )
  on_policy = rollouts.bind(function, pair, batch)
  # Responses of full length take the place of references.
  responses = on_policy().tokens
  with_references = dataclasses.replace(
    batch,
    reference=responses,
    reference_length=jnp.full(responses.shape[0], settings.new_tokens),
  )

  @jax.jit
  def read(teacher_params: Any) -> structs.Rollout:
    references = generation.reference_rollout(with_references)
    return rollouts.with_teacher(pair, references, teacher_params, batch)

  return {
    "on_policy": Contestant(on_policy),
    "supervised": Contestant(functools.partial(read, pair.teacher.params)),
    **rollouts.fastest(
      tuned,
      batch,
      max_new_tokens=settings.new_tokens,
      draft_lengths=settings.draft_lengths,
    ),
  }


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Runs what the command line asks for."""
  pair = pair_lib.from_flags(quick)
  print(pair.name)
  settings = QUICK if quick else Settings()
  if _ROWS.value:
    settings = dataclasses.replace(settings, batch_size=_ROWS.value)
  if _CHUNK.value:
    settings = dataclasses.replace(settings, chunk_size=_CHUNK.value)
  return make_rows(pair, settings)


if __name__ == "__main__":
  harness.run(
    "step_cost",
    rows_from_flags,
    program="speed.step_cost",
    result="speed/{device}/step_cost.json",
  )
