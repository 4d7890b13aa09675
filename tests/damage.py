"""What a disk does to a file, and the files of a folder to do it to."""

import pathlib
import random


def files_of(folder: pathlib.Path) -> list[str]:
  """Returns the paths of all files in a folder and its folders, sorted."""
  paths = sorted(path for path in folder.rglob("*") if path.is_file())
  return [path.relative_to(folder).as_posix() for path in paths]


def _truncate(path: pathlib.Path) -> None:
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])


def _flip(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def flip_somewhere(path: pathlib.Path, rng: random.Random) -> None:
  """Flips one bit of a file that is not empty, drawn at random."""
  data = bytearray(path.read_bytes())
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  path.write_bytes(data)


# Each takes the path of a file that is not empty.
KINDS = {
  "truncated": _truncate,
  "emptied": lambda path: path.write_bytes(b""),
  "flipped": _flip,
  "deleted": pathlib.Path.unlink,
}
