"""What is known of teacher and student before one is distilled into the other.

pair_warnings   where the conventions of their checkpoints differ
probe_start     whether SKD changes anything with them
probe_quantization   what a compact teacher has lost
"""

import dataclasses
from typing import Any

import jax
from absl import logging

from skd_jax import methods, models, preparation, stages, structs
from skd_jax.data import conventions, dataset
from skd_jax.decoding import sampling
from skd_jax.experiment import Experiment
from skd_jax.parallel import processes, sharding
from skd_jax.training import generation, memory, quantization_probe
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
    config = experiment.config
    batch, keys = _few_prompts(experiment, experiment.tasks.train)
    found = probe_lib.probe_pair(
      spec,
      start,
      teacher,
      experiment.stop_table,
      batch,
      keys,
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


def probe_quantization(
  experiment: Experiment,
  spec: generation.GenerationSpec,
  start: models.LoadedModel,
  teacher: models.LoadedModel,
) -> dict[str, Any] | None:
  """Measures what the teacher has lost by its quantization, if it has one.

  The full weights are read for it, and are gone after it. Where a device has no
  room for them beside what it holds, a line says so.

  Args:
    experiment: the run.
    spec: who generates in it.
    start: the student before distillation.
    teacher: the compact teacher.

  Returns:
    The fields of quantization_probe.Lost, cached like a stage; None where
    nothing is measured.
  """
  config = experiment.config
  name = config.teacher.quantization
  if not name:
    return None
  placement = models.Placement(experiment.mesh, sharding.FROZEN)
  full_bytes = memory.held_bytes(
    jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(
        x.shape, experiment.dtype, sharding=place
      ),
      models.param_shapes(teacher.config),
      placement.shardings(teacher.config),
    )
  )
  if not processes.on_first(memory.has_room, full_bytes):
    logging.info(
      "Teacher in %s: what it has lost is not measured, as a device has no "
      "room for its full weights as well, %.2g GiB",
      name,
      full_bytes / memory.GIB,
    )
    return None

  def run() -> dict[str, Any]:
    full = methods.change(config, {"teacher.quantization": ""})
    opened = dataclasses.replace(experiment, config=full)
    whole, _ = preparation.prepare_model(opened, "teacher")
    task_sets = [task.validation for task in experiment.tasks.tasks]
    batch, keys = _few_prompts(experiment, dataset.join(task_sets))
    lost = quantization_probe.measure(
      spec,
      start,
      teacher,
      whole.params,
      experiment.stop_table,
      batch,
      keys,
      mesh=experiment.mesh,
      dtype=experiment.dtype,
    )
    return dataclasses.asdict(lost)

  found = experiment.cached("quantization", run)
  logging.info(
    "Teacher in %s: KL(full || %s) is %.2g nats a token on %d tokens of its "
    "own answers, its first choice is the same at %.1f %%, and %.2f %% of the "
    "decisions on the student's proposals change",
    name,
    name,
    found["kl"],
    found["tokens"],
    100 * found["agreement"],
    100 * found["changed"],
  )
  return found


def _few_prompts(
  experiment: Experiment, examples: dataset.TokenizedSet
) -> tuple[structs.Batch, jax.Array]:
  """Returns a few prompts, and keys that no step of the run has."""
  config = experiment.config
  chosen = dataset.spread_examples(examples, min(_NUM_PROMPTS, len(examples)))
  # With the rows of a training batch: one program serves both.
  batch = experiment.one_batch(chosen, num_rows=config.distill.batch_size)
  # Nor the rollouts of report.html.
  step = config.distill.num_steps + 1
  return batch, sampling.row_keys(config.seed, step, batch.index)


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
