"""From settings to what the library takes: the one place that maps fields.

Everything below takes plain arguments; config_checks.py calls these to check a
config, train.py to run it.
"""

from typing import Any

import jax
import ml_collections
from absl import logging

from skd_jax import config as config_lib
from skd_jax import models
from skd_jax.data.tasks import TaskSettings
from skd_jax.decoding import acceptance, sampling
from skd_jax.evaluation import metrics as metrics_lib
from skd_jax.losses import divergence, token_losses
from skd_jax.training import generation, schedules, train_step


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


def threshold(config: ml_collections.ConfigDict) -> schedules.Schedule:
  """Returns the parameter of the acceptance rule over the run."""
  return _schedule(config, "threshold")


def reference_share(config: ml_collections.ConfigDict) -> schedules.Schedule:
  """Returns the share of rows that are references, over the run."""
  if config.rollout.mode == "reference":
    return schedules.Schedule(1.0)
  return _schedule(config, "reference_share")


def _schedule(
  config: ml_collections.ConfigDict, field: str
) -> schedules.Schedule:
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
    uses_teacher=config.loss.objective != "cross_entropy",
    rule=acceptance.Rule(settings.accept, settings.replace),
    threshold=threshold(config),
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
  )


def token_loss(
  config: ml_collections.ConfigDict, vocab_size: int
) -> token_losses.TokenLoss:
  """Returns the loss that the student is distilled with.

  Raises:
    ValueError: names the parameter, its value and what is allowed.
  """
  if config.loss.objective == "cross_entropy":
    return token_losses.supervised_token_loss
  return token_losses.distillation_token_loss(
    divergence.get_divergence(
      config.loss.divergence,
      beta=config.loss.beta,
      alpha=config.loss.alpha,
      k=config.loss.k,
      vocab_size=vocab_size,
    ),
    config.loss.weights,
    verified_k=config.loss.verified_k,
    unverified_weight=config.loss.unverified_weight,
  )


def train_fns(
  config: ml_collections.ConfigDict,
  stage: str,
  student: models.LoadedModel,
  teacher: models.LoadedModel | None,
  loss: token_losses.TokenLoss,
  mesh: jax.sharding.Mesh,
) -> train_step.TrainFns:
  """Returns the jitted functions that train a model as a stage says.

  Args:
    config: the config.
    stage: "teacher.fit", "student.fit" or "distill".
    student: what is trained.
    teacher: None where the loss needs none.
    loss: the loss of a chunk of tokens.
    mesh: the mesh.
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
