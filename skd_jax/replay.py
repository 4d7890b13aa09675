"""Takes the step at which a run failed again: python -m skd_jax.replay FOLDER.

  python -m skd_jax.replay workdir/failed_steps/distill_seed_0

computes the step whose loss or gradient was not finite as the run did, and
prints the loss of each example, the norm of the gradient of each part of the
model, and the first array that is not finite. The run stays as it is. With
JAX_DEBUG_NANS=1 in front, it stops at the operation that makes the first NaN.

The command line alone, and what it opens; the step is in training/replay.py.
"""

import json
import pathlib
from collections.abc import Sequence

import ml_collections
from absl import app


def replay(folder: str | pathlib.Path) -> str:
  """Takes a failed step again.

  Args:
    folder: WORKDIR/failed_steps/STAGE.

  Returns:
    The result, as lines of text.

  Raises:
    ValueError, OSError: the folder is no failed step, or is damaged; or its run
      cannot be opened.
  """
  # Imported late, so that --help is quick.
  import dataclasses

  import jax

  from skd_jax import experiment, preparation
  from skd_jax.distillation import prepare_distillation
  from skd_jax.models import lora
  from skd_jax.training import failed_step
  from skd_jax.training import replay as replay_lib

  path = pathlib.Path(folder).absolute()
  if path.parent.name != "failed_steps" or not path.is_dir():
    raise ValueError(f"{folder}: must be WORKDIR/failed_steps/STAGE")
  workdir, stage = path.parent.parent, path.name
  # A baseline has the models of the run that it stands beside.
  is_baseline = workdir.parent.name == "baselines"
  shared = workdir.parent.parent if is_baseline else workdir
  opened = experiment.read_experiment(_read_config(shared), shared)
  with jax.set_mesh(opened.mesh):
    head = None
    if stage.startswith("distill"):
      teacher, _ = preparation.prepare_model(opened, "teacher")
      student, _ = preparation.prepare_model(opened, "student_init")
      opened = dataclasses.replace(
        opened, config=_read_config(workdir), workdir=workdir
      )
      distillation = prepare_distillation(opened, student, teacher)
      fns = distillation.train
      if distillation.spec.uses_teacher:
        head = teacher.model.head_params(teacher.params)
    else:
      role = "teacher" if stage == "teacher" else "student"
      student, fns = preparation.prepare_fine_tuning(opened, role)
    failed = failed_step.read(path, lora.split(student.params)[0], opened.mesh)
    found = replay_lib.take(failed, student.model, head, fns)
    return f"{stage}, {replay_lib.describe(failed, found)}"


def _read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
  from skd_jax import config

  record = json.loads((workdir / "config.json").read_text("utf-8"))
  found = config.from_plain(record["config"])
  found.must_save_by = ""  # It may be over, and nothing is trained.
  return found


def main(argv: Sequence[str]) -> None:
  """Shows what the step comes to."""
  if len(argv) != 2:
    raise app.UsageError("must be called with one FOLDER")
  from skd_jax import messages

  messages.show_warnings()
  from skd_jax.parallel import processes

  with messages.errors_in_one_line():
    processes.initialize()
    lines = replay(argv[1])
    if processes.is_first():
      print(lines)


if __name__ == "__main__":
  app.run(main)
