"""What the command lines show: our messages, and warnings of other libraries.

The package logs through absl; a record is ours by the folder of its module.
"""

import logging as stdlib_logging
import os
import pathlib

from absl import logging

_PACKAGE = pathlib.Path(__file__).parent
# Beside the package in a checkout: benchmarks.
_OURS = (str(_PACKAGE), str(_PACKAGE.parent / "benchmarks"))


def show_all() -> None:
  """Shows what this project logs; of other libraries, warnings alone."""
  _hide_advice()
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(_is_worth_showing)


def show_warnings() -> None:
  """Shows warnings alone."""
  _hide_advice()
  logging.set_verbosity(logging.WARNING)


def _is_worth_showing(record: stdlib_logging.LogRecord) -> bool:
  """Whether a message is ours, or a warning."""
  ours = record.pathname.startswith(tuple(f + os.sep for f in _OURS))
  return ours or record.levelno >= stdlib_logging.WARNING


def _hide_advice() -> None:
  """Hides "PyTorch was not found ...", which transformers says when imported.

  Its models are not used here. To be called before transformers is imported.
  """
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
