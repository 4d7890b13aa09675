"""Where examples come from: files, TensorFlow data sets, this package."""

import re
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

from skd_jax.data import conversations
from skd_jax.data import rows as rows_lib
from skd_jax.structs import Example

KINDS = (
  "embedded",
  "arithmetic",
  "chains",
  "parallel",
  "jsonl",
  "parquet",
  "messages",
  "tfds",
)

_ROWS = {"jsonl": rows_lib.read_jsonl, "parquet": rows_lib.read_table}
# Of a character that was cut in two, which JSON can write and UTF-8 cannot.
_SURROGATE = re.compile("[\ud800-\udfff]")
_PART = re.compile(r"(?P<split>.+)\[(?P<start>-?\d*):(?P<stop>-?\d*)\]")

Located = tuple[str, Example]  # Where it stands.


def _read_parallel(
  dir: str, split: str, source_language: str, target_language: str
) -> Iterator[Located]:
  paths = [
    rows_lib.find(dir, f"{split}.{language}")
    for language in (source_language, target_language)
  ]
  sources, targets = (rows_lib.read_lines(path) for path in paths)
  if len(sources) != len(targets):
    raise ValueError(
      f"{paths[0]} has {len(sources)} lines and {paths[1]} has "
      f"{len(targets)}: must be equally many"
    )
  for number, pair in enumerate(zip(sources, targets, strict=True), 1):
    blank = paths[1] if pair[0].strip() else paths[0]
    example: Example = {"source": pair[0], "target": pair[1]}
    yield f"{blank}, line {number}", example


def _pairs(
  rows: Iterable[rows_lib.Row], source_field: str, target_field: str
) -> Iterator[Located]:
  """The texts of two fields of each row."""
  for where, row in rows:
    source, target = (
      _text(where, row, field) for field in (source_field, target_field)
    )
    yield where, {"source": source, "target": target}


def _text(where: str, row: dict[str, Any], field: str) -> str:
  value = rows_lib.value_of(row, field)
  if value is None:
    raise ValueError(
      f"{where}: has no text in field {field!r}; its fields are {sorted(row)}"
    )
  if isinstance(value, bytes):  # Of TensorFlow, or of a binary column.
    return value.decode(errors="surrogateescape")
  if not isinstance(value, str):
    raise ValueError(
      f"{where}: {field} = {reprlib.repr(value)}: must be a text"
    )
  return value


def _conversations(
  rows: Iterable[rows_lib.Row], field: str, turns: str
) -> Iterator[Located]:
  """The responses of the conversation in a field of each row."""
  for where, row in rows:
    if row.get("tools"):
      raise ValueError(
        f"{where}: has 'tools', which no prompt would show; put them in the "
        "system turn, and leave the field out"
      )
    try:
      found = conversations.examples(rows_lib.value_of(row, field), turns)
    except ValueError as error:
      raise ValueError(f"{where}, field {field!r}: {error}") from None
    for example in found:
      yield where, example


def _read_tfds(
  dir: str | None, split: str, name: str
) -> Iterator[rows_lib.Row]:
  import tensorflow_datasets as tfds

  # These register wmt16_translate, xsum, gsm8k and others.
  import tensorflow_datasets.summarization
  import tensorflow_datasets.text
  import tensorflow_datasets.translate

  try:
    source: Any = tfds.data_source(name, split=split, data_dir=dir)
  except Exception as error:  # Of any kind: it may download and build the set.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise ValueError(
      f"name = {name!r}: tensorflow-datasets has no split {split!r} of it: "
      f"{lines[0]}"
    ) from error
  for number in range(len(source)):
    yield f"{name}, split {split}, example {number}", source[number]


def _read_embedded(kind: str, split: str, **settings) -> Iterator[Located]:
  # Imported late: the lexicon takes a while, and most runs have other data.
  from skd_jax.data.synthetic import arithmetic, chains, corpus

  load_split = {
    "arithmetic": arithmetic.load_split,
    "chains": chains.load_split,
    "embedded": corpus.load_split,
  }[kind]
  for number, example in enumerate(load_split(split, **settings)):
    yield f"{kind}, split {split}, example {number}", example


def _required(kind: str, **fields: Any) -> list[Any]:
  """The values of the fields, which this kind of data cannot do without."""
  for field, value in fields.items():
    if not value:
      raise ValueError(
        f"{field} = {value!r}: must be given for kind = {kind!r}"
      )
  return [value for value in fields.values() if value]


def load_examples(
  kind: str,
  split: str,
  *,
  dir: str | None = None,
  source_language: str | None = None,
  target_language: str | None = None,
  source_field: str | None = None,
  target_field: str | None = None,
  name: str | None = None,
  turns: str = "last",
  num_steps: int | tuple[int, int] | None = None,
  noise: float = 0.0,
  max_examples: int | None = None,
) -> list[Example]:
  """Reads one split of a data set.

  Args:
    kind: Where the examples come from.
      "embedded": the German-English corpus inside this package; needs nothing
        else.
      "arithmetic": the word problems inside this package; needs nothing else.
      "chains": arithmetic of `num_steps` steps, or of (least, most), inside
        this package; a share `noise` of the training steps is wrong.
      "parallel": `dir`/SPLIT.LANGUAGE for both languages, one sentence per
        line, plain or .gz (the plain file if both exist).
      "jsonl": `dir`/SPLIT.jsonl, plain or .gz, with text in `source_field`
        and `target_field`, which are as rows.value_of has them.
      "parquet": a data set of Hugging Face `datasets` in `dir`, parquet or
        arrow, see rows.read_table; the fields as for "jsonl".
      "messages": conversations in `source_field` of a file or data set as for
        "jsonl" or "parquet"; `turns` says which of their turns are responses,
        see conversations.py.
      "tfds": the TensorFlow data set `name`, such as "wmt16_translate/de-en",
        in ArrayRecord format in `dir` (its default place if None), where it
        is downloaded to if missing; the fields as for "jsonl". TensorFlow is
        not imported.
    split: The name of the split, such as "train" or "test_2016_flickr"; or
      some of its examples, counted from 0: "train[:900]", "train[-100:]".
    dir: See `kind`; so are the following.
    source_language: See `kind`.
    target_language: See `kind`.
    source_field: See `kind`.
    target_field: See `kind`.
    name: See `kind`.
    turns: See `kind`.
    num_steps: See `kind`.
    noise: See `kind`.
    max_examples: Keep the first so many only; None keeps all.

  Returns:
    The examples in their order, neither side blank.

  Raises:
    FileNotFoundError: The folder or a file is missing.
    ValueError: An unknown kind, a missing argument, a split without examples,
      or files that cannot be read as described; the message names the file and
      the line.
  """
  part = None
  # TensorFlow data sets read slices themselves.
  if kind != "tfds" and (part := _PART.fullmatch(split)):
    split = part["split"]
  if kind in ("embedded", "arithmetic"):
    located = _read_embedded(kind, split)
  elif kind == "chains":
    (num_steps,) = _required(kind, num_steps=num_steps)
    located = _read_embedded(kind, split, num_steps=num_steps, noise=noise)
  elif kind == "parallel":
    located = _read_parallel(
      *_required(kind, dir=dir, split=split),
      *_required(
        kind, source_language=source_language, target_language=target_language
      ),
    )
  elif kind in ("jsonl", "parquet", "tfds"):
    fields = _required(
      kind, source_field=source_field, target_field=target_field
    )
    if kind == "tfds":
      (name,) = _required(kind, name=name)
      rows = _read_tfds(dir, split, name)
    else:
      (dir,) = _required(kind, dir=dir)
      rows = _ROWS[kind](dir, split)
    located = _pairs(rows, *fields)
  elif kind == "messages":
    dir, field = _required(kind, dir=dir, source_field=source_field)
    located = _conversations(rows_lib.read_any(dir, split), field, turns)
  else:
    raise ValueError(f"kind = {kind!r}: must be one of {', '.join(KINDS)}")
  if part:
    located = _chosen(located, part)
  examples = _checked(located, max_examples)
  if not examples:
    chosen = part[0] if part else split
    raise ValueError(f"{dir or name or kind}: split {chosen} holds no example")
  return examples


def _chosen(located: Iterable[Located], part: re.Match[str]) -> list[Located]:
  """The examples of a split such as train[:900]."""
  start, stop = (int(n) if n else None for n in part.group("start", "stop"))
  return list(located)[start:stop]


def _checked(
  located: Iterable[Located], max_examples: int | None
) -> list[Example]:
  """The first examples, each of them text."""
  if max_examples is not None and max_examples < 1:
    raise ValueError(f"max_examples = {max_examples}: must be at least 1")
  examples: list[Example] = []
  for where, example in located:
    for side in ("source", "target"):
      if not example[side].strip():
        raise ValueError(f"{where}: the {side} is blank")
      if broken := _SURROGATE.search(example[side]):
        raise ValueError(
          f"{where}: the {side} has {broken[0]!r}: must be Unicode text"
        )
    examples.append(example)
    if len(examples) == max_examples:
      break
  return examples
