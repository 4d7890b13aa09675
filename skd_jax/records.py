"""The JSON lines of a comparison: one for each run, and for the models before.

{"task", "method", "seed", "metrics", "seconds", "generated_tokens",
 "replacement_rate", "curve": [[seconds, step, score], ...], ...}
"""

import json
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skd_jax.reporting import files

Record = dict[str, Any]
Records = Sequence[Mapping[str, Any]]

REFERENCES = "references.json"  # In WORKDIR: the test split's, in order.

# A step that takes so many medians has compiled, or something else has run.
_OUTLIER = 3.0


def step_seconds(lines: Records) -> list[float]:
  """Returns what each training step took, by the log of the run.

  Without the time that compiling takes, which is once for all runs that share a
  program: a step of more than three medians counts as one median.

  Args:
    lines: of metrics.jsonl, one per step, of one stage and seed.
  """
  seconds = [
    sum(value for name, value in line.items() if name.endswith("_seconds"))
    for line in lines
    if "loss" in line
  ]
  if not seconds:
    return []
  median = statistics.median(seconds)
  return [median if s > _OUTLIER * median else s for s in seconds]


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


def summary(records: Records) -> str:
  """Returns a Markdown table: mean and deviation of the main scores.

  The test of a difference is not in it; see benchmarks/quality.
  """
  names = list(dict.fromkeys(record["method"] for record in records))
  scores = [n for n in records[0]["metrics"] if n in _shown(records)]
  rows = [["method", "seeds", *scores, "replaced", "seconds"]]
  for name in names:
    runs = [record for record in records if record["method"] == name]
    seeds = sum(run["seed"] is not None for run in runs)
    cells = [
      _spread([run["metrics"][score] for run in runs]) for score in scores
    ]
    rates = [run["replacement_rate"] for run in runs]
    rate = "-" if None in rates else f"{100 * statistics.fmean(rates):.1f} %"
    seconds = [run["seconds"] for run in runs]
    time = "-" if None in seconds else f"{statistics.fmean(seconds):.1f}"
    rows.append([name, str(seeds or "-"), *cells, rate, time])
  rule = [":--", *["--:"] * (len(rows[0]) - 1)]
  return "\n".join(f"| {' | '.join(r)} |" for r in [rows[0], rule, *rows[1:]])


def _shown(records: Records) -> set[str]:
  """The scores of answers: those that have a signature."""
  return set(records[0]["signature"])


def _spread(values: Sequence[float]) -> str:
  mean = f"{statistics.fmean(values):.2f}"
  return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


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
