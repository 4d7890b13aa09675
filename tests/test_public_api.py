"""`import skd_jax`: quick, complete, and free of the command line."""

import ast
import pathlib
import subprocess
import sys

import pytest

import skd_jax

_PACKAGE = pathlib.Path(skd_jax.__file__).parent


def _run(code):
  return subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  ).stdout.split()


@pytest.mark.parametrize("name", skd_jax.__all__)
def test_every_public_name_is_there_and_has_a_docstring(name):
  assert getattr(skd_jax, name).__doc__


def test_type_checkers_see_the_names_that_are_loaded_lazily():
  tree = ast.parse((_PACKAGE / "__init__.py").read_text("utf-8"))
  (block,) = (n for n in tree.body if isinstance(n, ast.If))
  imported = {
    alias.asname or alias.name
    for node in ast.walk(block)
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
  }
  assert imported == set(skd_jax.__all__)
  assert (_PACKAGE / "py.typed").exists()


def test_import_alone_loads_no_heavy_module():
  code = "import sys, skd_jax; print(*sys.modules)"
  heavy = {"jax", "flax", "transformers", "orbax", "grain", "matplotlib"}
  assert not heavy & set(_run(code))


def test_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'nope'"):
    _ = skd_jax.nope


@pytest.mark.slow
def test_functions_named_like_command_lines_are_functions():
  names = ["generate", "compare"]
  shown = ", ".join(f"skd_jax.{name}.__name__" for name in names)
  assert _run(f"import skd_jax; print({shown})") == names


def test_version_is_that_of_the_citation_and_the_changelog():
  root = _PACKAGE.parent
  version = skd_jax.__version__
  assert f"\nversion: {version}\n" in (root / "CITATION.cff").read_text("utf-8")
  assert f"## [{version}]" in (root / "CHANGELOG.md").read_text("utf-8")
