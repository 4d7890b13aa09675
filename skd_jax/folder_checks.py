"""Checks of a config against the model folders that it names, before reading.

Their config.json is read, and no weight.
"""

import ml_collections

from skd_jax import config as config_lib
from skd_jax import config_checks, models
from skd_jax import field_checks as fields
from skd_jax.models import lora, quantization


def check_folders(config: ml_collections.ConfigDict) -> None:
  """Checks what the models of these folders can do of what is asked.

  Raises:
    ValueError, FileNotFoundError: names the field, its value and what is
      allowed; or there is no such folder.
  """
  config_checks.check_positions(
    config,
    {
      field: models.load_config(folder).max_position_embeddings
      for field, folder in model_folders(config).items()
    },
  )
  _check_adapters(config)
  _check_quantization(config)
  _check_packing(config)


def model_folders(config: ml_collections.ConfigDict) -> dict[str, str]:
  """Returns the model folders of the config by the fields that name them."""
  found = {
    f"{role}.{field}": config[role][field]
    for role in ("teacher", "student")
    for field in ("path", "init_path")
  }
  found |= {
    f"teacher_cache.teachers.{task}": folder
    for task, folder in config.teacher_cache.teachers.items()
  }
  return {field: folder for field, folder in found.items() if folder}


def _check_adapters(config: ml_collections.ConfigDict) -> None:
  """Checks them against the folder of the student, before it is read."""
  if config.student.lora.rank:
    shape = models.load_config(config.student.path)
    with fields.prefix("student.lora."):
      lora.check_targets(
        shape, models.param_shapes(shape), config.student.lora.targets
      )


def _check_quantization(config: ml_collections.ConfigDict) -> None:
  """Checks it against the folders of the teachers, before they are read."""
  name = config.teacher.quantization
  folders = [
    folder
    for field, folder in model_folders(config).items()
    if field.startswith("teacher")
  ]
  for folder in folders if name else ():
    shape = models.load_config(folder)
    with fields.prefix("teacher."):
      quantization.shapes(models.param_shapes(shape), name)


def _check_packing(config: ml_collections.ConfigDict) -> None:
  """Refuses packed rows of models that read a prompt in a way of its own."""
  for where, folder in model_folders(config).items():
    if not isinstance(models.load_config(folder), models.EncoderDecoderConfig):
      continue
    for stage in ("teacher.fit", "student.fit", "distill"):
      size = config_lib.get(config, stage).packed_length
      if size:
        raise ValueError(
          f"{stage}.packed_length = {size}: must be 0, as {where} is an "
          "encoder-decoder"
        )
