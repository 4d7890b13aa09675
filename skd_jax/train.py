"""The run: teacher, student start, distillation, scores, report.

Speculative Knowledge Distillation (arXiv 2410.11325, algorithm 1), as it stands
in `distill`:

  for each batch of prompts
    rollout          the student proposes, the teacher replaces what it rejects
    train step       the student learns the teacher's next-token distribution
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from skd_jax import builders, report_page, results
from skd_jax.data import dataset
from skd_jax.distillation import Distillation, prepare_distillation
from skd_jax.evaluation import agreement
from skd_jax.experiment import Experiment, open_baseline, open_experiment
from skd_jax.models import LoadedModel
from skd_jax.pair import pair_warnings, probe_quantization, probe_start
from skd_jax.parallel import processes, rollout_devices
from skd_jax.preparation import (
  prepare_model,
  read_student,
  save_student,
)
from skd_jax.preview import write_example
from skd_jax.reporting import files
from skd_jax.scoring import score
from skd_jax.student_export import export_student
from skd_jax.teacher_stage import (
  add_task_teachers,
  cache_teacher,
  release,
  score_teacher,
)
from skd_jax.training import ahead, loop, profiling
from skd_jax.training.callbacks import KeepSamples
from skd_jax.training.rollout_stats import trim_and_count
from skd_jax.training.timing import WAIT, timed
from skd_jax.validation import validation_callbacks


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  command: str = "",
  continue_with_changes: bool = False,
) -> dict[str, Any]:
  """Runs an experiment, or continues it.

  Args:
    config: from a file in configs/, or from default_config().
    workdir: where everything goes; docs/workdir.md says what.
    command: what runs it, for the report.
    continue_with_changes: as in open_experiment.

  Returns:
    The report, as written to report.json.

  Raises:
    ValueError, FileNotFoundError: bad settings, data or checkpoints; or another
      run is in the workdir.
    FloatingPointError: training diverged.
    loop.Interrupted: the run was asked to stop, and has saved.
  """
  start_time = time.perf_counter()
  experiment = open_experiment(
    config, workdir, continue_with_changes=continue_with_changes
  )
  with _alone_in(experiment.workdir), jax.set_mesh(experiment.mesh):
    processes.on_first(files.check_writable, experiment.workdir)
    write_example(experiment)
    warnings = pair_warnings(experiment)
    students = {"student": experiment} | {
      name: open_baseline(experiment, name) for name in config.baselines
    }
    teacher, teacher_seconds = prepare_model(experiment, "teacher")
    scores = {"teacher": score_teacher(experiment, teacher)}
    folder = config.teacher.path or experiment.workdir / "teacher"
    caches = {
      name: cache_teacher(opened, teacher, folder)
      for name, opened in students.items()
    }
    judge: LoadedModel | None = teacher  # What students are compared with.
    if cache := caches["student"]:
      # Before there is a student.
      teacher, judge = release(teacher), None
      caches["student"], scores["teacher"] = add_task_teachers(
        experiment, cache, scores["teacher"]
      )
    start, start_seconds = prepare_model(experiment, "student_init")
    distillations = {
      name: prepare_distillation(opened, start, teacher, caches[name])
      for name, opened in students.items()
    }
    spec = distillations["student"].spec
    probe = probe_start(experiment, spec, start, teacher)
    if judge is not None:
      probe_quantization(experiment, spec, start, judge)
    scores["student_init"] = score(experiment, "student_init", start, judge)
    per_seed = []
    for seed in config.seeds:
      of_seed, totals = dict(scores), {}
      for name, opened in students.items():
        student, totals[name] = distill(opened, distillations[name], seed)
        stage = f"distill_seed_{seed}"
        of_seed[name] = score(opened, stage, student, judge)
        if name == "student" and seed == config.seeds[0]:
          export_student(
            experiment, student, of_seed, seed=seed, command=command
          )
        del student  # Before the next one is trained.
      per_seed.append({"seed": seed, "scores": of_seed, "totals": totals})
    return processes.on_first(
      results.write,
      experiment,
      per_seed,
      {
        "teacher": teacher_seconds,
        "teacher_cache": cache.seconds if (cache := caches["student"]) else {},
        "student_init": start_seconds,
      },
      clock_seconds=time.perf_counter() - start_time,
      command=command,
      probe=probe,
      warnings=warnings,
    )


@contextlib.contextmanager
def _alone_in(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of the workdir; two would mix their checkpoints."""
  if not processes.is_first():
    yield
    return
  with files.locked(workdir / "lock", wait=False) as is_mine:
    if not is_mine:
      raise ValueError(
        f"workdir = {workdir}: another run is in it; wait for its end, or "
        "choose another --workdir"
      )
    yield


def distill(
  experiment: Experiment, distillation: Distillation, seed: int
) -> tuple[LoadedModel, dict[str, Any]]:
  """Trains the student on what it proposes and the teacher corrects.

  Args:
    experiment: the run.
    distillation: from prepare_distillation.
    seed: of the data order and of every draw.

  Returns:
    (the student, the totals of the stage: tokens, seconds, rollouts).
  """
  start = distillation.start
  folder = experiment.workdir / "students" / f"seed_{seed}"

  def run() -> dict[str, Any]:
    training = _distillation_loop(experiment, distillation, seed)
    params = distillation.train.params(training.state)
    student = dataclasses.replace(start, params=params)
    save_student(experiment, folder, student)
    return training.totals.to_plain()

  totals = experiment.cached(f"distill_seed_{seed}", run)
  return read_student(experiment, folder, start), totals


def _distillation_loop(
  experiment: Experiment, distillation: Distillation, seed: int
) -> loop.TrainLoop:
  """Algorithm 1, step by step."""
  config = experiment.config
  teacher, cache = distillation.teacher, distillation.cache
  spec, train = distillation.spec, distillation.train
  teacher_head = teacher.model.head_params(teacher.params)
  batches = ahead.Lookahead(experiment.train_batches(config.distill, seed))
  source = ahead.Source(
    _generate_fn(experiment, distillation, seed),
    batches,
    num_steps=config.distill.num_steps,
    max_staleness=config.rollout.max_staleness,
  )
  with loop.open_loop(
    train.init(distillation.start.params),
    batches,
    workdir=experiment.workdir,
    name=f"distill_seed_{seed}",
    stage="distill",
    seed=seed,
    callbacks=loop.merge_callbacks(
      validation_callbacks(
        experiment,
        config.distill,
        distillation.start,
        train.params,
        teacher if cache is None else None,
      ),
      _keep_samples(experiment, distillation, seed),
    ),
    tracer=_tracer(experiment, seed),
    num_steps=config.distill.num_steps,
    cadence=builders.cadence(config, "distill"),
    guards=builders.guards(config, "distill"),
    open_boards=builders.open_boards(config),
  ) as training:
    for step, batch in training:
      rollout, seconds = source.responses(training.state, batch, step)
      rollout = rollout_devices.rows_on_mesh(rollout, experiment.mesh)
      rollout, stats = trim_and_count(rollout, config.data.length_multiple)
      with timed(seconds, "train"):
        state, metrics = train.step(
          training.state,
          teacher_head if spec.uses_teacher else None,
          batch,
          rollout,
        )
      source.begin_next(state, step)
      with timed(seconds, "train"):
        jax.block_until_ready((state, metrics))
      training.record(state, metrics, seconds, stats, (batch, rollout))
  return training


def _generate_fn(
  experiment: Experiment, distillation: Distillation, seed: int
) -> ahead.Generate:
  """What generates the responses of a step, or reads those of a cache."""
  is_early = experiment.config.rollout.max_staleness > 0
  generator, cache = distillation.generator, distillation.cache

  def generate(state, batch, step):
    if cache is not None:
      return cache.responses(batch, step)
    source = distillation.train.generating(state)
    if not is_early:
      return generator.responses(*source, batch, seed, step)
    seconds: dict[str, float] = {}
    with timed(seconds, WAIT):
      return generator.begin(*source, batch, seed, step), seconds

  return generate


def _keep_samples(
  experiment: Experiment, distillation: Distillation, seed: int
) -> loop.Callbacks:
  """The callbacks that keep rollouts for report.html; of the first seed."""
  config, tasks = experiment.config, experiment.tasks
  test = dataset.join([task.test for task in tasks.tasks])
  count = min(config.evaluate.num_samples, len(test))
  is_first = seed == config.seeds[0]
  if not is_first or not count or config.rollout.mode != "skd":
    return {}
  batch = experiment.one_batch(dataset.spread_examples(test, count))
  index = processes.to_host(batch.index)
  return KeepSamples(
    folder=report_page.samples_folder(experiment.workdir, seed),
    batch=batch,
    examples=[test.examples[i] for i in index if i >= 0],
    tokenizer=tasks.tokenizer,
    rollout_fn=distillation.rollout_fn,
    annotate=functools.partial(
      agreement.annotate,
      student=distillation.start.model,
      teacher=distillation.teacher.model,
    ),
    params_of=distillation.train.params,
    teacher_params=distillation.teacher.params,
    spec=distillation.spec,
    seed=seed,
    num_steps=config.distill.num_steps,
  ).over_the_run()


def _tracer(experiment: Experiment, seed: int) -> profiling.StepTracer | None:
  config = experiment.config
  is_first = seed == config.seeds[0] and processes.is_first()
  if not config.profile or not is_first:
    return None
  return profiling.StepTracer(experiment.workdir / "profile", config.profile)
