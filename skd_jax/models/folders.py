"""A folder that is replaced as a whole, by one that is written beside it."""

import contextlib
import os
import shutil
from collections.abc import Iterator

from skd_jax.reporting import manifest


@contextlib.contextmanager
def replaced(folder: str | os.PathLike[str]) -> Iterator[str]:
  """Yields a temporary sibling that takes the place of `folder` at the end.

  A link is followed. Whoever is killed leaves the old folder or the new one;
  between two renames neither, and the next call puts the old one back first.

  Raises:
    ValueError: `folder` cannot be replaced: it is a file or a mount point, or
      holds files but no manifest, so that it is no earlier export.
  """
  folder = os.path.realpath(folder)
  parent, name = os.path.split(folder)
  temporary = os.path.join(parent, f".{name}.new")
  previous = os.path.join(parent, f".{name}.old")
  if os.path.isdir(previous) and not os.path.lexists(folder):
    os.rename(previous, folder)
  _check(folder)
  for leftover in (temporary, previous):
    _remove(leftover)
  os.makedirs(temporary)
  try:
    yield temporary
    if os.path.exists(folder):
      os.rename(folder, previous)
    os.rename(temporary, folder)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise
  shutil.rmtree(previous, ignore_errors=True)


def _check(folder: str) -> None:
  if not os.path.lexists(folder):
    return
  if not os.path.isdir(folder):
    raise ValueError(f"folder = {folder!r}: must be a folder, and is a file")
  if os.path.ismount(folder):
    raise ValueError(
      f"folder = {folder!r}: must not be a mount point, which cannot be "
      "replaced; choose a folder in it"
    )
  files = os.listdir(folder)
  if files and manifest.NAME not in files:
    raise ValueError(
      f"folder = {folder!r} is not empty and no earlier export; "
      "choose another one"
    )


def _remove(path: str) -> None:
  if os.path.islink(path) or os.path.isfile(path):
    os.unlink(path)
  else:
    shutil.rmtree(path, ignore_errors=True)
