"""Fails the build where a table of methods.md is not what the code has."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from skd_jax import methods
from skd_jax.decoding import acceptance

_PAGE = pathlib.Path(__file__).with_name("methods.md")


def settings(changes: Mapping[str, Any]) -> str:
  """Returns how the table writes the settings of a method."""
  shown = ", ".join(f"`{name}={value}`" for name, value in changes.items())
  return shown or "the defaults"


def read_table(page: str, name: str) -> list[list[str]]:
  """Returns the cells of the table between two comments, without its head."""
  found = re.search(rf"<!-- table: {name} -->\n(.*?)<!-- end -->", page, re.S)
  if found is None:
    raise ValueError(f"methods.md: has no table {name!r}")
  rows = re.findall(r"^\|(.*)\|$", found[1], re.M)
  return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


def problems(page: str) -> list[str]:
  """Returns what the tables say otherwise than the code."""
  expected = {
    f"`{name}`": settings(changes) for name, changes in methods.METHODS.items()
  }
  rows = read_table(page, "methods")
  found = {row[0]: row[-1] for row in rows}
  result = _names("methods", list(found), list(expected))
  result += [
    f"method {name}: the settings are {expected[name]}, not {cell}"
    for name, cell in found.items()
    if name in expected and cell != expected[name]
  ]
  rules = [row[0] for row in read_table(page, "rules")]
  return result + _names("rules", rules, [f"`{r}`" for r in acceptance.RULES])


def _names(table: str, found: Sequence[str], expected: Sequence[str]):
  missing = [name for name in expected if name not in found]
  unknown = [name for name in found if name not in expected]
  return [f"{table}: {name} is missing" for name in missing] + [
    f"{table}: {name} is unknown to the code" for name in unknown
  ]


def _check(app) -> None:
  del app
  from sphinx.errors import ExtensionError

  if found := problems(_PAGE.read_text("utf-8")):
    raise ExtensionError("methods.md: " + "; ".join(found))


def setup(app) -> dict[str, bool]:
  """Checks before anything is built."""
  app.connect("builder-inited", _check)
  return {"parallel_read_safe": True}
