"""README.md of an exported folder: the model card of the Hugging Face hub.

The text follows a YAML header for programs: licence, base model, scores
(`model-index`), ...
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import huggingface_hub
import yaml
from absl import logging

from skd_jax.reporting.report import Table

FILE_NAME = "README.md"
_LICENSE_FIELDS = ("license", "license_name", "license_link")


@dataclasses.dataclass(frozen=True)
class Data:
  """The data of a task, and the scores of the model on its test split.

  name: of the data set.
  kind: how it was read, as data.kind.
  prompt: the user's turn.
  num_train: examples that were trained on.
  num_test: examples that the scores are of.
  scores: by metric.
  """

  name: str
  kind: str
  prompt: str
  num_train: int
  num_test: int
  scores: Mapping[str, float]


def license_of(folder: str) -> dict[str, str]:
  """Returns the license fields of a folder's own card, if it has any.

  A card that cannot be read is named in a warning: a run is not lost for it.
  """
  path = pathlib.Path(folder, FILE_NAME)
  if not folder or not path.is_file():
    return {}
  try:
    found = huggingface_hub.metadata_load(path) or {}
  except (ValueError, yaml.YAMLError) as error:
    logging.warning(
      "%s: its YAML, and so the licence, is not read: %s", path, error
    )
    return {}
  return {key: found[key] for key in _LICENSE_FIELDS if found.get(key)}


def model_card(
  *,
  title: str,
  text: str,
  task: str,
  base_model: str,
  license: Mapping[str, str],
  data: Sequence[Data],
  scores: Sequence[Table],
  settings: Mapping[str, Any],
  command: str,
  made_with: Sequence[str],
) -> str:
  """Returns the text of the card.

  Args:
    title: of the model.
    text: what it is, and how it was trained.
    task: what it does, as the hub calls it, such as text-generation.
    base_model: its name on the hub; empty where it is not known.
    license: as of license_of.
    data: of each task.
    scores: of the model and of those it is compared with.
    settings: that differ from the defaults, by dotted names.
    command: that repeats the training; empty where it is not known.
    made_with: lines on versions and the like.
  """
  shown = [
    f"- {one.name} (`{one.kind}`): {one.num_train:,} training and "
    f"{one.num_test:,} test examples; prompt `{one.prompt!r}`"
    for one in data
  ]
  lines = [f"{name} = {value!r}" for name, value in settings.items()]
  repeat = [_fenced("sh", command)] if command else []
  parts = [
    f"---\n{_front_matter(title, task, base_model, license, data)}\n---",
    f"# {title}",
    text,
    "## Scores",
    "Of greedy answers, on the test split.",
    *(part for t in scores for part in (t.title, t.markdown()) if part),
    "## Data",
    "\n".join(shown),
    "## Settings",
    "Those that are not the defaults of skd_jax.",
    _fenced("text", "\n".join(lines)),
    "## How to repeat it",
    *repeat,
    *made_with,
  ]
  return "\n\n".join(parts) + "\n"


def _front_matter(
  title: str,
  task: str,
  base_model: str,
  license: Mapping[str, str],
  data: Sequence[Data],
) -> str:
  results = [
    huggingface_hub.EvalResult(
      task_type=task,
      dataset_name=one.name,
      dataset_type=one.name,
      dataset_split="test",
      metric_type=metric,
      metric_value=value,
    )
    for one in data
    for metric, value in one.scores.items()
  ]
  card = huggingface_hub.ModelCardData(
    base_model=base_model or None,
    library_name="transformers",
    pipeline_tag=task,
    tags=["knowledge-distillation", "skd_jax"],
    datasets=list(dict.fromkeys(one.name for one in data)),
    metrics=list(dict.fromkeys(r.metric_type for r in results)),
    model_name=title,
    eval_results=results or None,
    license=license.get("license"),
    license_name=license.get("license_name"),
    license_link=license.get("license_link"),
  )
  return card.to_yaml().strip()


def _fenced(language: str, text: str) -> str:
  return f"```{language}\n{text}\n```"
