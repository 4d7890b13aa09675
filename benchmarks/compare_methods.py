"""Which way to distil is best? skd_jax.compare, with tests and plots.

  python -m benchmarks.compare_methods --config=configs/wmt.py \\
    --grid=threshold_k --seeds=3 --workdir=workdir/compare

Takes the flags of `python -m skd_jax.compare` and runs what is not finished
yet; then tests every method against the baselines on the answers of all seeds.
Beside WORKDIR/GRID/runs.jsonl it writes tests.json, comparison.md and plots;
benchmarks/results/quality/TASK/GRID keeps such folders.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import app, flags

from benchmarks.quality import plots, significance, table
from skd_jax import comparison, grids, messages, methods
from skd_jax import main as main_lib
from skd_jax import records as records_lib
from skd_jax.parallel import compilation
from skd_jax.reporting import files

_METHODS = flags.DEFINE_list(
  "methods", [], "Names of skd_jax/methods.py, joined by commas."
)
_GRID = flags.DEFINE_enum(
  "grid", None, sorted(grids.GRIDS), "A grid of skd_jax/grids.py instead."
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


def choose_baselines(
  asked: Sequence[str], variants: Sequence[grids.Variant]
) -> list[str]:
  """Returns what the others are tested against; see the flag.

  Raises:
    ValueError: one that was asked for is not among the variants.
  """
  found = list(dict.fromkeys(grids.in_group(v.name) for v in variants))
  unknown = [name for name in asked if name not in found]
  if unknown:
    raise ValueError(
      f"--baselines={','.join(asked)}: must be of {', '.join(found)}"
    )
  usual = [name for name in grids.BASELINES if name in found]
  return list(asked) or usual or found[:1]


def analyze(
  path: pathlib.Path, workdir: pathlib.Path, baselines: Sequence[str]
) -> str:
  """Writes the tests, the table and the plots of a comparison beside its lines.

  Args:
    path: of the lines.
    workdir: where the runs and their answers are.
    baselines: what the others are tested against, each in its own group.

  Returns:
    The table as Markdown.
  """
  records = records_lib.read(path)
  names = table.names(records)
  answers = {name: table.read_answers(workdir, records, name) for name in names}
  rivals = {
    baseline: {
      name: rival
      for name in names
      if (rival := grids.rival(name, baseline)) in answers and rival != name
    }
    for baseline in baselines
  }
  tests = significance.compare(
    answers,
    rivals,
    json.loads((workdir / records_lib.REFERENCES).read_text("utf-8")),
    [m for m in records[0]["metrics"] if m in significance.METRICS],
  )
  files.write_json(table.tests_path(path), tests)
  text = table.section(records, tests)
  drawn = plots.draw_all(records, path.parent)
  images = "\n".join(f"![{p.stem}]({p.name})" for p in drawn)
  title = f"# {records[0]['task']}: {path.parent.name}"
  page = f"{title}\n\n{text}\n{table.LEGEND}\n{images}\n"
  files.write_atomically(path.parent / "comparison.md", page)
  return text


def main(argv: Sequence[str]) -> None:
  """Runs the comparison of the flags, then analyzes it."""
  del argv
  messages.show_all()
  compilation.keep_compiled()
  config, workdir = flags.FLAGS.config, pathlib.Path(flags.FLAGS.workdir)
  with main_lib.stop_in_one_line():
    main_lib.refuse_flags_of_one_run()
    variants = grids.choose(_GRID.value, _METHODS.value)
    baselines = choose_baselines(_BASELINES.value, variants)
    default = workdir / (_GRID.value or "methods") / "runs.jsonl"
    path = pathlib.Path(flags.FLAGS.json or default)
    comparison.compare(
      methods.quick(config) if flags.FLAGS.quick else config,
      workdir,
      methods=_METHODS.value,
      grid=_GRID.value,
      seeds=_SEEDS.value,
      path=path,
      command=messages.command_line("benchmarks.compare_methods"),
    )
    print(f"\n{analyze(path, workdir, baselines)}\nWritten to {path.parent}")


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=main_lib.parse_flags)
