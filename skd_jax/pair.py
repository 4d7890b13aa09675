"""What is known of teacher and student before one is distilled into the other.

pair_warnings   where the conventions of their checkpoints differ
probe_start     whether SKD changes anything with them
"""

import dataclasses
from typing import Any

from absl import logging

from skd_jax import models, stages
from skd_jax.data import conventions, dataset
from skd_jax.decoding import sampling
from skd_jax.experiment import Experiment
from skd_jax.parallel import processes
from skd_jax.training import generation
from skd_jax.training import probe as probe_lib

# Enough tokens for a share to a few percent, and done within seconds.
_NUM_PROMPTS = 16


def pair_warnings(experiment: Experiment) -> list[str]:
  """Returns where the conventions of the checkpoints differ, and warns of it.

  One line each; none where both models are made from scratch.
  """
  config, tasks = experiment.config, experiment.tasks
  folders = {
    role: folder
    for role in ("teacher", "student")
    if (folder := config[role].path or config[role].init_path)
  }
  found = conventions.convention_warnings(
    folders,
    tokenizer=tasks.tokenizer,
    tokenizer_folder=stages.tokenizer_folder(config),
    eos_ids=tasks.eos_ids,
  )
  for warning in found if processes.is_first() else ():
    logging.warning("%s", warning)
  return found


def probe_start(
  experiment: Experiment,
  spec: generation.GenerationSpec,
  start: models.LoadedModel,
  teacher: models.LoadedModel,
) -> dict[str, Any] | None:
  """Probes whether SKD changes anything with this pair; cached like a stage.

  Args:
    experiment: the run.
    spec: who generates in it.
    start: the student before distillation.
    teacher: the teacher.

  Returns:
    The fields of probe.Probe and "verdict", a sentence. None where the student
    generates nothing in the run: what it would does not matter there.
  """
  if spec.mode not in ("skd", "on_policy"):
    return None

  def run() -> dict[str, Any]:
    train, config = experiment.tasks.train, experiment.config
    chosen = dataset.spread_examples(train, min(_NUM_PROMPTS, len(train)))
    # With the rows of a training batch: one program serves both.
    batch = experiment.one_batch(chosen, num_rows=config.distill.batch_size)
    # Keys that no step of the run has, nor the rollouts of report.html.
    step = config.distill.num_steps + 1
    found = probe_lib.probe_pair(
      spec,
      start,
      teacher,
      experiment.stop_table,
      batch,
      sampling.row_keys(config.seed, step, batch.index),
      mesh=experiment.mesh,
      dtype=experiment.dtype,
    )
    annealed = config.rollout.threshold_schedule != "constant"
    verdict = probe_lib.verdict(found, annealed=annealed)
    return dataclasses.asdict(found) | {"verdict": verdict}

  found = experiment.cached("probe", run)
  for line in _lines(found):
    logging.info("Probe: %s", line)
  return found


def _lines(found: dict[str, Any]) -> list[str]:
  """Returns what a probe has found, for people."""
  return [
    f"alone, the student generates {found['mean_length']:.1f} tokens a "
    f"response, and {found['truncated']:.0%} of {found['rows']} are cut",
    "the teacher's loss on the references is "
    f"{found['teacher_loss']:.2f} nats a token",
    f"the teacher's entropy there is {found['teacher_entropy']:.2f} of at most "
    f"{found['max_entropy']:.2f} nats, and {found['outside_top_k']:.1%} of the "
    f"tokens are outside its top {probe_lib.TOP_K}",
    found["verdict"],
  ]
