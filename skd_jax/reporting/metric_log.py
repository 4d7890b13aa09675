"""metrics.jsonl: one JSON object per logged step, and boards beside it.

  {"stage": "distill", "seed": 0, "step": 20, "loss": 1.25, "kl": 0.31}

A run that is killed and resumed writes each step of a stage and seed once: the
lines past the checkpoint that it resumes from are dropped first.

  logged   10  20  30  40 | killed; the checkpoint is of step 20
  resumed  10  20         | 30  40  50 ...
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsFloat

from skd_jax.reporting import boards
from skd_jax.reporting.files import finite, write_atomically

FILE_NAME = "metrics.jsonl"
_KEYS = ("stage", "seed", "step")

Loggable = SupportsFloat | boards.Texts | boards.Histogram
LogMetrics = Callable[[int, Mapping[str, Loggable]], None]


@contextlib.contextmanager
def open_metric_log(
  workdir: str | pathlib.Path,
  *,
  stage: str,
  seed: int,
  last_step: int = -1,
  open_boards: Sequence[boards.OpenBoard] = (),
) -> Iterator[LogMetrics]:
  """Opens the log of one stage of one seed.

    with open_metric_log(workdir, stage="distill", seed=0) as log:
      log(10, {"loss": loss, "kl": kl})

  Only one process may log to a workdir at a time.

  Args:
    workdir: folder of metrics.jsonl, made where it does not exist. TensorBoard
      events go to its tensorboard/STAGE/seed_SEED.
    stage: "teacher", "student_init" or "distill".
    seed: the seed of the run.
    last_step: the step that the run resumes from. Lines of this stage and seed
      past it are dropped; by default, all of them.
    open_boards: what is opened beside TensorBoard, see boards.py.

  Yields:
    `log(step, entries)`, which appends one line and flushes it. The entries are
    numbers or arrays of size 1, of which one that is not finite is written as
    null; or Texts and Histograms, which go to the boards alone.

  Raises:
    ValueError: if a line of an existing metrics.jsonl is malformed (a torn last
      line is dropped), or if an entry is named like one of the line's keys.
  """
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / FILE_NAME
  _drop_lines(path, stage, seed, last_step)
  place = boards.Place(workdir, stage, seed, last_step)
  with contextlib.ExitStack() as stack:
    file = stack.enter_context(path.open("a", encoding="utf-8"))
    opened = [
      stack.enter_context(contextlib.closing(open_board(place)))
      for open_board in (boards.TensorBoard, *open_boards)
    ]

    def log(step: int, entries: Mapping[str, Loggable]) -> None:
      taken = [key for key in _KEYS if key in entries]
      if taken:
        raise ValueError(f"entries has the key {taken[0]!r}, which is reserved")
      shown = {name: _entry(value) for name, value in entries.items()}
      numbers = {k: v for k, v in shown.items() if isinstance(v, int | float)}
      if numbers:
        line = {"stage": stage, "seed": seed, "step": int(step), **numbers}
        file.write(_json_line(line))
        file.flush()
      for board in opened:
        board.write(int(step), shown)

    yield log


def _drop_lines(
  path: pathlib.Path, stage: str, seed: int, last_step: int
) -> None:
  """Drops the lines of a stage and seed past a step."""
  if not path.exists():
    return
  kept = [
    line
    for line in read_metrics(path)
    if (line["stage"], line["seed"]) != (stage, seed)
    or line["step"] <= last_step
  ]
  write_atomically(path, "".join(map(_json_line, kept)))


def read_metrics(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of a metrics.jsonl, in order; null is read as NaN.

  A last line without its line feed was cut while it was written, and is left
  out.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if another line is not a JSON object with stage, seed and step.
  """
  text = pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
  # "a\nb\n" -> a, b, ""      "a\nb\nto" -> a, b, "to": the last is never whole.
  whole = text.split("\n")[:-1]
  return [_parse(path, n, line) for n, line in enumerate(whole, start=1)]


def _entry(value: Loggable) -> boards.Entry:
  if isinstance(value, int | boards.Texts | boards.Histogram):
    return value
  return float(value)


def _json_line(line: Mapping[str, Any]) -> str:
  return json.dumps(finite(line), allow_nan=False) + "\n"


def _parse(path: str | pathlib.Path, number: int, text: str) -> dict[str, Any]:
  try:
    line = json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f"{path}, line {number}: not JSON: {text!r}") from error
  if not isinstance(line, dict) or any(key not in line for key in _KEYS):
    raise ValueError(
      f"{path}, line {number}: needs {', '.join(_KEYS)}: {text!r}"
    )
  return {k: math.nan if v is None else v for k, v in line.items()}
