"""The run: teacher, student start, distillation, scores, report.

Speculative Knowledge Distillation (arXiv 2410.11325, algorithm 1), as it stands
in `distill`:

  for each batch of prompts
    rollout          the student proposes, the teacher replaces what it rejects
    train_step       the student learns the teacher's law on what was written
"""

import dataclasses
import pathlib
import sys
import time
from typing import Any

import jax
import ml_collections

from skd_jax import config as config_lib
from skd_jax import (
  config_checks,
  learner,
  policies,
  preparation,
  results,
  stages,
  structs,
  writers,
)
from skd_jax.data import tasks as tasks_lib
from skd_jax.decoding import sampling
from skd_jax.evaluation import evaluator
from skd_jax.experiment import Run
from skd_jax.models import loading
from skd_jax.parallel import processes, sharding
from skd_jax.training import loop, profiling

# The sections of the config that a distilled student depends on, and the models
# that it starts from.
DISTILLED = ("teacher", "student", "rollout", "loss", "distill")


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> dict[str, Any]:
  """Runs an experiment, or continues it.

  Args:
    config: from a file in configs/.
    workdir: where everything goes; see the README for what.

  Returns:
    The report, as written to report.json.

  Raises:
    ValueError, FileNotFoundError: bad settings, data or checkpoints.
    FloatingPointError: training diverged.
    fit.Interrupted: the run was asked to stop, and has saved.
  """
  run = open_run(config, workdir)
  with jax.set_mesh(run.mesh):
    return _all_stages(run)


def _all_stages(run: Run) -> dict[str, Any]:
  config, workdir = run.config, run.workdir
  teacher, seconds_teacher = preparation.prepare_model(run, "teacher")
  start, seconds_start = preparation.prepare_model(run, "student_init")
  scores = {
    "teacher": score(run, "teacher", teacher, teacher, ("teacher",)),
    "student_init": score(
      run, "student_init", start, teacher, ("teacher", "student")
    ),
  }
  per_seed = []
  shared = prepare_distillation(run, start, teacher)
  for seed in config.seeds:
    student, counts = distill(run, shared, seed)
    name = f"distill_seed_{seed}"
    scores_of_seed = scores | {
      "student": score(run, name, student, teacher, DISTILLED)
    }
    per_seed.append({"seed": seed, "scores": scores_of_seed, "counts": counts})
    if seed == config.seeds[0]:
      loading.export(workdir / "export", student, run.task)
    del student  # Before the next one is trained.
  return processes.on_first(
    results.write,
    workdir,
    config,
    per_seed,
    {"teacher": seconds_teacher, "student_init": seconds_start},
    command=" ".join(["python -m skd_jax.main", *sys.argv[1:]]),
  )


def open_run(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> Run:
  """Checks the config, reads the data and writes config.json.

  What computes with the run does so within `jax.set_mesh(run.mesh)`.

  Raises:
    ValueError, FileNotFoundError: bad settings, data or checkpoints; or not all
      processes see the same workdir.
  """
  config_checks.validate(config)
  mesh = sharding.make_mesh(**config.mesh)
  config_checks.validate_rows(config, sharding.num_row_shards(mesh))
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  processes.check_shared(workdir)
  vocab_size = loading.common_vocab_size(config)
  task = tasks_lib.load_task(config, workdir, vocab_size)
  results.write_config(workdir, config)
  dtype = loading.compute_dtype(config.dtype)
  return Run(config, workdir, task, dtype, mesh)


@dataclasses.dataclass(frozen=True)
class Distillation:
  """What the seeds of a run share: the models and the compiled functions."""

  start: loading.LoadedModel
  teacher: loading.LoadedModel
  teacher_head: structs.Params
  begin: learner.Begin  # The state before the first step.
  policy: policies.PolicyFn  # The rollout.
  write: writers.WriteFn  # Who writes the training data of a step.
  learn: learner.Learn  # The train step.


def prepare_distillation(
  run: Run, start: loading.LoadedModel, teacher: loading.LoadedModel
) -> Distillation:
  """Builds the rollout and the train step, once for all seeds."""
  asks_teacher = run.config.loss.divergence != "cross_entropy"
  begin, learn = learner.make_learner(
    run,
    run.config.distill,
    start,
    teacher if asks_teacher else None,
    config_lib.token_loss(run.config, run.task.vocab_size),
  )
  policy = policies.make_policy_fn(
    run,
    start,
    teacher,
    policies.choose_draft_length(run, start, teacher, DISTILLED),
  )
  return Distillation(
    start=start,
    teacher=teacher,
    teacher_head=teacher.model.head_params(teacher.params),
    begin=begin,
    policy=policy,
    write=writers.make_write_fn(run, teacher, policy),
    learn=learn,
  )


def make_step_fn(run: Run, shared: Distillation, seed: int) -> loop.StepFn:
  """Returns one step of distillation: write, then learn.

  Args:
    run: the run.
    shared: from prepare_distillation.
    seed: of every draw.
  """
  multiple = run.config.data.length_multiple

  def step_fn(state, batch, step):
    keys = sampling.row_keys(seed, step, batch.index)
    written, seconds = shared.write(
      state.params, shared.teacher.params, batch, keys, step
    )
    written, counts = writers.trim_and_count(written, multiple)
    counts |= seconds
    begun = time.perf_counter()
    state, means = shared.learn(state, shared.teacher_head, batch, written)
    jax.block_until_ready(means)
    return state, means, counts | learner.train_counts(written.length, begun)

  return step_fn


def distill(
  run: Run, shared: Distillation, seed: int
) -> tuple[loading.LoadedModel, dict[str, float]]:
  """Trains the student on what it writes and the teacher corrects.

  Args:
    run: the run.
    shared: from prepare_distillation.
    seed: of the data order and of every draw.

  Returns:
    (the student, counts over the whole stage: tokens, rounds, seconds).
  """
  config, stage = run.config, f"distill_seed_{seed}"
  start, teacher = shared.start, shared.teacher
  folder = run.workdir / "students" / f"seed_{seed}"
  needs = run.depends_on(*DISTILLED)
  result = stages.begin(run.workdir, stage, needs)
  if result is not None:
    student = preparation.read_trained(run, "student", folder)
    return dataclasses.replace(start, params=student.params), result

  step_fn = make_step_fn(run, shared, seed)
  is_traced = seed == config.seeds[0] and processes.is_first()
  if config.profile and is_traced:
    step_fn = profiling.trace_steps(
      step_fn, run.workdir / "profile", config.profile
    )
  visits = loop.merge_visits(
    evaluator.validation_visits(run, config.distill, start.model, teacher),
    results.sample_visits(run, seed, start, teacher, shared.policy),
  )
  state, counts = loop.fit(
    step_fn,
    shared.begin(start.params),
    run.train_batches(config.distill, seed),
    config.distill,
    workdir=run.workdir,
    stage="distill",
    seed=seed,
    visits=visits,
  )
  student = dataclasses.replace(start, params=state.params)
  loading.export(folder, student, run.task)
  return student, stages.finish(run.workdir, stage, needs, counts)


def score(
  run: Run,
  name: str,
  model: loading.LoadedModel,
  teacher: loading.LoadedModel,
  sections: tuple[str, ...],
) -> dict[str, Any]:
  """Scores a model on the test split; cached like a stage.

  Args:
    run: the run.
    name: of the model, for the stage and its answers.
    model: the model.
    teacher: what its next-token distributions are compared with.
    sections: of the config, what the model and the teacher depend on.

  Returns:
    As held_out.score_model.
  """
  stage = f"evaluate_{name}"
  needs = run.depends_on(*sections) | tasks_lib.scores_depend_on(run.config)
  result = stages.begin(run.workdir, stage, needs)
  if result is None:
    result = evaluator.score_model(run, name, model, teacher)
    result = stages.finish(run.workdir, stage, needs, result)
  return result
