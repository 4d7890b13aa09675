"""Runs the fault suite; the package says what is in it."""

import collections
import itertools
import os
import pathlib
import random
import sys
import tempfile

import jax
from absl import app, flags, logging

from tests import tiny_run
from tests.faults import damages, disks, memory, stops

_KILLS = flags.DEFINE_integer("kills", 50, "How often a run is killed.")
_QUICK = flags.DEFINE_bool(
  "quick",
  False,
  "Two kills, two full disks, and a few of many damaged files; no run of two "
  "processes, and no long one.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the times and of what is damaged.")


def main(argv: list[str]) -> None:
  """Runs all faults; the exit code is 1 if one of them failed."""
  del argv
  logging.set_verbosity(logging.ERROR)
  rng = random.Random(_SEED.value)
  counts: collections.Counter[str] = collections.Counter()
  quick = _QUICK.value
  with tempfile.TemporaryDirectory() as folder_name:
    folder = pathlib.Path(folder_name)
    _keep_compiled(folder / "programs")
    data = folder / "data"
    data.mkdir()
    tiny_run.write_data(data)
    for fault, outcome in itertools.chain(
      stops.kill(data, folder, 2 if quick else _KILLS.value, rng),
      stops.terminate(data, folder),
      stops.kill_one_of_two(data, folder, 0 if quick else 4, rng),
      disks.fill(data, folder, times=3 if quick else 20),
      damages.damage_files(data, folder, 71 if quick else 1, rng),
      damages.flip_bits(folder, 2 if quick else 10, rng),
      damages.damage_model(data, folder, every=7 if quick else 1),
      memory.train_long(folder, 0 if quick else 2000),
    ):
      counts[outcome.partition(":")[0]] += 1
      print(f"{fault}: {outcome}", flush=True)
  print(", ".join(f"{number} {name}" for name, number in counts.items()))
  sys.exit(1 if counts["FAILED"] else 0)


def _keep_compiled(folder: pathlib.Path) -> None:
  """Has this process and its children keep programs, the small ones too.

  Hundreds of runs begin with the same ones.
  """
  for name, value in {
    "jax_compilation_cache_dir": str(folder),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
  }.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)


if __name__ == "__main__":
  app.run(main)
