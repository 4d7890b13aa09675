"""The runs of a comparison: prepared once, then each distilled and scored.

A finished run is a line of the file of results. What a killed comparison has
finished is not repeated, and the run that it was in goes on.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import logging

from benchmarks import comparison, grids, harness
from skd_jax import (
  config_checks,
  methods,
  preparation,
  results,
  stages,
  structs,
  train,
)
from skd_jax.experiment import Run
from skd_jax.models import loading
from skd_jax.reporting import metric_log as metric_log_lib


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What is compared, and where it goes."""

  config: ml_collections.ConfigDict
  variants: Sequence[grids.Variant]
  seeds: Sequence[int]
  workdir: pathlib.Path
  path: pathlib.Path  # Of the JSON lines.
  name: str  # Of the grid.
  baselines: Sequence[str]  # See grids.rival; timed to the first.
  command: str


@dataclasses.dataclass(frozen=True)
class Prepared:
  """What the runs from one start share."""

  run: Run
  teacher: loading.LoadedModel
  start: loading.LoadedModel

  @property
  def references(self) -> Sequence[structs.Example]:
    """The test split, in the order of the answers."""
    (part,) = self.run.task.parts
    return part.test.examples


def fair(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config with what a comparison has to see of each run."""
  every = config.distill.evaluate_every_steps
  return methods.change(
    config,
    {
      "distill.log_every_steps": 1,
      "distill.evaluate_every_steps": every
      or max(1, config.distill.num_steps // 8),
      "evaluate.num_samples": 0,
    },
  )


def check(asked: Comparison, config: ml_collections.ConfigDict) -> None:
  """Checks what can be checked before anything is trained.

  Raises:
    ValueError: names the setting, its value and what is allowed.
  """
  if config.tasks:
    raise ValueError(
      f"tasks = {list(config.tasks)}: must be empty; a comparison is of one"
    )
  found = dict.fromkeys(grids.in_group(v.name) for v in asked.variants)
  unknown = [name for name in asked.baselines if name not in found]
  if unknown or not asked.baselines:
    raise ValueError(
      f"--baselines={','.join(asked.baselines)}: must be of {', '.join(found)}"
    )
  if config.student.path and any(v.start.changes for v in asked.variants):
    raise ValueError(
      f"student.path = {config.student.path!r}: must be empty, as the grid "
      f"{asked.name!r} changes the student's start"
    )
  for variant in asked.variants:
    # The rate of a control is measured later; any will do here.
    rate = 0.1 if variant.method in methods.CONTROLS else None
    of_variant = methods.apply(config, variant.method, rate)
    changes = {**variant.start.changes, **variant.changes}
    config_checks.validate(methods.change(of_variant, changes))


def prepare(
  asked: Comparison, config: ml_collections.ConfigDict, start: grids.Start
) -> Prepared:
  """Reads or trains the teacher and a start, and scores both.

  Args:
    asked: the comparison.
    config: of every run.
    start: which student.
  """
  shared = train.open_run(config, asked.workdir / "shared")
  teacher, _ = preparation.prepare_model(shared, "teacher")
  _score_before(asked, shared, "teacher", teacher, teacher)
  # From here on the teacher is a folder, with its tokenizer.
  folder = config.teacher.path or str(shared.workdir / "teacher")
  of_start = methods.change(config, {"teacher.path": folder, **start.changes})
  run = train.open_run(of_start, asked.workdir / "starts" / start.name)
  student, _ = preparation.prepare_model(run, "student_init")
  _score_before(asked, run, "student_init", student, teacher, start.name)
  folder = config.student.path or str(run.workdir / "student_init")
  run = dataclasses.replace(
    run, config=methods.change(of_start, {"student.path": folder})
  )
  return Prepared(run, teacher, student)


def _score_before(
  asked: Comparison,
  run: Run,
  stage: str,
  model: loading.LoadedModel,
  teacher: loading.LoadedModel,
  name: str = "start",
) -> None:
  """Scores a model that nothing is distilled into yet; keeps a line of it."""
  sections = ("teacher",) if stage == "teacher" else ("teacher", "student")
  scored = train.score(run, stage, model, teacher, sections)
  label = stage if name == "start" else f"{stage}, {name}"
  _keep(
    asked,
    label,
    None,
    _settings(asked, run.config),
    {
      "metrics": scored["metrics"],
      "signature": scored["signature"],
      "seconds": None,
      "generated_tokens": None,
      "replacement_rate": None,
    },
  )


def run_one(
  asked: Comparison, before: Prepared, variant: grids.Variant, seed: int
) -> bool:
  """Distils and scores one student, unless its line is there already.

  Returns:
    Whether it was not.
  """
  config = _config_of(asked, before, variant, seed)
  settings = _settings(asked, config)
  known = _known(asked, variant.name, seed, settings)
  if known and answers_path(asked.workdir, variant.name, seed).exists():
    logging.info("%s, seed %d: finished before", variant.name, seed)
    return False
  logging.info("%s, seed %d", variant.name, seed)
  run = _open(before, config, _folder(asked.workdir, variant.name, seed))
  shared = train.prepare_distillation(run, before.start, before.teacher)
  student, counts = train.distill(run, shared, seed)
  stage = f"distill_seed_{seed}"
  scored = train.score(run, stage, student, before.teacher, train.DISTILLED)
  _keep(asked, variant.name, seed, settings, measure(run, seed, scored, counts))
  return True


def _config_of(
  asked: Comparison, before: Prepared, variant: grids.Variant, seed: int
) -> ml_collections.ConfigDict:
  """Returns the settings of one run."""
  rate = None
  if variant.method in methods.CONTROLS:
    controlled = methods.CONTROLS[variant.method]
    record = comparison.find(comparison.read(asked.path), controlled, seed)
    if record is None:
      raise ValueError(
        f"{variant.name}, seed {seed}: needs a finished run of {controlled!r}"
      )
    rate = record["replacement_rate"]
  config = methods.apply(before.run.config, variant.method, rate)
  return methods.change(config, {**variant.changes, "seeds": (seed,)})


def _open(
  before: Prepared, config: ml_collections.ConfigDict, folder: pathlib.Path
) -> Run:
  """Opens a run whose data another one has read."""
  config_checks.validate(config)
  folder.mkdir(parents=True, exist_ok=True)
  results.write_config(folder, config)
  return dataclasses.replace(before.run, config=config, workdir=folder)


def measure(
  run: Run, seed: int, scored: Mapping[str, Any], counts: Mapping[str, float]
) -> comparison.Record:
  """Returns what the line of a run says of it.

  Args:
    run: the run.
    seed: of it.
    scored: from train.score.
    counts: of the whole stage, from train.distill.
  """
  lines = [
    line
    for line in metric_log_lib.read_metrics(
      run.workdir / metric_log_lib.FILE_NAME
    )
    if (line["stage"], line["seed"]) == ("distill", seed)
  ]
  (part,) = run.task.parts
  score = f"validation_{part.metrics[0]}"
  rates = comparison.rate_by_position(counts)
  judged = counts.get("rounds", 0) > 0
  return {
    "metrics": scored["metrics"],
    "signature": scored["signature"],
    "score": part.metrics[0],
    "seconds": sum(comparison.step_seconds(lines)),
    # With what compiled, and whatever else ran.
    "seconds_measured": {
      name: value
      for name, value in counts.items()
      if name.startswith("seconds_")
    },
    "generated_tokens": counts["emitted"],
    "replacement_rate": (
      counts["replaced"] / counts["emitted"] if judged else None
    ),
    # A replacement may be the token that it replaces.
    "changed_rate": counts["changed"] / counts["emitted"] if judged else None,
    "curve": comparison.validation_curve(lines, score),
    "replacement_curve": [
      (line["step"], line["replacement_rate"])
      for line in lines
      if "replacement_rate" in line
    ],
    "replacement_by_position": sorted(
      (int(position), rate) for position, rate in rates.items()
    ),
  }


def _known(
  asked: Comparison, name: str, seed: int | None, settings: Mapping[str, Any]
) -> Mapping[str, Any] | None:
  """Returns the line of a run that has these settings.

  A setting that only one of them knows is new or gone, and is not compared.

  Raises:
    ValueError: the line has others.
  """
  record = comparison.find(comparison.read(asked.path), name, seed)
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
      "delete the file to begin anew"
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
    "device": harness.device_name(),
    "versions": results.versions(),
    "git": results.git_revision(),
    "command": asked.command,
  }
  records = comparison.read(asked.path)
  runs = [(record["method"], record["seed"]) for record in records]
  if (name, seed) in runs:
    records[runs.index((name, seed))] = line
  else:
    records.append(line)
  comparison.write(asked.path, records)


def _settings(
  asked: Comparison, config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Returns the settings that a result depends on, flat.

  Where folders lie is none of them: of data and models only the name counts.
  """
  paths = {
    "data.dir": config.data.dir,
    "teacher.path": asked.config.teacher.path,
    "student.path": asked.config.student.path,
  }
  return stages.settings(config, *config) | {
    field: pathlib.PurePath(path).name for field, path in paths.items()
  }


def _folder(workdir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
  return workdir / "runs" / slug(name) / f"seed_{seed}"


def answers_path(workdir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
  """Returns where the greedy answers of a run lie, one a line."""
  file_name = f"distill_seed_{seed}.txt"
  return _folder(workdir, name, seed) / "answers" / file_name


def read_answers(
  workdir: pathlib.Path, records: comparison.Records, name: str
) -> dict[int, list[str]]:
  """Returns the answers of a method by seed, of those runs that lie here."""
  paths = {
    record["seed"]: answers_path(workdir, name, record["seed"])
    for record in comparison.of_method(records, name)
  }
  return {
    # Not splitlines: an answer may hold characters that it splits at.
    seed: path.read_text("utf-8").removesuffix("\n").split("\n")
    for seed, path in paths.items()
    if path.exists()
  }


def slug(text: str) -> str:
  """Returns a name for files."""
  return re.sub(r"[^A-Za-z0-9_.=]+", "-", text).strip("-")
