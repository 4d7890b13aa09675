"""What a training step costs: SKD, on-policy KD, supervised KD, TRL's GKD.

  python -m benchmarks.step_cost [--quick] [--teacher=HF_FOLDER]

A step is all of it: the rollout (or the teacher's pass over the references),
the forward and backward pass of the student, and AdamW. All steps have the same
models, prompts, lengths and loss, KL(teacher || student).

  on_policy          the student writes, the teacher reads it once
  skd_all_accepted   SKD, K = V
  skd_2pct, _10pct   SKD, K = 25, a teacher that replaces such a part
  supervised         supervised KD: the teacher reads references
  trl_gkd            TRL's GKDTrainer, on-policy (lmbda = 1, beta = 0)

`limit_seconds` is what the products and the memory of a step need at the rates
that limits.py measures, the drafts and rounds as they were; the optimizer, the
norms, softmax and attention come on top.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import contestants, corrected, gkd, harness, limits
from benchmarks import pair as pair_lib
from benchmarks.corrected import Corrected
from benchmarks.pair import Pair
from skd_jax import structs
from skd_jax.losses import chunked, divergence
from skd_jax.training import train_step as train_step_lib

# (student's float32 masters, teacher's weights) -> Rollout with teacher_hidden
WriteFn = Callable[[structs.Params, structs.Params], structs.Rollout]


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
    self._optimizer = train_step_lib.make_optimizer(
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
      token_loss=chunked.distillation_token_loss(
        divergence.forward_kl, "uniform"
      ),
      chunk_size=chunk_size,
    )
    self._step = jax.jit(
      functools.partial(
        train_step_lib.train_step,
        loss_fn=loss_fn,
        optimizer=self._optimizer,
        num_microbatches=1,
      ),
      donate_argnums=0,
    )
    masters = jax.tree.map(
      lambda x: jnp.array(x, jnp.float32, copy=True), pair.student.params
    )
    self.state = train_step_lib.init_train_state(masters, self._optimizer)

  def learn(
    self, pair: Pair, batch: structs.Batch, written: structs.Rollout
  ) -> dict[str, jax.Array]:
    """Takes one step on a rollout; returns its metrics."""
    head = pair.teacher.model.head_params(pair.teacher.params)
    self.state, metrics = self._step(self.state, head, batch, written)
    return metrics


def make_rows(
  pair: Pair, settings: Settings, machine: limits.Machine
) -> list[harness.Row]:
  """Times one step of each method, in turns.

  Every method writes with the student as it was at the start, so that the
  replacement rate stays what it was tuned to, and trains the same state.

  Args:
    pair: the models.
    settings: sizes.
    machine: what the limits are computed from.
  """
  regimes = corrected.usual_regimes(
    pair,
    num_rows=settings.batch_size,
    prompt_size=settings.prompt_size,
    new_tokens=settings.new_tokens,
  )
  batch = pair_lib.make_prompts(pair, settings.batch_size, settings.prompt_size)
  writers = make_writers(pair, regimes, batch, settings)
  trainer = Trainer(pair, settings.chunk_size)
  calls: dict[str, Callable[[], Any]] = {
    what: functools.partial(_step, trainer, pair, batch, write)
    for what, (write, _) in writers.items()
  }
  columns = {
    what: found
    | {"limit_seconds": limit_seconds(pair, settings, machine, what, found)}
    for what, (_, found) in writers.items()
  }
  missing = gkd.missing()
  if missing:
    timings = harness.interleaved(calls, settings.repeats)
    absent = {"what": "trl_gkd", "seconds": None, "note": missing}
    return [*_rows(timings, columns), absent]
  with gkd.SteppedTrainer(
    pair, batch.prompt, settings.new_tokens, settings.repeats + 1
  ) as peer:
    timings = harness.interleaved(
      calls | {"trl_gkd": peer.step}, settings.repeats
    )
  return _rows(timings, columns)


def limit_seconds(
  pair: Pair,
  settings: Settings,
  machine: limits.Machine,
  what: str,
  columns: Mapping[str, Any],
) -> float:
  """Returns the least seconds of a step: of its products, or of memory."""
  student, teacher = pair.student.config, pair.teacher.config
  sizes = limits.Sizes(
    settings.batch_size,
    settings.prompt_size,
    settings.new_tokens,
    pair.itemsize,
  )
  if what == "supervised":
    tokens = sizes.prompt_size + sizes.new_tokens
    write = limits.read_seconds(machine, teacher, sizes, tokens)
  elif what == "on_policy":
    write = limits.on_policy_seconds(machine, student, teacher, sizes)
  else:
    write = limits.skd_seconds(
      machine,
      student,
      teacher,
      sizes,
      num_draft_tokens=columns["num_draft_tokens"],
      rounds=columns["rounds"],
    )
  return write + limits.training_seconds(machine, student, teacher, sizes)


def make_writers(
  pair: Pair,
  regimes: dict[str, Corrected],
  batch: structs.Batch,
  settings: Settings,
) -> dict[str, tuple[Callable[[], structs.Rollout], dict[str, Any]]]:
  """Returns who writes the data of each method, and columns of its row."""
  stop_table = contestants.never_stop(pair.teacher.config.vocab_size)
  on_policy = contestants.bind(
    contestants.make_on_policy(
      pair, stop_table, max_new_tokens=settings.new_tokens
    ),
    pair,
    batch,
    0.0,
  )
  references = on_policy().tokens
  read = jax.jit(
    lambda params: contestants.with_teacher(
      pair,
      train_step_lib.reference_rollout(_with_references(batch, references)),
      params,
      batch,
    )
  )
  writers: dict[str, tuple[Callable[[], structs.Rollout], dict[str, Any]]] = {
    "on_policy": (on_policy, {}),
    "supervised": (functools.partial(read, pair.teacher.params), {}),
  }
  return writers | corrected.fastest_rollouts(
    regimes,
    batch,
    max_new_tokens=settings.new_tokens,
    draft_lengths=settings.draft_lengths,
  )


def _with_references(
  batch: structs.Batch, references: jax.Array
) -> structs.Batch:
  """The prompts, with responses of full length in place of references."""
  return dataclasses.replace(
    batch,
    reference=references,
    reference_length=jnp.full(
      references.shape[0], references.shape[1], jnp.int32
    ),
  )


def _step(
  trainer: Trainer,
  pair: Pair,
  batch: structs.Batch,
  write: Callable[[], structs.Rollout],
) -> dict[str, jax.Array]:
  return trainer.learn(pair, batch, write())


def _rows(timings, columns) -> list[harness.Row]:
  base = timings["on_policy"].best
  return [
    {
      "what": what,
      "seconds": timing.best,
      "ratio_to_on_policy": timing.best / base,
      "seconds_median": timing.median,
    }
    | columns.get(what, {})
    for what, timing in timings.items()
  ]


def rows_from_flags(quick: bool) -> Sequence[harness.Row]:
  """Runs what the command line asks for."""
  pair = pair_lib.from_flags(quick)
  print(pair.name)
  machine = limits.measure(pair.teacher.params["embedding"].dtype, quick=quick)
  return make_rows(pair, QUICK if quick else Settings(), machine)


if __name__ == "__main__":
  harness.run("step_cost", rows_from_flags)
