"""Which way to distil is best? All at the same budget, with error bars.

  python -m benchmarks.compare_methods --config=configs/wmt.py \\
    --methods=on_policy_kd,supervised_kd,skd --seeds=3 --workdir=workdir/compare
  python -m benchmarks.compare_methods --config=configs/wmt.py \\
    --grid=threshold_k --workdir=workdir/compare

All runs of a comparison have the same teacher, student start, prompts, steps,
sampling temperatures and evaluation. The same command again continues: a run
that is finished is not repeated, the one that was killed goes on from its last
checkpoint.

  WORKDIR/shared             the teacher, for every grid in this workdir
  WORKDIR/starts/NAME        the student before distillation
  WORKDIR/runs/NAME/seed_N   one run: metrics.jsonl, answers, checkpoints
  WORKDIR/GRID               comparison.md, the table, and the plots

Each finished run is a line of compare_methods.DEVICE.TASK.GRID.jsonl in
benchmarks/results, or with --quick in WORKDIR; the tests against baselines
lie beside it.
"""

import pathlib
from collections.abc import Sequence

import jax
import ml_collections
from absl import app, flags

from benchmarks import (
  comparison,
  comparison_plots,
  comparison_runs,
  grids,
  harness,
  significance,
)
from skd_jax import main as main_lib
from skd_jax import methods
from skd_jax.parallel import compilation, sharding
from skd_jax.reporting import metric_log

_METHODS = flags.DEFINE_list(
  "methods", [], "Names of skd_jax/methods.py, joined by commas."
)
_GRID = flags.DEFINE_enum(
  "grid", None, sorted(grids.GRIDS), "A grid of benchmarks/grids.py instead."
)
_SEEDS = flags.DEFINE_integer(
  "seeds", 3, "How many runs of each method.", lower_bound=1
)
_BASELINES = flags.DEFINE_list(
  "baselines",
  [],
  "What the others are tested against, each in its own group. By default those "
  "of on_policy_kd and supervised_kd that are among them, else the first.",
)


def run_all(asked: comparison_runs.Comparison) -> list[comparison.Record]:
  """Runs what is not finished yet, and writes the table as runs finish.

  Returns:
    The lines of the file of results.

  Raises:
    ValueError: bad settings, or the file of results is of other settings.
  """
  config = comparison_runs.fair(asked.config)
  comparison_runs.check(asked, config)
  with jax.set_mesh(sharding.make_mesh(**config.mesh)):
    return _run_checked(asked, config)


def _run_checked(
  asked: comparison_runs.Comparison, config: ml_collections.ConfigDict
) -> list[comparison.Record]:
  prepared: dict[str, comparison_runs.Prepared] = {}
  for variant in asked.variants:
    start = variant.start
    if start.name not in prepared:
      prepared[start.name] = comparison_runs.prepare(asked, config, start)
  references = [
    example["target"]
    for example in prepared[asked.variants[0].start.name].references
  ]
  # Seed by seed, so that a comparison that is cut short compares all methods.
  for seed in asked.seeds:
    has_run = False
    for variant in asked.variants:
      before = prepared[variant.start.name]
      if comparison_runs.run_one(asked, before, variant, seed):
        has_run = True
        summarize(asked)
    if has_run or seed == asked.seeds[-1]:
      write_tests(asked, references)
      summarize(asked)
  return comparison.read(asked.path)


def write_tests(
  asked: comparison_runs.Comparison, references: Sequence[str]
) -> None:
  """Tests each method against the baselines, beside the file of results."""
  records = comparison.read(asked.path)
  answers = {
    name: comparison_runs.read_answers(asked.workdir, records, name)
    for name in comparison.names(records)
  }
  tested = [m for m in records[0]["metrics"] if m in significance.METRICS]
  rivals = {
    baseline: {
      name: rival
      for name in answers
      if (rival := grids.rival(name, baseline)) in answers and rival != name
    }
    for baseline in asked.baselines
  }
  tests = significance.compare(answers, rivals, references, tested)
  harness.write_json(comparison.tests_path(asked.path), tests)


def summarize(asked: comparison_runs.Comparison) -> None:
  """Writes the table and the plots of what is finished, and shows the table."""
  records = comparison.read(asked.path)
  text = comparison.section(records, comparison.read_tests(asked.path))
  folder = asked.workdir / asked.name
  folder.mkdir(parents=True, exist_ok=True)
  drawn = comparison_plots.draw_all(records, folder)
  images = "\n".join(f"![{path.stem}]({path.name})" for path in drawn)
  title = f"# {asked.config.task}: {asked.name}"
  page = f"{title}\n\n{text}\n{comparison.LEGEND}\n{images}\n"
  metric_log.write_atomically(folder / "comparison.md", page)
  print(f"\n{text}", flush=True)


def quick(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config at sizes that take about a minute in all."""
  fit = {"num_steps": 20, "batch_size": 8, "num_microbatches": 1}
  return methods.change(
    config,
    {
      "data.max_train_examples": 500,
      "data.max_validation_examples": 8,
      "data.max_test_examples": 16,
      # One width each of prompts and responses: little to compile.
      "data.length_multiple": config.data.max_prompt_length,
      "rollout.batch_size": 0,
      **{f"teacher.fit.{name}": value for name, value in fit.items()},
      **{f"student.fit.{name}": value for name, value in fit.items()},
      **{f"distill.{name}": value for name, value in fit.items()},
      "distill.num_steps": 8,
      "distill.evaluate_every_steps": 4,
    },
  )


def comparison_from_flags() -> comparison_runs.Comparison:
  """Returns what the command line asks for.

  Raises:
    ValueError: unknown methods, or a control alone.
  """
  config, workdir = flags.FLAGS.config, pathlib.Path(flags.FLAGS.workdir)
  variants = grids.choose(_GRID.value, _METHODS.value)
  name = _GRID.value or "methods"
  if flags.FLAGS.quick:
    config = quick(config)
  kept = workdir if flags.FLAGS.quick else harness.RESULTS
  task = comparison_runs.slug(config.task)
  file_name = f"compare_methods.{harness.device_name()}.{task}.{name}.jsonl"
  found = [grids.in_group(variant.name) for variant in variants]
  usual = [name for name in grids.BASELINES if name in found]
  return comparison_runs.Comparison(
    config=config,
    variants=variants,
    seeds=range(_SEEDS.value),
    workdir=workdir,
    path=pathlib.Path(flags.FLAGS.json or kept / file_name),
    name=name,
    baselines=_BASELINES.value or usual or found[:1],
    command=harness.command("compare_methods"),
  )


def main(argv: Sequence[str]) -> None:
  """Hands the parsed flags over to run_all."""
  del argv
  main_lib.show_our_messages()
  with main_lib.stop_in_one_line():
    compilation.keep_compiled()
    asked = comparison_from_flags()
    run_all(asked)
    print(f"\nWritten to {asked.path}")


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=main_lib.parse_flags)
