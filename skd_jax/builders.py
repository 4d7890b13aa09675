"""From settings to what the library takes: the one place that maps fields.

config_checks.py calls these to check a config, train.py to run it.
"""

import datetime
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from absl import logging

from skd_jax import config as config_lib
from skd_jax import field_checks as fields
from skd_jax import models
from skd_jax.data.tasks import TaskSettings
from skd_jax.decoding import acceptance, sampling
from skd_jax.evaluation import metrics as metrics_lib
from skd_jax.losses import cached, divergence, token_losses
from skd_jax.reporting import boards, wandb_board
from skd_jax.training import (
  distance,
  generation,
  health,
  schedules,
  train_step,
)
from skd_jax.training.cadence import Cadence, Kept

# Of config.loss.corrections, beside the divergences.
CORRECTIONS = {
  "cross_entropy": token_losses.correction_cross_entropy,
  "cross_entropy_top_1": token_losses.correction_cross_entropy_top_1,
}


def task_settings(
  config: ml_collections.ConfigDict,
) -> dict[str, TaskSettings]:
  """Returns the settings of each task, by the name of its section."""
  found = {}
  for name, section in config_lib.task_sections(config).items():
    fields: dict[str, Any] = {
      field: tuple(value) if isinstance(value, list | tuple) else value
      for field, value in section.items()
      if field != "length_multiple"
    }
    found[name] = TaskSettings(**fields)
  return found


def comet(config: ml_collections.ConfigDict) -> metrics_lib.Comet:
  """Returns where the metric `comet` finds its model and its library."""
  return metrics_lib.Comet(
    config.evaluate.comet_checkpoint, config.evaluate.comet_python
  )


def serving(config: ml_collections.ConfigDict) -> sampling.Sampling:
  """Returns how both models draw where the student drafts for its teacher.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  settings = config.evaluate
  with fields.prefix("evaluate.serving_"):
    return sampling.Sampling(
      settings.serving_temperature, settings.serving_top_p
    )


def cadence(config: ml_collections.ConfigDict, stage: str) -> Cadence:
  """Returns when a stage logs and saves, and what is kept.

  Args:
    config: the config.
    stage: "teacher.fit", "student.fit" or "distill".

  Raises:
    ValueError: must_save_by is no time.
  """
  fit = config_lib.get(config, stage)
  must_save_by = math.inf
  if config.must_save_by:
    try:
      time = datetime.datetime.fromisoformat(config.must_save_by)
    except ValueError:
      raise ValueError(
        f"must_save_by = {config.must_save_by!r}: must be a time such as "
        "'2026-12-31T23:30', or empty"
      ) from None
    must_save_by = time.timestamp()
  return Cadence(
    log_every_steps=fit.log_every_steps,
    checkpoint_every_steps=fit.checkpoint_every_steps,
    checkpoint_every_minutes=fit.checkpoint_every_minutes,
    must_save_by=must_save_by,
    kept=Kept(
      last=fit.keep_last,
      best=fit.keep_best,
      metric=fit.best_metric,
      result_is_best=fit.result == "best",
    ),
  )


def open_boards(
  config: ml_collections.ConfigDict,
) -> Sequence[boards.OpenBoard]:
  """Returns what a run is watched on beside TensorBoard.

  Raises:
    ValueError: the package of one is missing.
  """
  project = config.log.wandb
  if not project:
    return ()
  with fields.prefix(f"log.wandb = {project!r}: "):
    wandb_board.check_installed()
  settings = config_lib.to_plain(config)
  return (
    functools.partial(wandb_board.WandbBoard, project=project, config=settings),
  )


def reference_share(config: ml_collections.ConfigDict) -> schedules.Schedule:
  """Returns the share of rows that are references, over the run."""
  if config.rollout.mode == "reference":
    return schedules.Schedule(1.0)
  return schedule(config, "reference_share")


def first_tokens(config: ml_collections.ConfigDict) -> schedules.Schedule:
  """Returns how many tokens of a response are learned, over the run."""
  return schedule(config, "first_tokens")


def guards(config: ml_collections.ConfigDict, stage: str) -> health.Guards:
  """Returns what a stage is stopped for; arguments as of `cadence`."""
  return health.Guards(
    max_skipped_steps=config_lib.get(config, stage).max_skipped_steps,
    max_step_minutes=config.max_step_minutes,
    meant=_meant_warnings(config) if stage == "distill" else (),
    stops=tuple(config.stop_on_warnings),
  )


def _meant_warnings(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Returns the warnings that are no trouble in a run; see health.signs."""
  meant: tuple[str, ...] = ()
  if config.rollout.threshold_schedule != "constant":
    # It may start near the teacher, and end with the student alone.
    meant += ("gap", "inert")
  if config.rollout.first_tokens:
    meant += ("endless",)
  return meant


def rule(config: ml_collections.ConfigDict) -> acceptance.Rule:
  """Returns the acceptance rule, what replaces, and its budget.

  Raises:
    ValueError: names the parameter, its value and what is allowed.
  """
  settings = config.rollout
  return acceptance.Rule(
    settings.accept,
    settings.replace,
    settings.threshold_decay,
    settings.leg_length,
    settings.max_interventions or None,
  )


def schedule(
  config: ml_collections.ConfigDict, field: str
) -> schedules.Schedule:
  """Returns a field of config.rollout over the run.

  Raises:
    ValueError: the shape is unknown, or not possible between its ends.
  """
  settings = config.rollout
  return schedules.Schedule(
    settings[field],
    settings[f"{field}_end"],
    settings[f"{field}_schedule"],
    settings.switch_at,
    config.distill.num_steps,
  )


def generation_spec(
  config: ml_collections.ConfigDict,
  *,
  max_new_tokens: int,
  num_draft_tokens: int,
) -> generation.GenerationSpec:
  """Returns who generates the responses of a run.

  Args:
    config: the config.
    max_new_tokens: T, of all tasks.
    num_draft_tokens: G; the config's may be 0, for the fastest.
  """
  settings = config.rollout
  return generation.GenerationSpec(
    mode=settings.mode,
    uses_teacher=config.loss.objective != "cross_entropy"
    and not config.teacher_cache.top_k,
    rule=rule(config),
    threshold=schedule(config, "threshold"),
    by_distance=distance.of_schedule(schedule(config, "threshold")),
    reference_share=reference_share(config),
    student_sampling=sampling.Sampling(
      settings.student_temperature, settings.student_top_p
    ),
    teacher_sampling=sampling.Sampling(
      settings.teacher_temperature, settings.teacher_top_p
    ),
    num_draft_tokens=num_draft_tokens,
    max_new_tokens=max_new_tokens,
    batch_size=settings.batch_size,
    first_tokens=first_tokens(config),
  )


def token_loss(
  config: ml_collections.ConfigDict, vocab_size: int
) -> token_losses.TokenLoss:
  """Returns the loss that the student is distilled with.

  Raises:
    ValueError: names the parameter, its value and what is allowed.
  """
  settings = config.loss
  if settings.objective == "cross_entropy":
    return token_losses.supervised_token_loss
  get_divergence = functools.partial(
    divergence.get_divergence,
    beta=settings.beta,
    alpha=settings.alpha,
    k=settings.k,
    vocab_size=vocab_size,
  )
  if config.teacher_cache.top_k:
    return cached.cached_token_loss(get_divergence(settings.divergence))
  corrections = CORRECTIONS.get(settings.corrections)
  if corrections is None and settings.corrections:
    of_corrections = get_divergence(settings.corrections, field="corrections")

    def corrections(teacher, student, tokens):
      del tokens
      return of_corrections(teacher, student)

  return token_losses.distillation_token_loss(
    get_divergence(settings.divergence),
    settings.weights,
    corrections=corrections,
    verified_k=settings.verified_k,
    unverified_weight=settings.unverified_weight,
  )


def train_fns(
  config: ml_collections.ConfigDict,
  stage: str,
  student: models.LoadedModel,
  teacher: models.LoadedModel | None,
  loss: token_losses.TokenLoss,
  mesh: jax.sharding.Mesh,
  by_distance: distance.ShareByDistance | None = None,
  older_dtype: Any = None,
  older_is_whole: bool = False,
) -> train_step.TrainFns:
  """Returns the jitted functions that train a model as a stage says.

  Args:
    config: the config.
    stage: "teacher.fit", "student.fit" or "distill".
    student: what is trained.
    teacher: None where the loss needs none.
    loss: the loss of a chunk of tokens.
    mesh: the mesh.
    by_distance: that of the GenerationSpec.
    older_dtype, older_is_whole: see train_step.make_train_fns.
  """
  fit = config_lib.get(config, stage)
  longest = train_step.max_warmup(fit.num_steps)
  if fit.warmup_steps > longest:
    logging.info(
      "%s.warmup_steps = %d: more than a tenth of num_steps = %d, so %d",
      stage,
      fit.warmup_steps,
      fit.num_steps,
      longest,
    )
  optimizer = train_step.make_optimizer(
    train_step.make_schedule(
      learning_rate=fit.learning_rate,
      num_steps=fit.num_steps,
      warmup_steps=fit.warmup_steps,
      decay=fit.decay,
    ),
    clip_norm=fit.clip_norm,
    weight_decay=fit.weight_decay,
    beta1=fit.beta1,
    beta2=fit.beta2,
  )
  return train_step.make_train_fns(
    student,
    teacher,
    token_loss=loss,
    optimizer=optimizer,
    chunk_size=config.loss.chunk_size,
    num_microbatches=fit.num_microbatches,
    mesh=mesh,
    by_distance=by_distance,
    older_dtype=older_dtype,
    older_is_whole=older_is_whole,
  )


def model_shape(
  shape: ml_collections.ConfigDict, vocab_size: int, max_length: int
) -> models.ModelConfig:
  """Returns the shape of a model from scratch: a Llama with a tied head."""
  return models.ModelConfig(
    vocab_size=vocab_size,
    hidden_size=shape.hidden_size,
    intermediate_size=shape.intermediate_size,
    num_layers=shape.num_layers,
    num_heads=shape.num_heads,
    num_kv_heads=shape.num_kv_heads,
    head_dim=shape.head_dim,
    max_position_embeddings=max_length,
    tie_embeddings=True,
  )
