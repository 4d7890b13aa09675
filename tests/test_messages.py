"""What the command lines show of what is logged."""

import logging as stdlib_logging
import pathlib

import pytest
from absl import logging

import skd_jax
from skd_jax import messages

_PACKAGE = pathlib.Path(skd_jax.__file__).parent


@pytest.fixture
def handler(monkeypatch):
  """The handler that shows messages; as it was in the end."""
  handler = logging.get_absl_handler()
  monkeypatch.setattr(handler, "filters", [])
  monkeypatch.setenv("TRANSFORMERS_NO_ADVISORY_WARNINGS", "0")
  verbosity = logging.get_verbosity()
  yield handler
  logging.set_verbosity(verbosity)


def shows(handler, path, level=stdlib_logging.INFO):
  record = stdlib_logging.LogRecord(
    "absl", level, str(path), 1, "message", (), None
  )
  return bool(handler.filter(record))


@pytest.mark.parametrize(
  "module",
  ["train.py", "models/loading.py", "data/tasks.py", "training/loop.py"],
)
def test_messages_of_all_packages_are_shown(handler, module):
  messages.show_all()
  assert logging.get_verbosity() == logging.INFO
  assert (_PACKAGE / module).exists()
  assert shows(handler, _PACKAGE / module)


def test_messages_of_the_benchmarks_are_shown(handler):
  messages.show_all()
  assert shows(handler, _PACKAGE.parent / "benchmarks" / "speed" / "x.py")


@pytest.mark.parametrize(
  "path",
  [
    "/site-packages/orbax/checkpoint/manager.py",
    "/site-packages/skd_jax/loading.py",
    # Its name begins like ours.
    f"{_PACKAGE}_more/loading.py",
  ],
)
def test_of_other_libraries_warnings_alone_are_shown(handler, path):
  messages.show_all()
  assert not shows(handler, path)
  assert shows(handler, path, stdlib_logging.WARNING)


def test_warnings_alone_where_the_output_is_text(handler):
  messages.show_warnings()
  assert logging.get_verbosity() == logging.WARNING
