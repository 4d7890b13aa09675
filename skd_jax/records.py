"""The JSON lines of a comparison: one for each run, and for the models before.

{"task", "method", "seed", "metrics", "seconds", "generated_tokens",
 "replacement_rate", "curve": [[seconds, step, score], ...], ...}
"""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skd_jax.reporting import files
from skd_jax.training import timing

Record = dict[str, Any]
Records = Sequence[Mapping[str, Any]]


def step_seconds(lines: Records) -> list[float]:
  """Returns what each training step took, by the log of the run.

  Without the time that compiling takes, which is once for all runs that share a
  program.

  Args:
    lines: of metrics.jsonl, one per step, of one stage and seed.
  """
  parts = (*timing.PARTS, timing.WAIT)
  return [
    sum(line.get(f"{part}_seconds", 0.0) for part in parts)
    for line in lines
    if "loss" in line or "skipped_steps" in line
  ]


def validation_curve(
  lines: Records, score: str
) -> list[tuple[float, int, float]]:
  """Returns (seconds of training, step, score) at each validation.

  Args:
    lines: as step_seconds.
    score: the name of the validation score in the log.
  """
  total = np.cumsum([0.0, *step_seconds(lines)])
  return [
    (float(total[line["step"]]), line["step"], line[score])
    for line in lines
    if score in line
  ]


def read(path: pathlib.Path) -> list[Record]:
  """Reads the lines of a comparison; none where there is no file yet."""
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def find(
  records: Records, method: str, seed: int | None
) -> Mapping[str, Any] | None:
  """Returns the line of a run, or None."""
  for record in records:
    if (record["method"], record["seed"]) == (method, seed):
      return record
  return None


def arms(records: Records) -> dict[str, list[Mapping[str, Any]]]:
  """Returns the lines of each arm, in order; not the models before."""
  found: dict[str, list[Mapping[str, Any]]] = {}
  for record in records:
    if record["seed"] is not None:
      found.setdefault(record["method"], []).append(record)
  return found


def before(records: Records, name: str) -> Mapping[str, Any] | None:
  """Returns the line of the student that an arm starts from, or None.

  "small, skd" starts from "student_init, small" where there is one, else from
  "student_init".
  """
  group, _, _ = name.rpartition(", ")
  own = find(records, f"student_init, {group}", None)
  return own or find(records, "student_init", None)


def write(path: pathlib.Path, records: Records) -> None:
  """Writes the lines, all or none of them."""
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = (json.dumps(files.finite(r), allow_nan=False) for r in records)
  files.write_atomically(path, "".join(f"{line}\n" for line in lines))


def run_folder(workdir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
  """Returns the workdir of one run of a comparison."""
  slug = re.sub(r"[^A-Za-z0-9_.=]+", "-", name).strip("-")
  return workdir / "runs" / slug / f"seed_{seed}"


def answers_path(workdir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
  """Returns where the greedy answers of a run are, one per line."""
  file_name = f"distill_seed_{seed}.txt"
  return run_folder(workdir, name, seed) / "answers" / file_name


def answers(
  workdir: pathlib.Path, record: Mapping[str, Any]
) -> list[str] | None:
  """Returns the greedy answers of a run, or None where they are not here."""
  path = answers_path(workdir, record["method"], record["seed"])
  if not path.exists():
    return None
  # Not splitlines: an answer may hold characters that it splits at.
  return path.read_text("utf-8").removesuffix("\n").split("\n")


def references_path(workdir: pathlib.Path, start: str) -> pathlib.Path:
  """Returns where the references of the test split are, in their order.

  Args:
    workdir: of the comparison.
    start: the name of the student's start; a regime can have its own data.
  """
  return workdir / "starts" / start / "references.json"


def references(workdir: pathlib.Path, record: Mapping[str, Any]) -> list[str]:
  """Returns what the answers of a run are scored against, in their order.

  Raises:
    FileNotFoundError: the comparison was not run in this workdir.
  """
  path = references_path(workdir, record["start"])
  return json.loads(path.read_text("utf-8"))
