"""Runs in processes of their own, and what they have found."""

import hashlib
import json
import pathlib
import subprocess
import sys

_ROOT = pathlib.Path(__file__).parents[2]


def start(
  data: pathlib.Path, workdir: pathlib.Path, phase: str = "", **streams: int
) -> subprocess.Popen:
  """Starts a run, or continues it.

  Args:
    data: of the run.
    workdir: of the run.
    phase: of program.PHASES, in which it is sent SIGTERM.
    **streams: of Popen.
  """
  program = ["-m", "tests.faults.program", str(data), str(workdir), phase]
  return subprocess.Popen(
    [sys.executable, *program],
    cwd=_ROOT,
    stdout=subprocess.DEVNULL,
    text=True,
    **streams,
  )


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


def compare(workdir: pathlib.Path, whole: dict[str, str]) -> str:
  """Returns the outcome of a finished run that should have these results."""
  return "same" if results(workdir) == whole else "FAILED: other results"
