"""A manifest beside the files of a folder: their sizes and checksums.

  write(folder)   -> folder/skd_jax_manifest.json
  check(folder)   the files are still what was written, or an error names one

  {"config.json": {"bytes": 612, "sha256": "9f86d08..."}, ...}

A file that the manifest does not name is not looked at: a README may be added.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Collection
from typing import Any

from skd_jax.reporting import files

NAME = "skd_jax_manifest.json"


def write(
  folder: str | os.PathLike[str], leave_out: Collection[str] = ()
) -> None:
  """Writes the manifest of all files that a folder and its folders hold.

  Args:
    folder: the folder.
    leave_out: files that are still to change, by their paths in it.
  """
  folder = pathlib.Path(folder)
  paths = sorted(path for path in folder.rglob("*") if path.is_file())
  names = [path.relative_to(folder).as_posix() for path in paths]
  described = {
    name: _describe(folder / name)
    for name in names
    if name != NAME and name not in leave_out
  }
  files.write_json(folder / NAME, described)


def exists(folder: str | os.PathLike[str]) -> bool:
  """Whether a folder has a manifest; those of other programs have none."""
  return pathlib.Path(folder, NAME).exists()


def fault(
  folder: str | os.PathLike[str],
  is_wanted: Callable[[str], bool] = lambda name: True,
) -> str:
  """Says which file of a folder is not what was written.

  Args:
    folder: the folder.
    is_wanted: takes the path of a file in it; whether to look at the file.

  Returns:
    The first such file and what is wrong with it; "" where there is none, or
    no manifest.
  """
  folder = pathlib.Path(folder)
  if not exists(folder):
    return ""
  try:
    entries = json.loads((folder / NAME).read_text("utf-8"))
    wanted = {name: dict(entry) for name, entry in entries.items()}
  except (OSError, ValueError, TypeError, AttributeError):
    return f"{folder / NAME}: is damaged"
  for name, entry in wanted.items():
    if is_wanted(name) and (difference := _difference(folder / name, entry)):
      return f"{folder / name}: {difference}"
  return ""


def check(
  folder: str | os.PathLike[str],
  is_wanted: Callable[[str], bool] = lambda name: True,
) -> None:
  """Checks that the files of a folder are what was written.

  Args:
    folder: the folder; without a manifest nothing is checked.
    is_wanted: as in fault.

  Raises:
    ValueError: a file is missing, or its size or content differs.
  """
  found = fault(folder, is_wanted)
  if found:
    raise ValueError(
      f"{found}. Put the file back, or delete {pathlib.Path(folder, NAME)} to "
      "accept the folder as it is"
    )


def digest(
  folder: str | os.PathLike[str], is_wanted: Callable[[str], bool]
) -> str:
  """Returns one SHA-256 of the names and contents of files in a folder.

  Where there is a manifest, the contents are those that it names: whatever
  reads the files checks them against it.

  Args:
    folder: the folder.
    is_wanted: takes the name of a file; whether it counts.
  """
  folder = pathlib.Path(folder)
  if exists(folder):
    check(folder, lambda name: False)  # It is one.
    entries = json.loads((folder / NAME).read_text("utf-8"))
  else:
    paths = [x for x in folder.iterdir() if x.is_file() and is_wanted(x.name)]
    entries = {path.name: _describe(path) for path in paths}
  named = {n: x["sha256"] for n, x in entries.items() if is_wanted(n)}
  return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def _difference(path: pathlib.Path, wanted: dict[str, Any]) -> str:
  try:
    found = _describe(path)
  except FileNotFoundError:
    return "is missing"
  except OSError as error:
    return f"cannot be read: {error.strerror}"
  if found["bytes"] != wanted.get("bytes"):
    return f"has {found['bytes']} bytes, was written with {wanted.get('bytes')}"
  return "" if found == wanted else "its content is not what was written"


def _describe(path: pathlib.Path) -> dict[str, Any]:
  # The size of what is read: on a network disk, a stat may be an old one.
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": file.tell(), "sha256": digest}
