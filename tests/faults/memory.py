"""A long run, whose memory must not grow."""

import json
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

_POLL_S = 0.5
_MAX_GROWTH = 0.02  # Of the memory, over the second half of the steps.
_SETTINGS = {
  "baselines": "()",
  "teacher.fit.num_steps": 20,
  "student.fit.num_steps": 20,
  "distill.evaluate_every_steps": 100,
  "distill.log_every_steps": 1,
  "data.max_validation_examples": 32,
  "data.max_test_examples": 32,
}


def train_long(
  folder: pathlib.Path, num_steps: int
) -> Iterator[tuple[str, str]]:
  """Distils the demo for many steps; yields whether its memory has grown."""
  if not num_steps:
    return
  workdir = folder / "long"
  settings = _SETTINGS | {"distill.num_steps": num_steps}
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "skd_jax.main", "--config=configs/wmt.py"),
      f"--workdir={workdir}",
      *(f"--config.{name}={value}" for name, value in settings.items()),
    ],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  name = f"{num_steps} steps"
  found: list[tuple[int, int]] = []  # Step, MiB.
  while process.poll() is None:
    if step := _last_step(workdir):
      found.append((step, _resident_mib(process.pid)))
    time.sleep(_POLL_S)
  if process.returncode:
    yield name, f"FAILED: exit code {process.returncode}"
    return
  halves = [
    max(mib for step, mib in found if low <= step / num_steps <= high)
    for low, high in ((0.4, 0.5), (0.9, 1.0))
  ]
  what = f"{halves[0]} MiB in the middle, {halves[1]} at the end"
  grew = halves[1] > (1 + _MAX_GROWTH) * halves[0]
  yield name, f"FAILED: {what}" if grew else f"as much memory: {what}"


def _last_step(workdir: pathlib.Path) -> int:
  """Returns how many steps of distillation have been logged."""
  path = workdir / "metrics.jsonl"
  if not path.exists():
    return 0
  # The last line may not be whole yet.
  *lines, _ = path.read_text("utf-8").split("\n")
  record = json.loads(lines[-1]) if lines else {}
  return record["step"] if record.get("stage") == "distill" else 0


def _resident_mib(pid: int) -> int:
  """Returns the memory of a process; 0 where it has just ended."""
  status = pathlib.Path(f"/proc/{pid}/status").read_text("utf-8")
  found = re.search(r"VmRSS:\s+(\d+) kB", status)
  return int(found[1]) // 1024 if found else 0
