"""Checks of how a stage is trained: its steps, its optimizer, what it keeps."""

import math

import ml_collections

from skd_jax import config as config_lib
from skd_jax import field_checks as fields
from skd_jax.evaluation import agreement


def check_fit(config: ml_collections.ConfigDict, stage: str) -> None:
  """Checks how a stage is trained, and what is kept of it.

  Args:
    config: the config, its tasks checked.
    stage: "teacher.fit", "student.fit" or "distill".

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  for field in (
    "batch_size",
    "num_microbatches",
    "log_every_steps",
    "keep_last",
  ):
    fields.at_least(config, f"{stage}.{field}", 1)
  for field in (
    "num_steps",
    "max_skipped_steps",
    "max_examples",
    "warmup_steps",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "evaluate_every_steps",
    "keep_best",
  ):
    fields.at_least(config, f"{stage}.{field}", 0)
  fields.one_of(config, f"{stage}.decay", ("linear", "cosine", "constant"))
  fit = config_lib.get(config, stage)
  for field, allowed, valid in (
    ("learning_rate", "above 0", 0 < fit.learning_rate < math.inf),
    ("clip_norm", "above 0", fit.clip_norm > 0),
    ("weight_decay", "0 or above", 0 <= fit.weight_decay < math.inf),
    ("beta1", "in [0, 1)", 0 <= fit.beta1 < 1),
    ("beta2", "in [0, 1)", 0 <= fit.beta2 < 1),
  ):
    if not valid:
      raise ValueError(f"{stage}.{field} = {fit[field]}: must be {allowed}")
  if fit.batch_size % fit.num_microbatches:
    raise ValueError(
      f"{stage}.num_microbatches = {fit.num_microbatches}: must divide "
      f"{stage}.batch_size = {fit.batch_size}"
    )
  fields.one_of(config, f"{stage}.result", ("last", "best"))
  if fit.result == "best" and not fit.keep_best:
    raise ValueError(
      f"{stage}.result = 'best' with {stage}.keep_best = 0: must be 1 or above"
    )
  if fit.keep_best:
    _check_scored(config, stage)


def _check_scored(config: ml_collections.ConfigDict, stage: str) -> None:
  """Checks that a stage scores its checkpoints, by what there is."""
  fit = config_lib.get(config, stage)
  if not 0 < fit.evaluate_every_steps <= fit.num_steps:
    raise ValueError(
      f"{stage}.evaluate_every_steps = {fit.evaluate_every_steps} with "
      f"{stage}.keep_best = {fit.keep_best}: must be in [1, {stage}.num_steps "
      f"= {fit.num_steps}]"
    )
  compared = agreement.NAMES if stage == "distill" else ()
  names: list[str] = []
  for section, data in config_lib.task_sections(config).items():
    task = section.removeprefix("tasks.") + "_" if config.tasks else ""
    names += [task + name for name in (*data.metrics, *compared)]
  names += ["mean"] if config.tasks else []
  if fit.best_metric.removeprefix("-") not in names:
    raise ValueError(
      f"{stage}.best_metric = {fit.best_metric!r}: must be one of {names}, or "
      "one of them after '-'"
    )
