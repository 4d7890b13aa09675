"""One run of a comparison after the other: what they share, and their lines."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import logging

from skd_jax import (
  config_checks,
  experiment,
  grids,
  preparation,
  records,
  scoring,
  stages,
  train,
)
from skd_jax import methods as methods_lib
from skd_jax.distillation import Distillation, prepare_distillation
from skd_jax.models import LoadedModel
from skd_jax.reporting import files, metric_log, provenance
from skd_jax.training.loop import Totals


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What is compared, and where it goes."""

  config: ml_collections.ConfigDict
  variants: Sequence[grids.Variant]
  seeds: Sequence[int]
  workdir: pathlib.Path
  path: pathlib.Path  # Of the JSON lines.
  command: str


@dataclasses.dataclass(frozen=True)
class Prepared:
  """What the runs from one start share."""

  experiment: experiment.Experiment
  teacher: LoadedModel
  start: LoadedModel


def prepare(asked: Comparison, start: grids.Start) -> Prepared:
  """Reads or trains the teacher and a start, and scores both."""
  config = asked.config
  shared = experiment.open_experiment(config, asked.workdir / "shared")
  teacher, _ = preparation.prepare_model(shared, "teacher")
  _score_before(asked, shared, "teacher", teacher, teacher)
  # From here on the teacher is a folder, with its tokenizer.
  folder = config.teacher.path or str(shared.workdir / "teacher")
  of_start = methods_lib.change(
    config,
    {"teacher.path": folder, "teacher.init_path": "", **start.changes},
  )
  opened = experiment.open_experiment(
    of_start, asked.workdir / "starts" / start.name
  )
  (task,) = opened.tasks.tasks
  files.write_json(
    records.references_path(asked.workdir, start.name),
    [example["target"] for example in task.test.examples],
  )
  student, _ = preparation.prepare_model(opened, "student_init")
  _score_before(asked, opened, "student_init", student, teacher, start.name)
  folder = config.student.path or str(opened.workdir / "student_init")
  of_runs = methods_lib.change(
    of_start,
    {
      "student.path": folder,
      "student.init_path": "",
      "student.layers_of_teacher": (),
    },
  )
  opened = dataclasses.replace(opened, config=of_runs)
  return Prepared(opened, teacher, student)


def _score_before(
  asked: Comparison,
  opened: experiment.Experiment,
  stage: str,
  model: LoadedModel,
  teacher: LoadedModel,
  name: str = "start",
) -> None:
  """Scores a model that nothing is distilled into yet; keeps a line of it."""
  scored = scoring.score(opened, stage, model, teacher)
  label = stage if name == "start" else f"{stage}, {name}"
  found = {"metrics": scored["metrics"], "signature": scored["signature"]}
  unknown = ("seconds", "generated_tokens", "replacement_rate")
  _keep(
    asked,
    label,
    None,
    name,
    _settings(asked, opened.config),
    found | dict.fromkeys(unknown),
  )


def try_one(
  asked: Comparison,
  before: Prepared,
  variant: grids.Variant,
  seed: int,
  compiled: dict[str, Distillation],
) -> bool:
  """Sees to one run, unless another process has it, or what it needs.

  Args:
    asked: the comparison.
    before: what the run starts from.
    variant: what is run.
    seed: of the run.
    compiled: by variant, for the seeds that follow; is added to.

  Returns:
    Whether the run is finished.
  """
  folder = records.run_folder(asked.workdir, variant.name, seed)
  with files.locked(folder / "lock", wait=False) as is_mine:
    lines = records.read(asked.path)
    needed = [records.find(lines, name, seed) for name in variant.needs]
    if not is_mine or None in needed:
      return False
    _run_one(asked, before, variant, seed, compiled)
  return True


def _run_one(
  asked: Comparison,
  before: Prepared,
  variant: grids.Variant,
  seed: int,
  compiled: dict[str, Distillation],
) -> None:
  """Distils and scores one student, unless its line is there already."""
  config = _config_of(asked, before, variant, seed)
  settings = _settings(asked, config)
  known = _known(asked, variant.name, seed, settings)
  if known and records.answers_path(asked.workdir, variant.name, seed).exists():
    logging.info("%s, seed %d: finished before", variant.name, seed)
    return
  logging.info("%s, seed %d", variant.name, seed)
  folder = records.run_folder(asked.workdir, variant.name, seed)
  config_checks.check_config(config)
  config_checks.check_vocabulary(config, before.experiment.tasks.vocab_size)
  stages.check_fresh(folder, stages.cache_keys(config))
  folder.mkdir(parents=True, exist_ok=True)
  experiment.write_config(folder, config)
  opened = dataclasses.replace(before.experiment, config=config, workdir=folder)
  # The threshold of a control is its own for each seed.
  distillation = compiled.get(variant.name)
  if distillation is None or variant.needs:
    distillation = prepare_distillation(
      opened, _start_of(before, opened), before.teacher
    )
    compiled[variant.name] = distillation
  student, totals = train.distill(opened, distillation, seed)
  scored = scoring.score(
    opened, f"distill_seed_{seed}", student, before.teacher
  )
  found = _measure(opened, seed, scored, Totals.from_plain(totals))
  _keep(asked, variant.name, seed, variant.start.name, settings, found)


def _start_of(before: Prepared, opened: experiment.Experiment) -> LoadedModel:
  """Returns the student that a run starts from, with the run's adapters."""
  shared = before.experiment.config.student
  if opened.config.student.lora == shared.lora:
    return before.start
  return preparation.prepare_model(opened, "student_init")[0]


def _config_of(
  asked: Comparison, before: Prepared, variant: grids.Variant, seed: int
) -> ml_collections.ConfigDict:
  """Returns the settings of one run."""
  rate = None
  if variant.needs:
    lines = records.read(asked.path)
    found = [records.find(lines, name, seed) for name in variant.needs]
    rate = rate_of(variant, *[line for line in found if line is not None])
  config = methods_lib.apply_method(
    before.experiment.config, variant.method, rate
  )
  return methods_lib.change(config, {**variant.changes, "seeds": (seed,)})


def rate_of(
  variant: grids.Variant,
  controlled: Mapping[str, Any],
  blind: Mapping[str, Any] | None = None,
) -> float:
  """Returns the share of tokens that a control has to replace.

  Args:
    variant: the control.
    controlled: the line of the run that it is the control of.
    blind: that of blind replacements, where the control changes as many.
  """
  if variant.same == "replaced" or blind is None:
    return controlled["replacement_rate"]
  changed_of_replaced = blind["changed_rate"] / blind["replacement_rate"]
  return min(1.0, controlled["changed_rate"] / changed_of_replaced)


def _measure(
  opened: experiment.Experiment,
  seed: int,
  scored: Mapping[str, Any],
  totals: Totals,
) -> records.Record:
  """Returns what the line of a run says of it."""
  log = metric_log.read_metrics(opened.workdir / metric_log.FILE_NAME)
  lines = [
    line for line in log if (line["stage"], line["seed"]) == ("distill", seed)
  ]
  (task,) = opened.tasks.tasks
  rates, stats = totals.rates(), totals.stats
  return {
    "metrics": scored["metrics"],
    "signature": scored["signature"],
    "score": task.metrics[0],
    "seconds": sum(records.step_seconds(lines)),
    # With what compiled, and whatever else ran.
    "seconds_measured": dict(totals.seconds),
    "generated_tokens": stats.emitted,
    "replacement_rate": rates.get("replacement_rate"),
    # A replacement may be the token that it replaces.
    "changed_rate": rates.get("changed_rate"),
    "curve": records.validation_curve(lines, f"validation_{task.metrics[0]}"),
    "replacement_curve": [
      (line["step"], line["replacement_rate"])
      for line in lines
      if "replacement_rate" in line
    ],
    "replacement_by_position": sorted(stats.replacement_by_position().items())
    if stats.rounds
    else [],
  }


def _known(
  asked: Comparison, name: str, seed: int | None, settings: Mapping[str, Any]
) -> Mapping[str, Any] | None:
  """Returns the line of a run that has these settings.

  A setting that only one of them knows is new or gone, and is not compared.

  Raises:
    ValueError: the line has others.
  """
  record = records.find(records.read(asked.path), name, seed)
  if record is None:
    return None
  before = record["settings"]
  changed = [
    f"{field} was {before[field]!r} and is {settings[field]!r}"
    for field in sorted(before.keys() & settings.keys())
    if before[field] != settings[field]
  ]
  if changed:
    raise ValueError(
      f"{asked.path} holds {name!r}, seed {seed}, with other settings: "
      f"{'; '.join(changed[:5])}. Undo the change, choose another --json, or "
      "delete the file to begin again"
    )
  return record


def _keep(
  asked: Comparison,
  name: str,
  seed: int | None,
  start: str,
  settings: Mapping[str, Any],
  found: Mapping[str, Any],
) -> None:
  """Adds a line, or puts it in the place of the one of the same run."""
  line = {
    "task": asked.config.task,
    "method": name,
    "seed": seed,
    "start": start,
    **found,
    "settings": settings,
    "device": provenance.device_name(),
    "versions": provenance.versions(),
    "git": provenance.git_revision(),
    "command": asked.command,
  }
  with files.locked(asked.path.with_suffix(".lock")):
    _known(asked, name, seed, settings)
    lines = records.read(asked.path)
    runs = [(record["method"], record["seed"]) for record in lines]
    if (name, seed) in runs:
      lines[runs.index((name, seed))] = line
    else:
      lines.append(line)
    records.write(asked.path, lines)


def _settings(
  asked: Comparison, config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Returns the settings that a result depends on, flat.

  Where folders are is none of them: of data and models only the name counts.
  """
  paths = {
    "data.dir": config.data.dir,
    "teacher.path": asked.config.teacher.path,
    "student.path": asked.config.student.path,
  }
  return stages.settings(config, *config) | {
    field: pathlib.PurePath(path).name for field, path in paths.items()
  }
