"""Rows of a data set on disk: lines, JSON lines, parquet and arrow files.

Every reader yields (where a row stands, the row), a row being a dict of fields.
"""

import gzip
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

Row = tuple[str, dict[str, Any]]  # Where it stands, its fields.

# Where Hugging Face data sets have the parquet files of a split.
_PARQUET = (
  "{split}.parquet",
  "{split}-*-of-*.parquet",
  "data/{split}-*-of-*.parquet",
  "{split}/*.parquet",
)
_BATCH_SIZE = 1000  # Rows that are read from a file at once.


def find(dir: str | pathlib.Path, stem: str) -> pathlib.Path:
  """Returns the file `stem` or `stem.gz` of a folder, the first that exists.

  Raises:
    FileNotFoundError: the folder, or both files, are missing.
  """
  path = _folder(dir)
  for name in (stem, f"{stem}.gz"):
    if (path / name).is_file():
      return path / name
  raise FileNotFoundError(f"{path}: holds neither {stem} nor {stem}.gz")


def _folder(dir: str | pathlib.Path) -> pathlib.Path:
  path = pathlib.Path(dir)
  if not path.is_dir():
    raise FileNotFoundError(f"dir = {str(dir)!r}: no such folder")
  return path


def read_lines(path: pathlib.Path) -> list[str]:
  """Returns the lines of a plain or gzip UTF-8 file, split at line feeds only.

  The end of a Windows line and a byte order mark are no part of the text.

  Raises:
    ValueError: the file is not UTF-8 text.
  """
  data = path.read_bytes()
  try:
    plain = gzip.decompress(data) if path.suffix == ".gz" else data
    text = plain.decode("utf-8-sig")
  except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
    raise ValueError(f"{path}: not UTF-8 text: {error}") from error
  lines = text.split("\n")
  if not lines[-1]:
    lines.pop()
  return [line.removesuffix("\r") for line in lines]


def read_jsonl(dir: str, split: str) -> Iterator[Row]:
  """Yields the objects of `dir`/SPLIT.jsonl, plain or .gz.

  Raises:
    FileNotFoundError: the folder or the file is missing.
    ValueError: a line is no JSON object.
  """
  path = find(dir, f"{split}.jsonl")
  for number, line in enumerate(read_lines(path), 1):
    where = f"{path}, line {number}"
    try:
      entry = json.loads(line)
      # JSON can spell half a character, \ud83d, which no tokenizer takes.
      json.dumps(entry, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
      raise ValueError(f"{where}: bad JSON: {error}") from error
    if not isinstance(entry, dict):
      raise ValueError(f"{where}: must be a JSON object")
    yield where, entry


def read_table(dir: str, split: str) -> Iterator[Row]:
  """Yields the rows of a split in the format of Hugging Face `datasets`.

  That is parquet, as data sets are published, or arrow, as `save_to_disk`
  writes them:

    dir/train-00000-of-00001.parquet      dir/train/state.json
    dir/data/train-00000-of-00001.parquet dir/train/data-00000-of-00001.arrow
    dir/train.parquet                     dir/state.json, with that split alone
    dir/train/0000.parquet

  Raises:
    FileNotFoundError: the folder has no such split, or a file of it is missing.
    ValueError: a file cannot be read.
  """
  # Imported late: most runs have other data.
  import pyarrow as pa
  import pyarrow.parquet as pq

  for path in _table_files(_folder(dir), split):
    number = 0
    try:
      if path.suffix == ".parquet":
        batches = pq.ParquetFile(path).iter_batches(_BATCH_SIZE)
      else:
        batches = pa.ipc.open_stream(path)
      for batch in batches:
        for entry in batch.to_pylist():
          number += 1
          yield f"{path}, row {number}", entry
    except pa.ArrowException as error:
      reason = str(error).split("\n")[0]
      raise ValueError(f"{path}: cannot be read: {reason}") from error


def read_any(dir: str, split: str) -> Iterator[Row]:
  """Yields the rows of a split: of JSON lines where there are, or of a table.

  Raises:
    FileNotFoundError, ValueError: as read_jsonl and read_table.
  """
  names = (f"{split}.jsonl", f"{split}.jsonl.gz")
  has_lines = any((_folder(dir) / name).is_file() for name in names)
  return read_jsonl(dir, split) if has_lines else read_table(dir, split)


def _table_files(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
  """The files of a split in their order."""
  for place in (folder / split, folder):
    if not (place / "state.json").is_file():
      continue
    state = json.loads((place / "state.json").read_text("utf-8"))
    if place == folder and state.get("_split") != split:
      continue
    paths = [place / entry["filename"] for entry in state["_data_files"]]
    return _complete(paths, len(paths))
  for pattern in _PARQUET:
    paths = sorted(folder.glob(pattern.format(split=split)))
    if paths:
      total = re.search(r"-of-(\d+)", paths[0].name)
      return _complete(paths, int(total[1]) if total else len(paths))
  raise FileNotFoundError(
    f"{folder}: holds no split {split!r}: no {split}.parquet, "
    f"{split}-00000-of-00001.parquet or {split}/state.json"
  )


def _complete(paths: list[pathlib.Path], total: int) -> list[pathlib.Path]:
  """The files, which must all be there."""
  missing = [path for path in paths if not path.is_file()]
  if missing or len(paths) != total:
    raise FileNotFoundError(
      f"{paths[0].parent}: holds {len(paths) - len(missing)} of the {total} "
      f"files of the split, such as {(missing or paths)[0].name}"
    )
  return paths


def value_of(row: dict[str, Any], field: str) -> Any:
  """Returns the value of a field of a row; None where it has none.

  answer              the field of that name
  translation.de      the field `de` of the field `translation`
  summary|summary1    the first of them that the row has
  """
  if field in row:
    return row[field]
  for path in field.split("|"):
    value: Any = row
    for name in [path] if path in row else path.split("."):
      value = value.get(name) if isinstance(value, dict) else None
    if value is not None:
      return value
  return None
