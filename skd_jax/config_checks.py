"""Checks of the settings, before anything is loaded.

Each is a ValueError of one line: the field, its value, and what is allowed.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from skd_jax import config as config_lib
from skd_jax.decoding import acceptance, sampling
from skd_jax.evaluation import metrics as metrics_lib
from skd_jax.training import profiling, schedules


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks what can be checked before anything is loaded.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  vocab_size = config.tokenizer.vocab_size
  _one_of(config, "dtype", ("auto", "float32", "bfloat16"))
  _one_of(
    config, "rollout.policy", ("skd", "on_policy", "teacher", "reference")
  )
  for field in (
    "data.length_multiple",
    "tokenizer.vocab_size",
    "loss.chunk_size",
    "evaluate.batch_size",
  ):
    _at_least(config, field, 1)
  if not 0 <= config.rollout.batch_size <= config.distill.batch_size:
    raise ValueError(
      f"rollout.batch_size = {config.rollout.batch_size}: must be in [0, "
      f"distill.batch_size = {config.distill.batch_size}]"
    )
  _validate_tasks(config)
  seeds = config.seeds
  if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
    raise ValueError(
      f"seeds = {seeds}: must be distinct and not negative, at least one"
    )
  _at_least(config, "seed", 0)
  _at_least(config, "profile", 0)
  if config.profile > max(config.distill.num_steps - profiling.SKIPPED, 0):
    raise ValueError(
      f"profile = {config.profile}: must be in [0, distill.num_steps - "
      f"{profiling.SKIPPED} = {config.distill.num_steps - profiling.SKIPPED}]"
    )
  for role in ("teacher", "student"):
    _validate_checkpoint(config[role], role)
  for stage in ("teacher.fit", "student.fit", "distill"):
    _validate_fit(config, stage)
  _validate_rollout(config, vocab_size)
  _validate_loss(config, vocab_size)
  _validate_combination(config)


def validate_rows(config: ml_collections.ConfigDict, num_shards: int) -> None:
  """Checks that rows can be dealt out.

  Args:
    config: the config.
    num_shards: mesh.data * mesh.fsdp.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  parts = {"evaluate.batch_size": 1, "rollout.batch_size": 1}
  trained = {"teacher.fit": config.teacher, "student.fit": config.student}
  stages = [stage for stage, model in trained.items() if not model.path]
  for stage in (*stages, "distill"):
    parts[f"{stage}.batch_size"] = _get(config, f"{stage}.num_microbatches")
  for field, num_microbatches in parts.items():
    multiple = num_shards * num_microbatches
    if _get(config, field) % multiple:
      why = " * num_microbatches" if num_microbatches > 1 else ""
      raise ValueError(
        f"{field} = {_get(config, field)}: must be a multiple of mesh.data * "
        f"mesh.fsdp{why} = {multiple}"
      )


def _validate_checkpoint(model: ml_collections.ConfigDict, role: str) -> None:
  """Refuses random weights where the config names a checkpoint."""
  if model.checkpoint and not model.path and not model.init_path:
    raise ValueError(
      f"{role}.checkpoint = {model.checkpoint!r}, but {role}.path and "
      f"{role}.init_path are empty: run `hf download {model.checkpoint} "
      f"--local-dir FOLDER` and give --config.{role}.init_path=FOLDER to start "
      f"from it, or --config.{role}.path=FOLDER to take it as it is"
    )


def _validate_rollout(
  config: ml_collections.ConfigDict, vocab_size: int
) -> None:
  for field in ("threshold", "reference_share"):
    _one_of(config, f"rollout.{field}_schedule", schedules.SHAPES)
  for field in ("reference_share", "reference_share_end", "switch_at"):
    _in_unit_interval(config, f"rollout.{field}")
  acceptance.check_rule(
    config.rollout.accept,
    config.rollout.replace,
    config_lib.threshold(config),
    vocab_size,
  )
  for who in ("student", "teacher"):
    try:
      sampling.Sampling(
        config.rollout[f"{who}_temperature"], config.rollout[f"{who}_top_p"]
      )
    except ValueError as error:
      raise ValueError(f"rollout.{who}_{error}") from None


def _validate_loss(config: ml_collections.ConfigDict, vocab_size: int) -> None:
  config_lib.token_loss(config, vocab_size)
  _at_least(config, "loss.verified_k", 1)
  _in_unit_interval(config, "loss.unverified_weight")


def _validate_combination(config: ml_collections.ConfigDict) -> None:
  """Checks that the loss can learn from what is written."""
  for found, message in (*_about_writing(config), *_about_weights(config)):
    if found:
      raise ValueError(message)


def _about_writing(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[bool, str]]:
  """Yields (whether it is so, what is wrong with it)."""
  rollout = config.rollout
  policy, schedule = rollout.policy, rollout.threshold_schedule
  share = rollout.reference_share, rollout.reference_share_schedule
  yield (
    policy != "skd" and schedule != "constant",
    f"rollout.threshold_schedule = {schedule!r} with rollout.policy = "
    f"{policy!r}, which has no threshold: must be 'constant', or choose the "
    "policy 'skd'",
  )
  yield (
    policy == "reference" and share != (0, "constant"),
    f"rollout.reference_share = {share[0]}, {share[1]}, with rollout.policy = "
    "'reference': must be 0, constant, as every row is a reference already",
  )
  yield (
    policy == "on_policy" and config.loss.divergence == "cross_entropy",
    "loss.divergence = 'cross_entropy' with rollout.policy = 'on_policy', the "
    "student's own tokens: choose a divergence, or the policy 'reference' "
    "(SFT) or 'teacher' (SeqKD)",
  )


def _about_weights(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[bool, str]]:
  """Yields (whether it is so, what is wrong with it)."""
  rollout, weights = config.rollout, config.loss.weights
  share = config_lib.reference_share(config)
  yield (
    config.loss.divergence == "cross_entropy" and weights != "uniform",
    f"loss.weights = {weights!r} with loss.divergence = 'cross_entropy': must "
    "be 'uniform', or choose another loss.divergence",
  )
  yield (
    weights in ("accepted_only", "replaced_ce") and rollout.policy != "skd",
    f"loss.weights = {weights!r} with rollout.policy = {rollout.policy!r}, "
    "which accepts and replaces nothing: must be 'uniform', 'verified' or "
    "'teacher_confidence', or choose the policy 'skd'",
  )
  yield (
    weights == "accepted_only" and max(share.extremes) > 0,
    "loss.weights = 'accepted_only' with rollout.reference_share = "
    f"{max(share.extremes)}: must be 'uniform', or set reference_share to 0, "
    "as references would weigh nothing",
  )
  # With these rules one of the two sources never occurs.
  never = {"replaced_ce": "always", "accepted_only": "never"}.get(weights)
  yield (
    never is not None and rollout.accept == never,
    f"loss.weights = {weights!r} with rollout.accept = {never!r}: must be "
    "'uniform', or choose another rollout.accept",
  )


def _validate_tasks(config: ml_collections.ConfigDict) -> None:
  sections = config_lib.task_sections(config)
  kinds = ("embedded", "arithmetic", "parallel", "jsonl", "tfds")
  for name, section in sections.items():
    if section.kind not in kinds:
      raise ValueError(
        f"{name}.kind = {section.kind!r}: must be one of {list(kinds)}"
      )
    for field in ("max_prompt_length", "max_new_tokens"):
      if section[field] < 1:
        raise ValueError(
          f"{name}.{field} = {section[field]}: must be 1 or above"
        )
    if section.weight <= 0:
      raise ValueError(f"{name}.weight = {section.weight}: must be above 0")
    if "{source}" not in section.prompt:
      raise ValueError(
        f"{name}.prompt = {section.prompt!r}: must contain {{source}}"
      )
    try:
      metrics_lib.check_metrics(section.metrics, config_lib.comet(config))
    except ValueError as error:
      raise ValueError(f"{name}.{error}") from None
  if config.mixing_temperature <= 0:
    raise ValueError(
      f"mixing_temperature = {config.mixing_temperature}: must be above 0"
    )
  num_draft_tokens = config.rollout.num_draft_tokens
  name, longest = max(
    ((name, section.max_new_tokens) for name, section in sections.items()),
    key=lambda entry: entry[1],
  )
  if not 0 <= num_draft_tokens <= longest:
    raise ValueError(
      f"rollout.num_draft_tokens = {num_draft_tokens}: must be in [0, "
      f"{name}.max_new_tokens = {longest}]"
    )


def _validate_fit(config: ml_collections.ConfigDict, stage: str) -> None:
  for field in ("batch_size", "num_microbatches", "log_every_steps"):
    _at_least(config, f"{stage}.{field}", 1)
  for field in (
    "num_steps",
    "max_examples",
    "warmup_steps",
    "checkpoint_every_steps",
    "evaluate_every_steps",
  ):
    _at_least(config, f"{stage}.{field}", 0)
  _one_of(config, f"{stage}.decay", ("linear", "cosine", "constant"))
  fit = _get(config, stage)
  for field, allowed, valid in (
    ("learning_rate", "above 0", fit.learning_rate > 0),
    ("clip_norm", "above 0", fit.clip_norm > 0),
    ("weight_decay", "0 or above", fit.weight_decay >= 0),
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


def _get(config: ml_collections.ConfigDict, field: str) -> Any:
  value: Any = config
  for name in field.split("."):
    value = value[name]
  return value


def _one_of(config, field: str, allowed: tuple[str, ...]) -> None:
  value = _get(config, field)
  if value not in allowed:
    raise ValueError(f"{field} = {value!r}: must be one of {list(allowed)}")


def _at_least(config, field: str, least: int) -> None:
  value = _get(config, field)
  if value < least:
    raise ValueError(f"{field} = {value}: must be {least} or above")


def _in_unit_interval(config, field: str) -> None:
  value = _get(config, field)
  if not 0 <= value <= 1:
    raise ValueError(f"{field} = {value}: must be in [0, 1]")
