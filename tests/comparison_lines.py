"""JSON lines as a comparison of methods writes them, made up."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from skd_jax import records


def line(method, seed, bleu, seconds=10.0, rate=0.1, **others):
  """The line of a run; of a model before distillation, if seed is None."""
  before = {
    "task": "tiny",
    "method": method,
    "seed": seed,
    "metrics": {"bleu": bleu, "chrf": 2 * bleu, "kl": 0.5, "agreement": 0.75},
    "signature": {"bleu": "nrefs:1", "chrf": "nrefs:1"},
    "seconds": None,
    "replacement_rate": None,
    "device": "cpu-2",
    "versions": {"jax": "1"},
    "git": "abc",
    "command": "python -m skd_jax.compare",
  }
  run = {
    "score": "bleu",
    "seconds": seconds,
    "replacement_rate": rate,
    "curve": [[seconds / 2, 4, bleu - 1], [seconds, 8, bleu + 1]],
    "replacement_curve": [] if rate is None else [[1, 0.3], [2, rate]],
    "replacement_by_position": [] if rate is None else [[0, 0.3], [1, rate]],
  }
  return before | ({} if seed is None else run) | others


LINES = [
  line("teacher", None, 50.0),
  line("student_init", None, 15.0),
  line("on_policy_kd", 0, 20.0, rate=None),
  line("on_policy_kd", 1, 22.0, rate=None),
  line("skd", 0, 24.0, seconds=8.0),
  line("skd", 1, 25.0, seconds=10.0, rate=0.2, changed_rate=0.125),
]


def write_answers(
  workdir: pathlib.Path, run: Mapping[str, Any], answers: Sequence[str]
) -> None:
  """Writes the answers of the run of a line."""
  path = records.answers_path(workdir, run["method"], run["seed"])
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(f"{answer}\n" for answer in answers), "utf-8")
