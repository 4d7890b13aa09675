"""Signs that a run is not doing what it should, in words."""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skd_jax.reporting import files

_MEANINGFUL = ("loss", "grad_norm")  # Only while they are finite.

# The teacher and the student disagree on most tokens.
_MOST_REPLACED = 0.5
# Next to no token is replaced.
_FEWEST_REPLACED = 0.001
# Most responses do not end.
_MOST_TRUNCATED = 0.9
# Most of what is generated says one thing over and over.
_MOST_REPEATED = 0.5

# The student is sure of one token nearly everywhere, where the teacher is not:
# its entropy over the teacher's, and the least entropy of a teacher, in nats a
# token, that says so.
_LEAST_ENTROPY = 0.1
_UNSURE = 0.1
_TEACHER, _STUDENT = "teacher_entropy", "student_entropy"  # Of any task.

SIGNS = ("gap", "inert", "endless", "repetitive", "peaked")


@dataclasses.dataclass(frozen=True)
class Guards:
  """What a stage is stopped for.

  max_skipped_steps: steps in a row that may be left out as their loss or
    gradient is not finite.
  max_step_minutes: after which a step is stuck; 0: never. See watchdog.py.
  meant: signs that are no trouble here, as where the threshold is annealed from
    most tokens replaced to none; no warning is given.
  stops: signs at which the run ends.
  """

  max_skipped_steps: int = 0
  max_step_minutes: float = 0.0
  meant: Sequence[str] = ()
  stops: Sequence[str] = ()


class Collapsed(ValueError):
  """A sign of trouble that the run was to be stopped for."""


def signs(
  line: Mapping[str, float], meant: Sequence[str] = ()
) -> dict[str, str]:
  """Returns what a line of the log shows to be wrong: name -> words.

  Args:
    line: of the log.
    meant: names of signs that are no trouble here.
  """
  found = _of_the_responses(line) | _of_the_validation(line)
  found |= _of_the_gate(line)
  return {name: text for name, text in found.items() if name not in meant}


def _of_the_responses(line: Mapping[str, float]) -> dict[str, str]:
  found = {}
  if line.get("truncated", 0.0) > _MOST_TRUNCATED:
    found["endless"] = (
      f"{line['truncated']:.0%} of the responses reach the length limit: the "
      "student may have collapsed, EOS may not be what it has learned (see "
      "example.txt), or data.max_new_tokens is too small."
    )
  if line.get("repeated", 0.0) > _MOST_REPEATED:
    found["repetitive"] = (
      f"{line['repeated']:.0%} of the tokens repeat what stands just before: "
      "the student has collapsed. Lower the learning rate, or let the teacher "
      "correct more."
    )
  return found


def _of_the_validation(line: Mapping[str, float]) -> dict[str, str]:
  found = {}
  for name, teacher in line.items():
    if not name.startswith("validation_") or not name.endswith(_TEACHER):
      continue
    student = line[name.removesuffix(_TEACHER) + _STUDENT]
    if teacher > _UNSURE and student < _LEAST_ENTROPY * teacher:
      found["peaked"] = (
        f"on the validation set the student's entropy is {student:.3f} nats a "
        f"token, the teacher's {teacher:.3f}: the student has collapsed to "
        "single tokens. Lower the learning rate, or choose the loss.divergence "
        "'forward_kl'."
      )
  return found


def _of_the_gate(line: Mapping[str, float]) -> dict[str, str]:
  rate = line.get("replacement_rate")
  # A run without a teacher in the loop has no rounds, and no gate to judge.
  if rate is None or "accepted_per_round" not in line:
    return {}
  if rate > _MOST_REPLACED:
    return {
      "gap": f"the teacher replaces {rate:.0%} of the tokens. The gap between "
      "student and teacher is too large for the student's proposals to matter: "
      "fine-tune the student first, or let rollout.threshold accept more "
      "(higher for top_k and top_p, lower for the other rules)."
    }
  if rate < _FEWEST_REPLACED:
    return {
      "inert": f"the teacher replaces {rate:.2%} of the tokens. The gate is "
      "inert and this is on-policy distillation: let rollout.threshold accept "
      "less (lower for top_k and top_p, higher for the other rules), or choose "
      "another rollout.accept."
    }
  return {}


def over_the_run(lines: Iterable[Mapping[str, Any]]) -> list[str]:
  """Sums up the warnings of a whole log, for the report.

  Args:
    lines: of metrics.jsonl; a warning that was given has its `warning_NAME`.

  Returns:
    One text for each warning of each stage and seed: where it was first given,
    and how many lines called for it.
  """
  first: dict[tuple, str] = {}
  times: collections.Counter = collections.Counter()
  for line in map(files.with_nan, lines):
    for name, text in signs(line).items():
      if f"warning_{name}" not in line:
        continue
      key = line["stage"], line["seed"], name
      times[key] += 1
      first.setdefault(key, f"step {line['step']}: {text}")
  return [
    f"{stage}, seed {seed}, {text} ({times[stage, seed, name]} x in the log)"
    for (stage, seed, name), text in first.items()
  ]


def is_finite(metrics: Mapping[str, Any]) -> bool:
  """Whether the loss and the gradient of a step are numbers."""
  return all(math.isfinite(metrics[name]) for name in _MEANINGFUL)


def check_finite(
  metrics: Mapping[str, Any],
  stage: str,
  step: int,
  saved: int | None,
  failed: pathlib.Path | None = None,
) -> None:
  """Stops a run whose loss has become meaningless.

  Args:
    metrics: of a step.
    stage: of the log.
    step: of the log.
    saved: the step of the last good checkpoint, if any.
    failed: where the step is kept, if it is; see failed_step.py.

  Raises:
    FloatingPointError: the loss or the gradient is not finite, or the least
      loss of a token is below -1e-4, which no divergence can be.
  """
  bad = [name for name in _MEANINGFUL if not math.isfinite(metrics[name])]
  if not bad and metrics["min_token_loss"] >= -1e-4:
    return
  kept = (
    "no checkpoint was written yet"
    if saved is None
    else f"the checkpoint of step {saved} is kept"
  )
  if bad:
    where = f". `python -m skd_jax.replay {failed}` shows where it is made"
    raise FloatingPointError(
      f"{stage}, step {step}: {bad[0]} is {metrics[bad[0]]}; {kept}. Lower the "
      "learning rate or clip harder (--continue_with_changes)"
      f"{where if failed else ''}"
    )
  raise FloatingPointError(
    f"{stage}, step {step}: the loss of a token is "
    f"{metrics['min_token_loss']:.2e}, but a divergence is never negative; "
    f"{kept}. Please report this"
  )
