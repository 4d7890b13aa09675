"""Lets Sphinx read docstrings that are written for people.

The docstrings have Google sections, which napoleon reads, and besides:

  `code` in single backticks        becomes code
  a paragraph with columns          becomes a literal block: it is a drawing
  `field: int  # int32 [B], ...`    the comment describes the attribute
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

# Two columns of a drawing are this far apart.
_COLUMNS = re.compile(r"\S {3,}\S")
_CODE = re.compile(r"`([^`]+)`")
_MARKUP = re.compile(r"(?<![\w*])[*|]|[*|](?=\w)|_(?=\W|$)")
_FIELD = re.compile(r"(\w+): (.*)")


def to_rst(text: str) -> str:
  """Turns the text of a docstring into reStructuredText."""
  return "\n\n".join(map(_paragraph, re.split(r"\n\s*\n", text)))


def _paragraph(text: str) -> str:
  if _COLUMNS.search(text):
    return "::\n\n" + textwrap.indent(textwrap.dedent(text), "    ")
  parts = _CODE.split(text)
  for i, part in enumerate(parts):
    parts[i] = f"``{part}``" if i % 2 else _MARKUP.sub(r"\\\g<0>", part)
  return "".join(parts)


def field_comments(cls: type) -> dict[str, str]:
  """Returns the comment at the end of the line of each field."""
  source = textwrap.dedent(inspect.getsource(cls))
  lines = source.splitlines()
  comments = {}
  for node in ast.parse(source).body[0].body:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
      comment = lines[node.end_lineno - 1].partition("  # ")[2]
      comments[node.target.id] = comment
  return comments


def _split_fields(
  lines: Sequence[str], names: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
  """Takes lines of the form `field: text` out of a docstring."""
  rest: list[str] = []
  found: dict[str, str] = {}
  name = None
  for line in lines:
    match = _FIELD.match(line)
    if match and match[1] in names:
      name = match[1]
      found[name] = match[2]
    elif name and line.startswith(" "):
      found[name] += f" {line.strip()}"
    else:
      name = None
      rest.append(line)
  return rest, found


def _attributes(obj: Any, lines: list[str]) -> Iterator[str]:
  """Yields the lines, and a section for the fields of a dataclass."""
  names = [field.name for field in dataclasses.fields(obj)]
  rest, described = _split_fields(lines, names)
  yield from rest
  comments = field_comments(obj) | described
  if "Attributes:" in rest or not any(comments.values()):
    return
  yield from ("", "Attributes:")
  for name in names:
    yield f"  {name}: {comments.get(name, '')}"


def _process(app, what, name, obj, options, lines: list[str]) -> None:
  del app, name, options
  if what == "class" and dataclasses.is_dataclass(obj):
    lines[:] = list(_attributes(obj, lines))
  lines[:] = to_rst("\n".join(lines)).split("\n")


def setup(app) -> dict[str, bool]:
  """Connects to autodoc, before napoleon (500)."""
  app.setup_extension("sphinx.ext.autodoc")
  app.connect("autodoc-process-docstring", _process, priority=400)
  return {"parallel_read_safe": True}
