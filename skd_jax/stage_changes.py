"""Going on with other settings: --continue_with_changes.

A stage that is under way may be continued with another learning rate, or with
other settings that fit its checkpoint. What was changed, and from which step
on, is kept in WORKDIR/stages/changes.json and in config.json. No single command
reproduces a result that was made with changes.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from skd_jax import stages
from skd_jax.parallel import processes
from skd_jax.reporting import files
from skd_jax.training import checkpoint, schedules

# Of a training stage; they change no shape of its checkpoint.
_OF_TRAINING = (
  "num_steps",
  "learning_rate",
  "warmup_steps",
  "decay",
  "clip_norm",
  "max_skipped_steps",
  "weight_decay",
  "beta1",
  "beta2",
)
_SECTIONS = ("rollout.", "loss.")


def may_change(field: str, before: Any, now: Any) -> bool:
  """Whether a stage that is under way may be continued with another value."""
  # The state has older weights, or a distance, or it has none.
  if field == "rollout.max_staleness":
    return False
  if field == "rollout.threshold_schedule":
    return schedules.BY_DISTANCE not in (before, now)
  section, _, name = field.rpartition(".")
  is_training = section == "distill" or section.endswith(".fit")
  return field.startswith(_SECTIONS) or (is_training and name in _OF_TRAINING)


def accept(workdir: pathlib.Path, keys: Mapping[str, stages.CacheKey]) -> None:
  """Lets the stages under way go on with the settings of now.

  Args:
    workdir: of the run.
    keys: of the stages, from stages.cache_keys.

  Where another setting differs, or a finished stage is stale, nothing is done:
  stages.check_fresh says so.
  """
  processes.on_first(_accept, workdir, dict(keys))


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the changes that a run was continued with, the first one first."""
  path = _path(workdir)
  return json.loads(path.read_text("utf-8")) if path.exists() else []


def _accept(workdir: pathlib.Path, keys: Mapping[str, stages.CacheKey]) -> None:
  changes: list[dict[str, Any]] = []
  for name, key in keys.items():
    changed = stages.changed_settings(workdir, name, key)
    if not changed:
      continue
    allowed = (may_change(field, *both) for field, both in changed.items())
    if stages.is_finished(workdir, name) or not all(allowed):
      return
    step = checkpoint.newest_step(workdir, name)
    changes.append({"stage": name, "step": step, "changed": changed})
  for change in changes:
    logging.warning(
      "%(stage)s goes on from step %(step)s with other settings: %(changed)s",
      change,
    )
    stages.rewrite(workdir, change["stage"], keys[change["stage"]])
  if changes:
    files.write_json(_path(workdir), [*read(workdir), *changes])


def _path(workdir: pathlib.Path) -> pathlib.Path:
  return workdir / "stages" / "changes.json"
