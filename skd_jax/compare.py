"""Compares ways to distil: python -m skd_jax.compare --config=configs/wmt.py.

  python -m skd_jax.compare --config=configs/wmt.py --seeds=3 \\
    --methods=on_policy_kd,supervised_kd,skd --workdir=workdir/compare
  python -m skd_jax.compare --config=configs/wmt.py --grid=threshold_k \\
    --workdir=workdir/compare

The same command again continues. The command line alone; the function
`skd_jax.compare` is in comparison.py.
"""

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
_SEEDS = flags.DEFINE_integer(
  "seeds", 3, "How many runs of each method.", lower_bound=1
)
_QUICK = flags.DEFINE_bool("quick", False, "Small sizes, about a minute.")
_JSON = flags.DEFINE_string(
  "json", None, "The JSON lines; by default WORKDIR/GRID/runs.jsonl."
)


def main(argv: Sequence[str]) -> None:
  """Hands the parsed flags over to comparison.compare."""
  del argv
  from skd_jax import messages

  messages.show_all()
  from skd_jax import comparison, methods, records
  from skd_jax.parallel import compilation

  compilation.keep_compiled()
  config = flags.FLAGS.config
  with main_lib.stop_in_one_line():
    main_lib.refuse_flags_of_one_run()
    found = comparison.compare(
      methods.quick(config) if _QUICK.value else config,
      flags.FLAGS.workdir,
      methods=_METHODS.value,
      grid=_GRID.value,
      seeds=_SEEDS.value,
      path=_JSON.value,
      command=messages.command_line("skd_jax.compare"),
    )
    print(f"\n{records.summary(found)}")


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=main_lib.parse_flags)
