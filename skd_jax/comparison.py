"""Which way to distil is best? All at the same budget, with several seeds.

  WORKDIR/shared             the teacher, for every comparison in this workdir
  WORKDIR/starts/NAME        the student before distillation
  WORKDIR/runs/NAME/seed_N   one run: metrics.jsonl, answers, checkpoints
  WORKDIR/GRID/runs.jsonl    one line per run, and for the models before

All runs of a comparison have the same teacher, student start, prompts, steps,
sampling temperatures and evaluation. A finished run is not repeated, and the
one that was stopped goes on from its last checkpoint. The same command in
several processes shares the runs among them.
"""

import pathlib
import time
from collections.abc import Sequence

import jax
import ml_collections

from skd_jax import (
  config_checks,
  grids,
  records,
)
from skd_jax import methods as methods_lib
from skd_jax import study as study_lib
from skd_jax.comparison_runs import Comparison, Prepared, prepare, try_one
from skd_jax.distillation import Distillation
from skd_jax.parallel import sharding
from skd_jax.reporting import files

_PAUSE = 5.0  # Seconds between two looks at what other processes do.


def compare(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  methods: Sequence[str] = (),
  grid: str | None = None,
  study: study_lib.Study | None = None,
  seeds: int | None = None,
  path: str | pathlib.Path | None = None,
  command: str = "",
) -> list[records.Record]:
  """Distils with several methods and seeds, and scores all students.

  Args:
    config: of every run; what a method names is set by the method.
    workdir: where all runs go; the same call again continues.
    methods: names of methods.METHODS; or
    grid: a name of grids.GRIDS; or
    study: whose `config` is the study's.
    seeds: how many runs of each; default: as the study says, else 3.
    path: of the JSON lines; default: WORKDIR/NAME/runs.jsonl, where NAME is
      that of the grid or study, or "methods".
    command: what runs it, for the lines.

  Returns:
    One dict for each run and for each model before distillation: "method",
    "seed" (None before), "metrics", "seconds", "replacement_rate", "curve" and
    what it was made with.

  Raises:
    ValueError: bad settings, or the lines are of other settings.
    loop.Interrupted: the run was asked to stop, and has saved.
  """
  return run(
    open_comparison(
      config,
      workdir,
      methods=methods,
      grid=grid,
      study=study,
      seeds=seeds,
      path=path,
      command=command,
    )
  )


def run(asked: Comparison) -> list[records.Record]:
  """Runs what is not finished yet; returns and raises as `compare`."""
  with jax.set_mesh(sharding.make_mesh(**asked.config.mesh)):
    prepared: dict[str, Prepared] = {}
    with files.locked(asked.workdir / "shared.lock"):
      for variant in asked.variants:
        if variant.start.name not in prepared:
          prepared[variant.start.name] = prepare(asked, variant.start)
    # Seed by seed, so that a comparison that is cut short has all methods.
    waiting = [(v, seed) for seed in asked.seeds for v in asked.variants]
    compiled: dict[str, Distillation] = {}
    while waiting:
      left = [
        (variant, seed)
        for variant, seed in waiting
        if not try_one(
          asked, prepared[variant.start.name], variant, seed, compiled
        )
      ]
      if left == waiting:
        time.sleep(_PAUSE)  # Other processes have what is left.
      waiting = left
  return records.read(asked.path)


def open_comparison(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  methods: Sequence[str] = (),
  grid: str | None = None,
  study: study_lib.Study | None = None,
  seeds: int | None = None,
  path: str | pathlib.Path | None = None,
  command: str = "",
) -> Comparison:
  """Checks what is asked for; arguments and errors as of `compare`."""
  workdir = config_checks.check_workdir(workdir)
  name = study.name if study else grid or "methods"
  default = workdir / name / "runs.jsonl"
  if study and (grid or methods):
    raise ValueError(
      f"study = {study.name!r} with grid = {grid!r}, methods = "
      f"{list(methods)}: must be given alone"
    )
  variants = study.variants() if study else grids.choose(grid, methods)
  first = study.first_seed if study else 0
  asked = Comparison(
    config=_with_curves(config),
    variants=variants,
    seeds=range(first, first + (seeds or (study.seeds if study else 3))),
    workdir=workdir,
    path=pathlib.Path(path) if path else default,
    command=command,
  )
  if study and study.metric != config.data.metrics[0]:
    raise ValueError(
      f"metric = {study.metric!r} of the study {study.name!r}: must be the "
      f"first of data.metrics = {tuple(config.data.metrics)}"
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
      "baselines": (),
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
  if config.teacher_cache.top_k:
    raise ValueError(
      f"teacher_cache.top_k = {config.teacher_cache.top_k}: must be 0 in a "
      "comparison, whose runs share a live teacher"
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
    for name in changes:
      if name.startswith("teacher."):
        raise ValueError(
          f"{variant.name!r} changes {name}: must leave the teacher as it is, "
          "which all runs of a comparison share"
        )
    config_checks.check_config(methods_lib.change(of_variant, changes))
