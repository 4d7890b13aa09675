"""The student as it leaves a run: WORKDIR/export, with its model card."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from flax import traverse_util

from skd_jax import __version__, builders, results
from skd_jax import config as config_lib
from skd_jax.experiment import Experiment
from skd_jax.models import LoadedModel, lora, save_model
from skd_jax.reporting import model_card, provenance, report

# By rollout.mode: how the student learns.
_METHODS = {
  "skd": (
    "Speculative Knowledge Distillation ([arXiv 2410.11325]"
    "(https://arxiv.org/abs/2410.11325)): the student proposes tokens, the "
    "teacher replaces those that it rejects, and the student learns the "
    "teacher's next-token distribution on the result."
  ),
  "on_policy": (
    "On-policy distillation: the student learns the teacher's next-token "
    "distribution on responses of its own."
  ),
  "teacher": "Distillation on responses that the teacher generates.",
  "reference": "Distillation on the references of the data.",
}


def export_student(
  experiment: Experiment,
  student: LoadedModel,
  scores: Mapping[str, Mapping[str, Any]],
  *,
  seed: int,
  command: str,
) -> None:
  """Writes WORKDIR/export: weights in export_dtype, tokenizer, model card.

  Args:
    experiment: the run.
    student: of one seed.
    scores: of {teacher, student_init, student, ...}, as of train.score.
    seed: of the student.
    command: that runs the experiment; "" where it is not known.
  """
  tasks, config = experiment.tasks, experiment.config
  save_model(
    experiment.workdir / "export",
    student,
    tasks.tokenizer,
    eos_ids=tasks.eos_ids,
    dtype=config.export_dtype,
    card=_card(experiment, student, scores, seed, command),
  )


def origin(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the section of the model that the student starts from."""
  return config.teacher if config.student.layers_of_teacher else config.student


def _card(
  experiment: Experiment,
  student: LoadedModel,
  scores: Mapping[str, Mapping[str, Any]],
  seed: int,
  command: str,
) -> str:
  config = experiment.config
  start = origin(config)
  # An adapter is merged with its kernel.
  weights = jax.tree.leaves(student.params, is_leaf=lora.is_adapted)
  num_weights = sum(math.prod(x.shape) for x in weights)
  asked = results.describe_request(config)
  text = [
    f"A `{student.config.model_type}` model of {num_weights:,} weights.",
    f"{_METHODS[config.rollout.mode]} {asked}.",
  ]
  if teacher := config.teacher.checkpoint or config.teacher.path:
    text.append(f"Teacher: {teacher}.")
  made = provenance.provenance()
  return model_card.model_card(
    title=config.task or "student",
    text="\n\n".join(text),
    task=student.config.hub_task,
    base_model=start.checkpoint,
    license=model_card.license_of(start.path or start.init_path),
    data=_data(experiment, scores["student"]["metrics"]),
    scores=report.score_tables(
      {"metrics": {name: found["metrics"] for name, found in scores.items()}}
    ),
    settings=_changed(config),
    command=command,
    made_with=[
      f"Seed {seed}, on {', '.join(made['devices'])}.",
      " ".join(filter(None, ("skd_jax", __version__, made["git"]))),
      ", ".join(
        f"{name} {version}" for name, version in made["versions"].items()
      ),
      *(f"{k}: `{v}`" for k, v in scores["student"]["signature"].items()),
    ],
  )


def _data(
  experiment: Experiment, scores: Mapping[str, Any]
) -> list[model_card.Data]:
  """Describes the data of each task, with the scores of its metrics."""
  task_set, limit = experiment.tasks, experiment.config.distill.max_examples
  settings = builders.task_settings(experiment.config).values()
  described = []
  for i, (task, of_task) in enumerate(
    zip(task_set.tasks, settings, strict=True)
  ):
    num_train = int((task_set.train.task_id == i).sum())
    found = scores.get(task.name, scores)
    described.append(
      model_card.Data(
        # wmt16_translate/de-en is a part of one data set.
        name=of_task.name.partition("/")[0]
        or pathlib.Path(of_task.dir).name
        or f"skd_jax-{of_task.kind}",
        kind=of_task.kind,
        prompt=of_task.prompt,
        num_train=min(num_train, limit) if limit else num_train,
        num_test=len(task.test),
        scores={
          name: found[name]
          for name in task.metrics
          if math.isfinite(found[name])
        },
      )
    )
  return described


def _changed(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the settings that are not the defaults, by dotted names."""
  default, settings = (
    traverse_util.flatten_dict(config_lib.to_plain(one), sep=".")
    for one in (config_lib.default_config(), config)
  )
  return {k: v for k, v in settings.items() if default.get(k) != v}
