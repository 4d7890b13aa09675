"""Runs are killed, terminated, and lose one of two processes."""

import pathlib
import random
import shutil
import subprocess
import time
from collections.abc import Iterator

from tests.faults import program, runs
from tests.parallel.test_processes import Group

_WHOLE_RUN_S = 1800.0
# The other process hears of it after 100 s, and waits a minute for its end.
_BOTH_END_S = 400.0


def kill(
  data: pathlib.Path, folder: pathlib.Path, times: int, rng: random.Random
) -> Iterator[tuple[str, str]]:
  """Kills runs at random times until so many have died; yields what came.

  Leaves a whole run in FOLDER/whole.
  """
  seconds = 0.0
  for name in ("compiled", "whole"):  # The second as the others will be.
    start_time = time.monotonic()
    runs.start(data, folder / name).wait()
    seconds = time.monotonic() - start_time
  whole = runs.results(folder / "whole")
  killed, number = 0, 0
  while killed < times:
    workdir = folder / f"killed_{number}"
    number += 1
    before = killed
    while True:
      process = runs.start(data, workdir)
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
      yield name, runs.compare(workdir, whole)
    shutil.rmtree(workdir)


def terminate(
  data: pathlib.Path, folder: pathlib.Path
) -> Iterator[tuple[str, str]]:
  """Terminates one run in each of its phases; yields what came.

  Args:
    data: of the runs.
    folder: as `kill` leaves it, with a whole run.
  """
  workdir = folder / "terminated"
  for phase in program.PHASES:
    code = runs.start(data, workdir, phase, stderr=subprocess.DEVNULL).wait()
    outcome = "stopped" if code == 130 else f"FAILED: exit code {code}"
    yield f"SIGTERM in {phase}", outcome
  if runs.start(data, workdir).wait():
    yield "terminated run", "FAILED: the run does not continue"
  else:
    whole = runs.results(folder / "whole")
    yield "terminated run", runs.compare(workdir, whole)


def kill_one_of_two(
  data: pathlib.Path, folder: pathlib.Path, times: int, rng: random.Random
) -> Iterator[tuple[str, str]]:
  """Kills one process of runs of two, so many times; yields what came."""
  if not times:
    return

  def start(name: str) -> Group:
    def command(*whom: str) -> list[str]:
      paths = str(data), str(folder / name)
      return ["tests.faults.program", *paths, "", *whom]

    return Group(folder / "output", 2, 1, command)

  start_time = time.monotonic()
  if any(start("two").wait(_WHOLE_RUN_S)):
    yield "two processes", "FAILED: they do not end by themselves"
    return
  seconds = time.monotonic() - start_time
  whole = runs.results(folder / "two")
  for number in range(times):
    name, victim = f"two_{number}", number % 2
    group = start(name)
    # Not before they have met: the first would wait for five minutes.
    time.sleep(rng.uniform(0.3, 0.9) * seconds)
    group.processes[victim].kill()
    try:
      codes = group.wait(_BOTH_END_S)
    except subprocess.TimeoutExpired:
      group.end()
      yield f"process {victim} of 2 killed", "FAILED: the other does not end"
      continue
    if any(start(name).wait(_WHOLE_RUN_S)):
      outcome = "FAILED: the run does not continue"
    else:
      outcome = runs.compare(folder / name, whole)
    yield f"process {victim} of 2 killed, exit codes {codes}", outcome
    shutil.rmtree(folder / name)
