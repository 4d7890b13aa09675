"""Files of a cached teacher: ArrayRecord, in parts that are whole or absent.

  source.json                   what the records are made from
  00000/records.array_record    the records of the first part
  00000/size.json               how many, and of how many tokens
  00000/skd_jax_manifest.json   by which a damaged part is found
  00001/...

A record holds one response of n tokens, in little-endian order:

  index, response, stopped, n, K      int32 each
  tokens     int32 [n]
  ids        int32 [n, K]
  log_probs  float32 [n, K]
  log_tail   float32 [n]
"""

import collections
import dataclasses
import json
import os
import pathlib
import shutil
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from array_record.python import array_record_data_source, array_record_module

from skd_jax.reporting import files, manifest

_FILE = "records.array_record"
_HEADER = struct.Struct("<5i")
# Each record compressed by itself, so that any can be read alone.
_OPTIONS = "group_size:1"


@dataclasses.dataclass(frozen=True)
class Record:
  """A response and what the teacher thinks of it; see structs.TeacherTop."""

  index: int  # Which example of its split.
  response: int  # Which of the responses to its prompt, from 0.
  stopped: bool  # Ended by EOS or a stop sequence.
  tokens: np.ndarray  # int32 [n]
  ids: np.ndarray  # int32 [n, K]
  log_probs: np.ndarray  # float32 [n, K]
  log_tail: np.ndarray  # float32 [n]


def num_bytes(num_tokens: int, k: int) -> int:
  """Returns the size of a record before its compression."""
  return _HEADER.size + num_tokens * (8 * k + 8)


def encode(record: Record) -> bytes:
  """Returns a record as it is written."""
  n, k = record.ids.shape
  header = record.index, record.response, record.stopped, n, k
  arrays = (
    (record.tokens, "<i4"),
    (record.ids, "<i4"),
    (record.log_probs, "<f4"),
    (record.log_tail, "<f4"),
  )
  parts = (np.asarray(x, dtype).tobytes() for x, dtype in arrays)
  return _HEADER.pack(*header) + b"".join(parts)


def decode(data: bytes) -> Record:
  """Reads what `encode` returned.

  Raises:
    ValueError: it has another size than it says.
  """
  index, response, stopped, n, k = _HEADER.unpack_from(data)
  if len(data) != num_bytes(n, k):
    raise ValueError(
      f"record of example {index} has {len(data)} bytes: must be "
      f"{num_bytes(n, k)}"
    )
  words = np.frombuffer(data, "<i4", offset=_HEADER.size)
  tokens, ids, log_probs, log_tail = np.split(
    words, np.cumsum([n, n * k, n * k])
  )
  return Record(
    index=index,
    response=response,
    stopped=bool(stopped),
    tokens=tokens,
    ids=ids.reshape(n, k),
    log_probs=log_probs.view("<f4").reshape(n, k),
    log_tail=log_tail.view("<f4"),
  )


def begin(
  folder: pathlib.Path, source: Mapping[str, Any], num_parts: int
) -> list[int]:
  """Prepares a folder to be written, and keeps what is whole in it.

  What was made from something else is deleted, and so are damaged parts; the
  log says so. For the first process.

  Args:
    folder: of the cache.
    source: what the records are made from, as JSON can hold it.
    num_parts: that the cache has when it is whole.

  Returns:
    The parts that are still to be written.
  """
  if folder.exists() and (differing := _differing(folder, source)):
    logging.warning(
      "%s: was begun with other %s; it is written anew", folder, differing
    )
    shutil.rmtree(folder)
  files.write_json(folder / "source.json", source)
  missing = []
  for number in range(num_parts):
    part = _part(folder, number)
    if found := _fault(part):
      if part.exists():
        logging.warning("%s; the part is written anew", found)
        shutil.rmtree(part)
      missing.append(number)
  if 0 < len(missing) < num_parts:
    logging.info(
      "%s: continues; %d of %d parts are whole",
      folder,
      num_parts - len(missing),
      num_parts,
    )
  return missing


def write_part(
  folder: pathlib.Path, number: int, records: Iterable[Record]
) -> None:
  """Writes a part, so that it is whole or not there; for the first process.

  Args:
    folder: of the cache.
    number: of the part, from 0.
    records: its records.

  Raises:
    OSError: it cannot be written, as on a full disk.
  """
  part = _part(folder, number)
  temporary = part.with_name(part.name + ".tmp")
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir(parents=True)
  path = temporary / _FILE
  writer = array_record_module.ArrayRecordWriter(str(path), _OPTIONS)
  count = {"records": 0, "tokens": 0}
  try:
    for record in records:
      writer.write(encode(record))
      count["records"] += 1
      count["tokens"] += len(record.tokens)
  finally:
    writer.close()
  files.write_json(
    temporary / "size.json", count | {"bytes": path.stat().st_size}
  )
  manifest.write(temporary)
  os.replace(temporary, part)


def measure(folder: pathlib.Path, num_parts: int) -> dict[str, int]:
  """Returns the "records", "tokens" and "bytes" of a whole cache."""
  total: collections.Counter[str] = collections.Counter()
  for number in range(num_parts):
    path = _part(folder, number) / "size.json"
    total.update(json.loads(path.read_text("utf-8")))
  return dict(total)


def check(
  folder: pathlib.Path, source: Mapping[str, Any], num_parts: int
) -> None:
  """Checks that a cache is whole, and made from what it should be.

  For the first process.

  Args:
    folder: of the cache.
    source: as in `begin`.
    num_parts: likewise.

  Raises:
    ValueError: a part is missing or damaged, or the source is another one.
  """
  if differing := _differing(folder, source):
    raise ValueError(
      f"{folder}: was made from other {differing}. Put back what it was made "
      "from, or choose another --workdir"
    )
  for number in range(num_parts):
    if found := _fault(_part(folder, number)):
      raise ValueError(
        f"{found}. Put the file back, or delete the record of the stage: the "
        "same command then writes this part again"
      )


class Records:
  """Reads the records of a whole cache, by their numbers."""

  def __init__(self, folder: pathlib.Path, num_parts: int):
    """Opens the parts, one after the other."""
    paths = [str(_part(folder, i) / _FILE) for i in range(num_parts)]
    self._folder = folder
    self._source = array_record_data_source.ArrayRecordDataSource(paths)

  def __len__(self) -> int:
    return len(self._source)

  def read(self, numbers: Sequence[int]) -> list[Record]:
    """Returns the records of some numbers, in their order.

    Raises:
      ValueError: one cannot be read.
    """
    if not numbers:  # Which the library refuses.
      return []
    try:
      return [decode(x) for x in self._source.__getitems__(numbers)]
    except (RuntimeError, ValueError, struct.error) as error:
      raise ValueError(f"{self._folder}: {error}") from None


def _part(folder: pathlib.Path, number: int) -> pathlib.Path:
  return folder / f"{number:05d}"


def _fault(part: pathlib.Path) -> str:
  """Says what is wrong with a part; "" where nothing is."""
  if not manifest.exists(part):
    return f"{part}: is missing, or has no manifest"
  return manifest.fault(part)


def _differing(folder: pathlib.Path, source: Mapping[str, Any]) -> str:
  """Returns the names of what a cache was made from otherwise."""
  try:
    before = dict(json.loads((folder / "source.json").read_text("utf-8")))
  except (OSError, ValueError, TypeError):
    return "sources (source.json is missing or damaged)"
  names = sorted(before.keys() | source.keys())
  return ", ".join(n for n in names if before.get(n) != source.get(n))
