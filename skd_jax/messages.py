"""What the command lines show, and how they are recorded.

The package logs through absl; a record is ours by the folder of its module.
Our messages are shown, and of other libraries warnings alone.
"""

import contextlib
import logging as stdlib_logging
import os
import pathlib
import shlex
import sys
from collections.abc import Iterator

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


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
  """Ends the program with one line where bad input or the user ends a block.

  Raises:
    SystemExit: 1 for a ValueError or an OSError, which is shown; 130 for
      Ctrl-C.
  """
  try:
    yield
  except (ValueError, OSError) as error:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    sys.exit(130)


def command_line(module: str) -> str:
  """Returns the command line that runs, as a stranger would type it.

  Of an absolute path only the last part stays: folders of this machine mean
  nothing elsewhere.

  Args:
    module: what `python -m` runs.
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
  return shlex.join(["python", "-m", module, *arguments])
