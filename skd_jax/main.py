"""Runs an experiment: python -m skd_jax.main --config=configs/wmt.py."""

import logging as stdlib_logging
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "The experiment, such as configs/wmt.py or configs/wmt.py:multi30k; single "
  "settings as --config.distill.num_steps=100.",
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  "workdir",
  "Where results, checkpoints and logs go. A second start continues.",
)


def main(argv: Sequence[str]) -> None:
  """Parses the flags and hands over to train_and_evaluate."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(_is_worth_showing)
  # Imported late, so that a misspelt flag is reported at once.
  from skd_jax import fit, train

  try:
    train.train_and_evaluate(_CONFIG.value, _WORKDIR.value)
  except fit.Interrupted as stop:
    print(f"\n{stop}. The same command continues from there.", file=sys.stderr)
    sys.exit(130)
  except KeyboardInterrupt:
    print("\nStopped. The same command continues.", file=sys.stderr)
    sys.exit(130)
  except (ValueError, FileNotFoundError, FloatingPointError) as error:
    logging.debug("Where it was raised:", exc_info=True)
    print(f"\nError: {error}", file=sys.stderr)
    sys.exit(1)


def _is_worth_showing(record: stdlib_logging.LogRecord) -> bool:
  """Our own messages; of other libraries, warnings alone."""
  ours = pathlib.Path(record.pathname).parent.name == "skd_jax"
  return ours or record.levelno >= stdlib_logging.WARNING


def run() -> None:
  """Runs main with absl's flags; a bad flag is one line and exit code 1."""
  flags.mark_flag_as_required("config")
  try:
    app.run(main)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    # A setting that the config does not have, or of the wrong type.
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  run()
