"""A run of the fault suite, in a process of its own.

python -m tests.faults.program DATA WORKDIR PHASE [HOST:PORT COUNT ID]
"""

import contextlib
import functools
import importlib
import io
import itertools
import os
import pathlib
import signal
import sys
from typing import Any

import ml_collections
from absl import logging

from skd_jax import main as main_lib
from skd_jax import methods, train
from skd_jax.parallel import compilation, processes
from skd_jax.training import checkpoint
from tests import tiny_run

# In the order in which a run comes to them: the module, its function, and which
# of its calls a process ends in.
PHASES = {
  "the writing of a checkpoint": ("skd_jax.reporting.manifest", "write", 3),
  "a save": ("skd_jax.training.checkpoint", "save", 2),
  "the evaluation": ("skd_jax.scoring", "make_evaluator", 1),
  "a rollout": ("skd_jax.training.generation", "generate_responses", 3),
  "a train step": ("skd_jax.train", "timed", 3),
  "a validation": ("skd_jax.training.callbacks", "Validate.__call__", 1),
  "the export": ("skd_jax.train", "export_student", 1),
}


def config(data: pathlib.Path) -> ml_collections.ConfigDict:
  """Returns the tiny config with one seed, and many checkpoints."""
  return methods.change(
    tiny_run.config(data),
    {
      "seeds": (0,),
      "teacher.fit.num_steps": 30,
      "teacher.fit.checkpoint_every_steps": 2,
      "student.fit.num_steps": 10,
      "distill.num_steps": 20,
      "distill.evaluate_every_steps": 10,
    },
  )


def run(data: pathlib.Path, workdir: pathlib.Path) -> None:
  """Runs it, or continues it."""
  with contextlib.redirect_stdout(io.StringIO()):  # The report.
    train.train_and_evaluate(config(data), workdir)


def owner_of(phase: str) -> tuple[Any, str]:
  """Returns the module or class that has the function of a phase, its name."""
  module, path, _ = PHASES[phase]
  *classes, name = path.split(".")
  owner = functools.reduce(getattr, classes, importlib.import_module(module))
  return owner, name


def _terminate_in(phase: str) -> None:
  """Lets this process send itself SIGTERM where a phase begins."""
  owner, name = owner_of(phase)
  call = PHASES[phase][-1]
  function, calls = getattr(owner, name), itertools.count(1)

  @functools.wraps(function)
  def terminated(*arguments, **settings):
    if next(calls) == call:
      os.kill(os.getpid(), signal.SIGTERM)
    return function(*arguments, **settings)

  setattr(owner, name, terminated)


def main() -> None:
  """Runs it as the command line does."""
  data, workdir, phase, *whom = sys.argv[1:]
  compilation.keep_compiled()
  logging.set_verbosity(logging.ERROR)
  checkpoint.RETRY_SECONDS = (0.1,)  # No disk here becomes larger by itself.
  if phase:
    _terminate_in(phase)
  with main_lib.stop_in_one_line():
    if whom:
      address, count, number = whom
      processes.initialize(address, int(count), int(number))
    run(pathlib.Path(data), pathlib.Path(workdir))


if __name__ == "__main__":
  main()
