"""The shapes of published checkpoints, so that no weight has to be read.

checkpoints.json has, for each name on the Hugging Face hub, the fields of its
config.json that a decoder depends on, and `num_tokens`, the ids of its
tokenizer. The head may be padded beyond them (Qwen2: 152064 rows for 151646
tokens); a run keeps the rows that both tokenizers know.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax

from skd_jax import models


@functools.cache
def published() -> dict[str, dict[str, Any]]:
  """Returns the checkpoints by name."""
  path = pathlib.Path(__file__).with_suffix(".json")
  return json.loads(path.read_text("utf-8"))


def load(name: str) -> tuple[models.ModelConfig, int]:
  """Returns the shape of a checkpoint, and how many ids its tokenizer has.

  Raises:
    ValueError: the checkpoint is not in the table.
  """
  if name not in published():
    raise ValueError(
      f"checkpoint = {name!r}: must be one of {list(published())}"
    )
  fields = dict(published()[name])
  num_tokens = fields.pop("num_tokens")
  return models.model_config_from_hf(fields), num_tokens


def load_pair(
  teacher: str, student: str
) -> tuple[models.ModelConfig, models.ModelConfig]:
  """Returns teacher and student with the vocabulary that both know."""
  found = [load(name) for name in (teacher, student)]
  rows = min(min(config.vocab_size, num) for config, num in found)
  of_teacher, of_student = (
    dataclasses.replace(config, vocab_size=rows) for config, _ in found
  )
  return of_teacher, of_student


def num_params(config: models.ModelConfig) -> int:
  """Counts the weights of a model; a tied head counts once."""
  return sum(x.size for x in jax.tree.leaves(models.param_shapes(config)))
