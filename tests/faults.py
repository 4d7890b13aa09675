"""The fault suite: runs are killed, their disk is full, their files damaged.

  python -m tests.faults [--quick] [--kills=50] [--seed=0]

  kill      SIGKILL at a random time, also during a save; the same command again
            must end with the results of an undisturbed run, bit for bit
  fill      the disk of a run is full, and is made larger step by step; the same
            command must say so, and at last have the same results. Left out
            where no tmpfs may be mounted
  damage    a file of a finished run is truncated, emptied, flipped by a bit or
            deleted; the same command again must name it, or have the same
            results

Anything else is a failure, and the exit code is 1. A line for each fault goes
to standard output as it is found.
"""

import collections
import contextlib
import hashlib
import io
import itertools
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from absl import app, flags, logging

from skd_jax import methods, train
from tests import damage, tiny_run

_KILLS = flags.DEFINE_integer("kills", 50, "How often a run is killed.")
_QUICK = flags.DEFINE_bool(
  "quick", False, "Two kills, two full disks, and one of many damaged files."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the times and of what is damaged.")

_ROOT = pathlib.Path(__file__).parents[1]
# What a run continues from or reads again.
_FOLDERS = (
  "checkpoints/teacher",
  "checkpoints/distill_seed_0",
  "stages",
  "tokenizer",
  "teacher",
  "student_init",
  "students/seed_0",
  "export",
)
_PROGRAM = """
import pathlib, sys
from absl import logging
from skd_jax import main
from skd_jax.parallel import compilation
from tests import faults
compilation.keep_compiled()
logging.set_verbosity(logging.ERROR)
with main.stop_in_one_line():
  faults.run(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
"""


def run(data: pathlib.Path, workdir: pathlib.Path) -> None:
  """Runs the tiny config, with a checkpoint every other step."""
  config = methods.change(
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
  with contextlib.redirect_stdout(io.StringIO()):  # The report.
    train.train_and_evaluate(config, workdir)


def results(workdir: pathlib.Path) -> dict[str, str]:
  """Returns what a finished run has found: checksums, and scores as text."""
  found = {
    name: hashlib.sha256((workdir / name).read_bytes()).hexdigest()
    for name in (
      "teacher/model.safetensors",
      "student_init/model.safetensors",
      "students/seed_0/model.safetensors",
      "export/model.safetensors",
      "answers/distill_seed_0.txt",
    )
  }
  report = json.loads((workdir / "report.json").read_text("utf-8"))
  return found | {"metrics": json.dumps(report["metrics"], sort_keys=True)}


def kill(
  data: pathlib.Path, folder: pathlib.Path, times: int, rng: random.Random
) -> Iterator[tuple[str, str]]:
  """Kills runs at random times until so many have died; yields what came."""
  seconds = 0.0
  for name in ("compiled", "whole"):  # The second as the others will be.
    start_time = time.monotonic()
    _start(data, folder / name).wait()
    seconds = time.monotonic() - start_time
  whole = results(folder / "whole")
  killed, number = 0, 0
  while killed < times:
    workdir = folder / f"killed_{number}"
    number += 1
    before = killed
    while True:
      process = _start(data, workdir)
      after = rng.uniform(0, seconds) if killed < times else None
      try:
        code = process.wait(after)
        break
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        killed += 1
    name = f"run {number}, killed {killed - before} times"
    if code:
      yield name, "FAILED: the run does not continue"
    else:
      same = results(workdir) == whole
      yield name, "same" if same else "FAILED: other results"
    shutil.rmtree(workdir)


def fill(
  data: pathlib.Path, folder: pathlib.Path, times: int
) -> Iterator[tuple[str, str]]:
  """Runs on a full disk, which is made larger until it holds a whole run.

  Args:
    data: of the runs.
    folder: as `kill` leaves it, with a whole run.
    times: the first disk holds such a part of a run.

  Yields:
    The size of the disk, and what came.
  """
  whole, disk = folder / "whole", folder / "disk"
  size = sum((whole / name).stat().st_size for name in damage.files_of(whole))
  disk.mkdir()
  try:
    for number in range(1, 3 * times):
      options = f"size={size * number // times}" + ",remount" * (number > 1)
      mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
      if subprocess.run(mount, check=False).returncode:
        yield "full disk", "left out: no tmpfs may be mounted here"
        return
      process = _start(data, disk / "run", stderr=subprocess.PIPE)
      said = process.communicate()[1].split("\n")
      if process.returncode == 0:
        break
      errors = [line for line in said if line.startswith("Error: ")]
      is_named = len(errors) == 1 and "No space left" in errors[0]
      outcome = (
        "named" if is_named else f"FAILED: the run says {errors or said}"
      )
      yield f"disk of {number}/{times} of a run", outcome
    same = process.returncode == 0 and results(disk / "run") == results(whole)
    yield "disk with more room", "same" if same else "FAILED: other results"
  finally:
    subprocess.run(["umount", str(disk)], check=False)


def _start(
  data: pathlib.Path, workdir: pathlib.Path, **streams: int
) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-c", _PROGRAM, str(data), str(workdir)],
    cwd=_ROOT,
    stdout=subprocess.DEVNULL,
    text=True,
    **streams,
  )


def damage_files(
  data: pathlib.Path, folder: pathlib.Path, every: int
) -> Iterator[tuple[str, str]]:
  """Damages the files of a finished run one by one; yields what came."""
  finished, copy = folder / "finished", folder / "damaged"
  run(data, finished)
  whole = results(finished)
  cases = [
    (f"{part}/{name}", kind)
    for part in _FOLDERS
    for name in damage.files_of(finished / part)
    if (finished / part / name).stat().st_size
    for kind in damage.KINDS
  ]
  for name, kind in cases[::every]:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(finished, copy)
    damage.KINDS[kind](copy / name)
    if name.startswith("checkpoints/"):
      # The stage goes on from its checkpoint: its result is not known.
      (copy / "stages" / f"{name.split('/')[1]}.json").unlink()
    yield f"{name} {kind}", _outcome(data, copy, name, whole)


def _outcome(
  data: pathlib.Path, workdir: pathlib.Path, name: str, whole: dict[str, str]
) -> str:
  try:
    run(data, workdir)
  except (ValueError, OSError) as error:
    is_named = str(workdir / name) in str(error)
    return "named" if is_named else f"FAILED: not named in {error}"
  return "same" if results(workdir) == whole else "FAILED: other results"


def main(argv: list[str]) -> None:
  """Runs all faults; the exit code is 1 if one of them failed."""
  del argv
  logging.set_verbosity(logging.ERROR)
  rng = random.Random(_SEED.value)
  counts: collections.Counter[str] = collections.Counter()
  with tempfile.TemporaryDirectory() as folder_name:
    folder = pathlib.Path(folder_name)
    data = folder / "data"
    data.mkdir()
    tiny_run.write_data(data)
    kills = 2 if _QUICK.value else _KILLS.value
    for fault, outcome in itertools.chain(
      kill(data, folder, kills, rng),
      fill(data, folder, times=3 if _QUICK.value else 20),
      damage_files(data, folder, every=37 if _QUICK.value else 1),
    ):
      counts[outcome.partition(":")[0]] += 1
      print(f"{fault}: {outcome}", flush=True)
  print(", ".join(f"{number} {name}" for name, number in counts.items()))
  sys.exit(1 if counts["FAILED"] else 0)


if __name__ == "__main__":
  app.run(main)
