"""Which way to distil is best? All at the same budget, with several seeds.

  WORKDIR/shared             the teacher, for every comparison in this workdir
  WORKDIR/starts/NAME        the student before distillation
  WORKDIR/runs/NAME/seed_N   one run: metrics.jsonl, answers, checkpoints
  WORKDIR/GRID/runs.jsonl    one line per run, and for the models before

All runs of a comparison have the same teacher, student start, prompts, steps,
sampling temperatures and evaluation. A finished run is not repeated, and the
one that was stopped goes on from its last checkpoint.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import logging

from skd_jax import (
  config_checks,
  experiment,
  grids,
  preparation,
  records,
  stages,
  train,
)
from skd_jax import methods as methods_lib
from skd_jax.models import LoadedModel
from skd_jax.parallel import sharding
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


def compare(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  methods: Sequence[str] = (),
  grid: str | None = None,
  seeds: int = 3,
  path: str | pathlib.Path | None = None,
  command: str = "",
) -> list[records.Record]:
  """Distils with several methods and seeds, and scores all students.

  Args:
    config: of every run; what a method names is set by the method.
    workdir: where all runs go; the same call again continues.
    methods: names of methods.METHODS; or
    grid: a name of grids.GRIDS.
    seeds: how many runs of each.
    path: of the JSON lines; default: WORKDIR/GRID/runs.jsonl, or
      WORKDIR/methods/runs.jsonl.
    command: what runs it, for the lines.

  Returns:
    One dict for each run and for each model before distillation: "method",
    "seed" (None before), "metrics", "seconds", "replacement_rate", "curve" and
    what it was made with.

  Raises:
    ValueError: bad settings, or the lines are of other settings.
    loop.Interrupted: the run was asked to stop, and has saved.
  """
  asked = open_comparison(
    config,
    workdir,
    methods=methods,
    grid=grid,
    seeds=seeds,
    path=path,
    command=command,
  )
  variants = asked.variants
  with jax.set_mesh(sharding.make_mesh(**asked.config.mesh)):
    prepared: dict[str, Prepared] = {}
    for variant in variants:
      if variant.start.name not in prepared:
        prepared[variant.start.name] = prepare(asked, variant.start)
    (task,) = prepared[variants[0].start.name].experiment.tasks.tasks
    files.write_json(
      asked.workdir / records.REFERENCES,
      [e["target"] for e in task.test.examples],
    )
    # Seed by seed, so that a comparison that is cut short has all methods.
    for seed in asked.seeds:
      for variant in variants:
        _run_one(asked, prepared[variant.start.name], variant, seed)
  return records.read(asked.path)


def open_comparison(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  methods: Sequence[str] = (),
  grid: str | None = None,
  seeds: int = 3,
  path: str | pathlib.Path | None = None,
  command: str = "",
) -> Comparison:
  """Checks what is asked for; arguments and errors as of `compare`."""
  workdir = config_checks.check_workdir(workdir)
  default = workdir / (grid or "methods") / "runs.jsonl"
  asked = Comparison(
    config=_with_curves(config),
    variants=grids.choose(grid, methods),
    seeds=range(seeds),
    workdir=workdir,
    path=pathlib.Path(path) if path else default,
    command=command,
  )
  _check(asked)
  return asked


def _with_curves(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Returns the config with what a comparison has to see of each run."""
  every = config.distill.evaluate_every_steps
  return methods_lib.change(
    config,
    {
      "distill.log_every_steps": 1,
      "distill.evaluate_every_steps": every
      or max(1, config.distill.num_steps // 8),
      "evaluate.num_samples": 0,
    },
  )


def _check(asked: Comparison) -> None:
  """Checks what can be checked before anything is trained.

  Raises:
    ValueError: names the setting, its value and what is allowed.
  """
  config = asked.config
  if config.tasks:
    raise ValueError(
      f"tasks = {list(config.tasks)}: must be empty; a comparison is of one"
    )
  if config.student.path and any(v.start.changes for v in asked.variants):
    raise ValueError(
      f"student.path = {config.student.path!r}: must be empty, as the grid "
      "changes the student's start"
    )
  for variant in asked.variants:
    # The rate of a control is measured later; any will do here.
    rate = 0.1 if variant.method in methods_lib.CONTROLS else None
    of_variant = methods_lib.apply_method(config, variant.method, rate)
    changes = {**variant.start.changes, **variant.changes}
    config_checks.check_config(methods_lib.change(of_variant, changes))


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
  student, _ = preparation.prepare_model(opened, "student_init")
  _score_before(asked, opened, "student_init", student, teacher, start.name)
  folder = config.student.path or str(opened.workdir / "student_init")
  of_runs = methods_lib.change(
    of_start, {"student.path": folder, "student.init_path": ""}
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
  scored = train.score(opened, stage, model, teacher)
  label = stage if name == "start" else f"{stage}, {name}"
  found = {"metrics": scored["metrics"], "signature": scored["signature"]}
  unknown = ("seconds", "generated_tokens", "replacement_rate")
  _keep(
    asked,
    label,
    None,
    _settings(asked, opened.config),
    found | dict.fromkeys(unknown),
  )


def _run_one(
  asked: Comparison, before: Prepared, variant: grids.Variant, seed: int
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
  distillation = train.prepare_distillation(
    opened, before.start, before.teacher
  )
  student, totals = train.distill(opened, distillation, seed)
  scored = train.score(opened, f"distill_seed_{seed}", student, before.teacher)
  found = _measure(opened, seed, scored, Totals.from_plain(totals))
  _keep(asked, variant.name, seed, settings, found)


def _config_of(
  asked: Comparison, before: Prepared, variant: grids.Variant, seed: int
) -> ml_collections.ConfigDict:
  """Returns the settings of one run."""
  rate = None
  if variant.method in methods_lib.CONTROLS:
    controlled = methods_lib.CONTROLS[variant.method]
    record = records.find(records.read(asked.path), controlled, seed)
    if record is None:
      raise ValueError(
        f"{variant.name}, seed {seed}: needs a finished run of {controlled!r}"
      )
    rate = record["replacement_rate"]
  config = methods_lib.apply_method(
    before.experiment.config, variant.method, rate
  )
  return methods_lib.change(config, {**variant.changes, "seeds": (seed,)})


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
  settings: Mapping[str, Any],
  found: Mapping[str, Any],
) -> None:
  """Adds a line, or puts it in the place of the one of the same run."""
  _known(asked, name, seed, settings)
  line = {
    "task": asked.config.task,
    "method": name,
    "seed": seed,
    **found,
    "settings": settings,
    "device": provenance.device_name(),
    "versions": provenance.versions(),
    "git": provenance.git_revision(),
    "command": asked.command,
  }
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
