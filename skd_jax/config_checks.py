"""Every check of a config, before anything is loaded or written.

Each is a ValueError of one line: the field, its value, and what is allowed. The
library functions below know no field names; where they check an argument, its
field is put in front here.
"""

import math
import pathlib
import time
from collections.abc import Mapping

import ml_collections

from skd_jax import (
  builders,
  fit_checks,
  method_checks,
  methods,
  models,
  stages,
)
from skd_jax import config as config_lib
from skd_jax import field_checks as fields
from skd_jax.data import conversations, sources, templates
from skd_jax.evaluation import metrics as metrics_lib
from skd_jax.models import lora, pruning, quantization
from skd_jax.training import health, profiling

_MAX_SEED = 2**31 - 2  # A model's seed is at most one more; keys take int32.
_UNKNOWN = 2**31 - 1  # No bound.


def check_config(config: ml_collections.ConfigDict) -> None:
  """Checks what can be checked from the config alone.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  fields.of_types(config, config_lib.default_config())
  fields.no_passwords(config)
  fields.one_of(config, "dtype", ("auto", "float32", "bfloat16"))
  fields.one_of(config, "export_dtype", models.EXPORT_DTYPES)
  fields.one_of(config, "teacher.quantization", ("", *quantization.FORMATS))
  builders.open_boards(config)
  for field in (
    "data.length_multiple",
    "tokenizer.vocab_size",
    "evaluate.batch_size",
  ):
    fields.at_least(config, field, 1)
  fields.at_least(config, "loss.chunk_size", 0)
  fields.at_least(config, "evaluate.num_samples", 0)
  builders.serving(config)
  if not 0 <= config.rollout.batch_size <= config.distill.batch_size:
    raise ValueError(
      f"rollout.batch_size = {config.rollout.batch_size}: must be in [0, "
      f"distill.batch_size = {config.distill.batch_size}]"
    )
  _check_tasks(config)
  _check_seeds(config)
  if builders.cadence(config, "distill").must_save_by <= time.time():
    raise ValueError(
      f"must_save_by = {config.must_save_by!r}: must not be over"
    )
  for name in config.stop_on_warnings:
    if name not in health.SIGNS:
      raise ValueError(
        f"stop_on_warnings has {name!r}: must be of {', '.join(health.SIGNS)}"
      )
  fields.at_least(config, "max_step_minutes", 0)
  fields.at_least(config, "profile", 0)
  if config.profile > max(config.distill.num_steps - profiling.SKIPPED, 0):
    raise ValueError(
      f"profile = {config.profile}: must be in [0, distill.num_steps - "
      f"{profiling.SKIPPED} = {config.distill.num_steps - profiling.SKIPPED}]"
    )
  teacher = config.teacher
  has_shape = not (teacher.path or teacher.init_path or teacher.checkpoint)
  check_layers_of_teacher(config, teacher.num_layers if has_shape else _UNKNOWN)
  for role in ("teacher", "student"):
    _check_checkpoint(config[role], role)
    _check_shape(config[role], role)
  for stage in ("teacher.fit", "student.fit", "distill"):
    fit_checks.check_fit(config, stage)
  _check_lora(config)
  method_checks.check_method(config)
  # The vocabulary of a folder is not known yet.
  has_folder = bool(stages.tokenizer_folder(config))
  _check_template_arguments(config, has_folder)
  check_vocabulary(
    config, _UNKNOWN if has_folder else config.tokenizer.vocab_size
  )
  method_checks.check_combination(config)
  _check_baselines(config)


def check_vocabulary(
  config: ml_collections.ConfigDict, vocab_size: int
) -> None:
  """Checks what is bounded by the vocabulary of the models.

  Args:
    config: the config.
    vocab_size: V, the tokens that both models know.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  method_checks.check_threshold(config, vocab_size)
  method_checks.check_top_k(config, vocab_size)
  with fields.prefix("loss."):
    builders.token_loss(config, vocab_size)


def check_positions(
  config: ml_collections.ConfigDict, max_positions: Mapping[str, int]
) -> None:
  """Checks that no task is longer than what a checkpoint has learned.

  Args:
    config: the config.
    max_positions: max_position_embeddings by the field that names the folder,
      such as "teacher.path".

  Raises:
    ValueError: names the fields, their sum and what is allowed.
  """
  for name, section in config_lib.task_sections(config).items():
    length = section.max_prompt_length + section.max_new_tokens
    for field, longest in max_positions.items():
      if length > longest:
        raise ValueError(
          f"{name}.max_prompt_length + {name}.max_new_tokens = {length}: must "
          f"be at most {longest}, the max_position_embeddings of {field} = "
          f"{config_lib.get(config, field)!r}"
        )


def check_layers_of_teacher(
  config: ml_collections.ConfigDict, num_layers: int
) -> None:
  """Checks the layers of the teacher that the student starts as, if it does.

  Args:
    config: the config.
    num_layers: L of the teacher.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  layers = config.student.layers_of_teacher
  for field in ("path", "init_path", "checkpoint"):
    if layers and config.student[field]:
      raise ValueError(
        f"student.layers_of_teacher = {layers} with student.{field} = "
        f"{config.student[field]!r}: one of them must be empty"
      )
  if layers:
    pruning.check_layers(layers, num_layers, name="student.layers_of_teacher")


def check_workdir(workdir: str | pathlib.Path) -> pathlib.Path:
  """Checks that a workdir is the path of a folder, which need not be there.

  Returns:
    The path.

  Raises:
    ValueError: it is empty, a file, or an address such as gs://BUCKET, which
      would become a local folder "gs:".
  """
  if not str(workdir):
    raise ValueError("workdir = '': must be a folder")
  if "://" in str(workdir):
    shown = fields.without_password(str(workdir))
    raise ValueError(
      f"workdir = {shown!r}: must be a folder; mount the bucket and give its "
      "path (launch/tpu_vm.sh mounts it as bucket/)"
    )
  path = pathlib.Path(workdir)
  if path.exists() and not path.is_dir():
    raise ValueError(f"workdir = {str(path)!r}: must be a folder, is a file")
  return path


def check_rows(
  config: ml_collections.ConfigDict,
  num_shards: int,
  num_rollout_shards: int = 1,
) -> None:
  """Checks that rows can be sharded.

  Args:
    config: the config.
    num_shards: mesh.data * mesh.fsdp.
    num_rollout_shards: the same of the devices that generate.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  parts = {"evaluate.batch_size": 1, "rollout.batch_size": 1}
  for stage in trained_stages(config):
    parts[f"{stage}.batch_size"] = config_lib.get(
      config, f"{stage}.num_microbatches"
    )
  for field, num_microbatches in parts.items():
    multiple = num_shards * num_microbatches
    value = config_lib.get(config, field)
    if value % multiple:
      why = " * num_microbatches" if num_microbatches > 1 else ""
      raise ValueError(
        f"{field} = {value}: must be a multiple of mesh.data * mesh.fsdp{why} "
        f"= {multiple}"
      )
  for field in ("distill.batch_size", "rollout.batch_size"):
    value = config_lib.get(config, field)
    if value % num_rollout_shards:
      raise ValueError(
        f"{field} = {value}: must be a multiple of mesh.rollout_devices / "
        f"mesh.tensor = {num_rollout_shards}"
      )


def check_sizes(
  config: ml_collections.ConfigDict, num_examples: Mapping[str, int]
) -> None:
  """Checks that every stage that trains has a batch of examples.

  Args:
    config: the config.
    num_examples: that are kept for training, by stage.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  for stage, num in num_examples.items():
    batch_size = config_lib.get(config, f"{stage}.batch_size")
    if batch_size > num:
      raise ValueError(
        f"{stage}.batch_size = {batch_size}: must be at most the {num} "
        f"training examples ({stage}.max_examples, data.max_train_examples and "
        "the limits of the lengths choose them)"
      )


def trained_stages(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the sections of the config that a run trains by."""
  roles = [role for role in ("teacher", "student") if not config[role].path]
  return [*(f"{role}.fit" for role in roles), "distill"]


def _check_baselines(config: ml_collections.ConfigDict) -> None:
  names = tuple(config.baselines)
  allowed = [name for name in methods.METHODS if name not in methods.CONTROLS]
  if len(set(names)) != len(names) or not set(names) <= set(allowed):
    raise ValueError(
      f"baselines = {names}: must be distinct, of {', '.join(allowed)}"
    )
  for name in names:
    changed = methods.apply_method(config, name)
    with fields.prefix(f"baselines has {name!r}: "):
      check_config(methods.change(changed, {"baselines": ()}))


def _check_template_arguments(
  config: ml_collections.ConfigDict, has_folder: bool
) -> None:
  arguments = config.tokenizer.template_arguments.to_dict()
  with fields.prefix("tokenizer."):
    templates.check_arguments(arguments)
  if arguments and not has_folder:
    raise ValueError(
      f"tokenizer.template_arguments = {arguments}: must be empty where the "
      "tokenizer is trained here; its chat template reads none"
    )


def _check_seeds(config: ml_collections.ConfigDict) -> None:
  seeds = config.seeds
  if not seeds or len(set(seeds)) != len(seeds):
    raise ValueError(f"seeds = {seeds}: must be distinct, at least one")
  if not all(isinstance(seed, int) for seed in seeds):
    raise ValueError(f"seeds = {seeds}: must be whole numbers")
  for field, values in (("seeds", seeds), ("seed", (config.seed,))):
    if min(values) < 0 or max(values) > _MAX_SEED:
      raise ValueError(
        f"{field} = {config[field]}: must be not negative, at most {_MAX_SEED}"
      )


def _check_checkpoint(model: ml_collections.ConfigDict, role: str) -> None:
  """Refuses random weights where the config names a checkpoint, and two."""
  if not model.checkpoint.isprintable():
    raise ValueError(
      f"{role}.checkpoint = {model.checkpoint!r}: must be a name on the "
      "Hugging Face hub"
    )
  if model.path and model.init_path:
    raise ValueError(
      f"{role}.init_path = {model.init_path!r} with {role}.path = "
      f"{model.path!r}, which is taken as it is: must be empty, or leave "
      f"{role}.path empty to start from {role}.init_path"
    )
  if model.checkpoint and not model.path and not model.init_path:
    raise ValueError(
      f"{role}.checkpoint = {model.checkpoint!r}, but {role}.path and "
      f"{role}.init_path are empty: run `hf download {model.checkpoint} "
      f"--local-dir FOLDER` and give --config.{role}.init_path=FOLDER to start "
      f"from it, or --config.{role}.path=FOLDER to take it as it is"
    )


def _check_shape(model: ml_collections.ConfigDict, role: str) -> None:
  """Checks the shape of a model that is made from scratch."""
  if model.path or model.init_path or model.get("layers_of_teacher"):
    return
  with fields.prefix(f"{role}."):
    builders.model_shape(model, vocab_size=1, max_length=1)


def _check_lora(config: ml_collections.ConfigDict) -> None:
  """Checks the adapters; which of them a model has is known when it is read."""
  fields.at_least(config, "student.lora.rank", 0)
  settings, path = config.student.lora, config.student.path
  if settings.alpha <= 0:
    raise ValueError(f"student.lora.alpha = {settings.alpha}: must be above 0")
  names = tuple(settings.targets)
  known = (*lora.TARGETS, *lora.OTHER_TARGETS)
  if not names or len(set(names)) != len(names) or set(names) - {*known}:
    raise ValueError(
      f"student.lora.targets = {names}: must be distinct, at least one, of "
      f"{', '.join(known)}"
    )
  if settings.rank and not path:
    raise ValueError(
      f"student.lora.rank = {settings.rank} with student.path = '': must be 0, "
      "or student.path the folder of the frozen weights; student.fit trains all"
    )


def _check_tasks(config: ml_collections.ConfigDict) -> None:
  usual = config_lib.default_config().data
  for name, section in config_lib.task_sections(config).items():
    fields.of_types(section, usual, f"{name}.")
    for field, allowed in (
      ("kind", sources.KINDS),
      ("turns", conversations.TURNS),
      ("long_prompts", ("refuse", "leave_out")),
    ):
      if section[field] not in allowed:
        raise ValueError(
          f"{name}.{field} = {section[field]!r}: must be one of {list(allowed)}"
        )
    for field, least in (
      ("max_prompt_length", 1),
      ("max_new_tokens", 1),
      ("max_train_examples", 0),
      ("max_validation_examples", 0),
      ("max_test_examples", 0),
    ):
      if section[field] < least:
        raise ValueError(
          f"{name}.{field} = {section[field]}: must be {least} or above"
        )
    if not 0 < section.weight < math.inf:
      raise ValueError(f"{name}.weight = {section.weight}: must be above 0")
    for stop in section.stop_strings:
      if not isinstance(stop, str) or not stop:
        raise ValueError(
          f"{name}.stop_strings has {stop!r}: must be a text, not empty"
        )
    for field, low, high in (
      ("num_steps", 1, 64),
      ("min_steps", 0, section.num_steps),
      ("noise", 0, 1),
    ):
      if not low <= section[field] <= high:
        raise ValueError(
          f"{name}.{field} = {section[field]}: must be in [{low}, {high}]"
        )
    if "{source}" not in section.prompt:
      raise ValueError(
        f"{name}.prompt = {section.prompt!r}: must contain {{source}}"
      )
    if section.kind == "messages" and section.prompt != "{source}":
      raise ValueError(
        f"{name}.prompt = {section.prompt!r}: must be '{{source}}' for "
        f"{name}.kind = 'messages', whose turns are taken as they are"
      )
    with fields.prefix(f"{name}."):
      metrics_lib.check_metrics(section.metrics, builders.comet(config))
  if config.mixing_temperature <= 0:
    raise ValueError(
      f"mixing_temperature = {config.mixing_temperature}: must be above 0"
    )
