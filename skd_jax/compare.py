"""Compares ways to distil: python -m skd_jax.compare --config=configs/wmt.py.

  python -m skd_jax.compare --config=configs/wmt.py --seeds=3 \\
    --methods=on_policy_kd,supervised_kd,skd --workdir=workdir/compare
  python -m skd_jax.compare --config=configs/wmt.py --grid=threshold_k \\
    --workdir=workdir/compare
  python -m skd_jax.compare --study=configs/studies/few_prompts.py \\
    --workdir=workdir/few_prompts

The same command again continues, and in several processes shares the work. At
the end the page of the comparison is written beside its JSON lines, see
comparison_page.py. The command line alone; the function `skd_jax.compare` is in
comparison.py.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from skd_jax import grids
from skd_jax import main as main_lib

_METHODS = flags.DEFINE_list(
  "methods", [], "Names of skd_jax/methods.py, joined by commas."
)
_GRID = flags.DEFINE_enum(
  "grid", None, sorted(grids.GRIDS), "A grid of skd_jax/grids.py instead."
)
_STUDY = flags.DEFINE_string(
  "study",
  None,
  "The file of a study instead, which is also its --config; see "
  "skd_jax/study.py.",
)
_REGIMES = flags.DEFINE_list("regimes", [], "Of the study, these alone.")
_SEEDS = flags.DEFINE_integer(
  "seeds",
  None,
  "How many runs of each method; by default as the study says, else 3.",
  lower_bound=1,
)
_QUICK = flags.DEFINE_bool("quick", False, "Small sizes, about a minute.")
_JSON = flags.DEFINE_string(
  "json", None, "The JSON lines; by default WORKDIR/GRID/runs.jsonl."
)
_BASELINES = flags.DEFINE_list(
  "baselines",
  [],
  "What the others are tested against, each in its own group. By default those "
  "of on_policy_kd and supervised_kd that are among them, else the first.",
)


def main(argv: Sequence[str]) -> None:
  """Hands the parsed flags over to comparison.compare."""
  del argv
  from skd_jax import messages

  messages.show_all()
  from skd_jax import comparison, comparison_page, comparison_tests, methods
  from skd_jax import study as study_lib
  from skd_jax.parallel import compilation

  compilation.keep_compiled()
  config = flags.FLAGS.config
  with main_lib.stop_in_one_line():
    main_lib.refuse_flags_of_one_run()
    study = study_lib.load(_STUDY.value) if _STUDY.value else None
    if _QUICK.value and study is not None:
      raise ValueError("--quick: must not be given; the study fixes the sizes")
    if _REGIMES.value and study is None:
      raise ValueError(
        f"--regimes={','.join(_REGIMES.value)}: must be of a --study"
      )
    if _REGIMES.value and study is not None:
      study = study.only(_REGIMES.value)
    asked = comparison.open_comparison(
      methods.quick(config) if _QUICK.value else config,
      flags.FLAGS.workdir,
      methods=_METHODS.value,
      grid=_GRID.value,
      study=study,
      seeds=_SEEDS.value,
      path=_JSON.value,
      command=messages.command_line("skd_jax.compare"),
    )
    baselines = comparison_tests.choose_baselines(
      _BASELINES.value or (study.baselines if study else ()),
      [variant.name for variant in asked.variants],
    )
    comparison.run(asked)
    text = comparison_page.write(asked.path, asked.workdir, baselines)
    print(f"\n{text}\nWritten to {asked.path.parent}")


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line as main.parse_flags; a study brings its config."""
  argv = list(argv)
  for i, name in enumerate(argv[:-1]):
    if name == "--study":
      argv[i : i + 2] = [f"--study={argv[i + 1]}"]
  given = [a.split("=", 1)[-1] for a in argv if a.startswith("--study=")]
  if given and not any(a.split("=")[0] == "--config" for a in argv):
    if not pathlib.Path(given[-1]).is_file():
      sys.exit(f"Error: --study={given[-1]}: no such file")
    # In front: --config.* is known from there on.
    argv.insert(1, f"--config={given[-1]}")
  return main_lib.parse_flags(argv)


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=parse_flags)
