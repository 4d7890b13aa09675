"""What packed rows save in supervised training.

  python -m benchmarks.speed.packing [--quick]

Both ways train on the same batches of the embedded corpus, in turns, and so
take the same steps. `fill` is the share of the computed tokens that belong to
an example, `time_ratio` the time of packed over that of usual rows.
"""

import dataclasses
import functools
import tempfile
from typing import Any

import jax
import numpy as np

from benchmarks import harness
from skd_jax import config as config_lib
from skd_jax import experiment as experiment_lib
from skd_jax import methods, preparation, structs
from skd_jax.models import LoadedModel
from skd_jax.training import generation
from skd_jax.training.train_step import TrainFns


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of the measurement."""

  packed_lengths: tuple[int, ...] = (128,)
  num_batches: int = 4
  batch_size: int = 64
  repeats: int = 2
  changes: tuple[tuple[str, Any], ...] = ()


QUICK = Settings(
  packed_lengths=(256,),
  num_batches=2,
  batch_size=64,
  repeats=1,
  changes=(
    ("student.hidden_size", 32),
    ("student.intermediate_size", 64),
    ("tokenizer.vocab_size", 500),
    ("data.long_prompts", "leave_out"),
    ("data.max_train_examples", 200),
  ),
)


def make_rows(settings: Settings) -> list[harness.Row]:
  """Times some steps of SFT with rows of one example, and with packed ones."""
  config = methods.change(
    config_lib.default_config(),
    {"student.fit.batch_size": settings.batch_size, **dict(settings.changes)},
  )
  with tempfile.TemporaryDirectory() as workdir:
    experiment = experiment_lib.open_experiment(config, workdir)
    with jax.set_mesh(experiment.mesh):
      model, train = preparation.prepare_fine_tuning(experiment, "student")
      batches = {
        size: _batches(experiment, size, settings.num_batches)
        for size in (0, *settings.packed_lengths)
      }
      timings = harness.interleaved(
        {
          str(size): functools.partial(_train, model, train, found)
          for size, found in batches.items()
        },
        settings.repeats,
      )
  usual = min(timings["0"])
  return [
    {
      "packed_length": size,
      "rows": sum(len(batch.index) for batch in found) / len(found),
      "fill": _fill(found, batches[0]),
      "seconds": min(timings[str(size)]),
      "time_ratio": min(timings[str(size)]) / usual,
    }
    for size, found in batches.items()
  ]


def _batches(
  experiment: experiment_lib.Experiment, size: int, count: int
) -> list[structs.Batch]:
  fit = experiment.config.student.fit.copy_and_resolve_references()
  fit.packed_length = size
  batches = experiment.train_batches(fit, seed=0)
  return [next(batches) for _ in range(count)]


def _train(
  model: LoadedModel, train: TrainFns, batches: list[structs.Batch]
) -> structs.TrainState:
  state = train.init(model.params)
  for batch in batches:
    rollout = generation.reference_rollout(batch)
    state, _ = train.step(state, None, batch, rollout)
  return state


def _fill(found: list[structs.Batch], usual: list[structs.Batch]) -> float:
  """Returns the tokens of the examples over those of the rows."""
  tokens = sum(
    int(np.sum(batch.prompt_length) + np.sum(batch.reference_length))
    for batch in usual
  )
  computed = sum(
    len(batch.index) * (batch.prompt.shape[1] + batch.reference.shape[1])
    for batch in found
  )
  return tokens / computed


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Runs what the command line asks for."""
  return make_rows(QUICK if quick else Settings())


if __name__ == "__main__":
  harness.run(
    "packing",
    rows_from_flags,
    program="speed.packing",
    result="speed/{device}/packing.json",
  )
