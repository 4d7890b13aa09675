"""Compares ways to distil: python -m skd_jax.compare --config=configs/wmt.py.

  python -m skd_jax.compare --config=configs/wmt.py --seeds=3 \\
    --methods=on_policy_kd,supervised_kd,skd --workdir=workdir/compare
  python -m skd_jax.compare --config=configs/wmt.py --grid=threshold_k \\
    --workdir=workdir/compare

The same command again continues. The command line alone; the function
`skd_jax.compare` is in comparison.py.
"""

import pathlib
import shlex
import sys
from collections.abc import Sequence

import ml_collections
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


def quick(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config at sizes that take about a minute in all."""
  from skd_jax import methods

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


def command() -> str:
  """Returns the command line that runs, as a stranger would type it.

  Of an absolute path only the last part stays: folders of this machine mean
  nothing elsewhere.
  """

  def without_folder(argument: str) -> str:
    flag, equals, value = argument.rpartition("=")
    if value.startswith("/"):
      value = pathlib.PurePath(value).name
    return flag + equals + value

  arguments = [
    without_folder(argument)
    for argument in sys.argv[1:]
    if not argument.startswith("--json")
  ]
  return shlex.join(["python", "-m", "skd_jax.compare", *arguments])


def main(argv: Sequence[str]) -> None:
  """Hands the parsed flags over to comparison.compare."""
  del argv
  from skd_jax import messages

  messages.show_all()
  from skd_jax import comparison, records
  from skd_jax.parallel import compilation

  compilation.keep_compiled()
  config = flags.FLAGS.config
  with main_lib.stop_in_one_line():
    if flags.FLAGS.method is not None:
      raise ValueError(
        f"--method={flags.FLAGS.method}: must not be given; --methods names "
        "what is compared"
      )
    found = comparison.compare(
      quick(config) if _QUICK.value else config,
      flags.FLAGS.workdir,
      methods=_METHODS.value,
      grid=_GRID.value,
      seeds=_SEEDS.value,
      path=_JSON.value,
      command=command(),
    )
    print(f"\n{records.summary(found)}")


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=main_lib.parse_flags)
