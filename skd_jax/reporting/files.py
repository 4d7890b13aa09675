"""Files that are whole or not there, and JSON that any reader takes."""

import contextlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import filelock


def write_atomically(path: pathlib.Path, text: str) -> None:
  """Writes the file so that it is either the old one or the whole new one.

  Raises:
    OSError: it cannot be written, as on a full disk; the old one stays.
  """
  temporary = path.with_name(path.name + ".tmp")
  try:
    with temporary.open("w", encoding="utf-8") as file:
      file.write(text)
      file.flush()
      # First: a power failure may keep the rename and lose what was written.
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def check_writable(folder: pathlib.Path) -> None:
  """Checks that files can be made in a folder and two levels of its folders.

  Raises:
    OSError: names the file that could not be made.
  """
  for inside in sorted((folder, *folder.glob("*/"), *folder.glob("*/*/"))):
    with tempfile.TemporaryFile(dir=inside):
      pass


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON atomically; the folder is made, non-finite numbers are null."""
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(finite(value), indent=2, allow_nan=False)
  write_atomically(path, text + "\n")


def finite(value: Any) -> Any:
  """Returns the same tree of JSON data, non-finite numbers replaced by None."""
  if isinstance(value, Mapping):
    return {key: finite(item) for key, item in value.items()}
  if isinstance(value, Sequence) and not isinstance(value, str):
    return [finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def with_nan(value: Any) -> Any:
  """Returns a tree of numbers, as `finite` left it, with NaN again for None."""
  if isinstance(value, Mapping):
    return {key: with_nan(item) for key, item in value.items()}
  return math.nan if value is None else value


@contextlib.contextmanager
def locked(path: pathlib.Path, *, wait: bool = True) -> Iterator[bool]:
  """Holds a lock that other processes see; the system frees it with a process.

  Args:
    path: of the lock file; it is made, and stays.
    wait: until it is free; else only try.

  Yields:
    Whether the lock is held.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(path)
  try:
    lock.acquire(timeout=-1 if wait else 0)
  except filelock.Timeout:
    yield False
    return
  try:
    yield True
  finally:
    lock.release()
