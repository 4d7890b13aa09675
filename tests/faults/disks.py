"""Runs whose disk is full."""

import pathlib
import subprocess
from collections.abc import Iterator

from tests import damage
from tests.faults import runs


def fill(
  data: pathlib.Path, folder: pathlib.Path, times: int
) -> Iterator[tuple[str, str]]:
  """Runs on a full disk, which is made larger until it holds a whole run.

  Args:
    data: of the runs.
    folder: with a whole run, FOLDER/whole.
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
      process = runs.start(data, disk / "run", stderr=subprocess.PIPE)
      said = process.communicate()[1].split("\n")
      if process.returncode == 0:
        break
      errors = [line for line in said if line.startswith("Error: ")]
      is_named = len(errors) == 1 and "No space left" in errors[0]
      outcome = (
        "named" if is_named else f"FAILED: the run says {errors or said}"
      )
      yield f"disk of {number}/{times} of a run", outcome
    if process.returncode:
      yield "disk with more room", "FAILED: the run does not continue"
    else:
      outcome = runs.compare(disk / "run", runs.results(whole))
      yield "disk with more room", outcome
  finally:
    subprocess.run(["umount", str(disk)], check=False)
