"""Which package may import which, and that none reads flags or environment."""

import ast
import graphlib
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1] / "skd_jax"

# A package may import itself, those named here, and nothing else of ours.
ARROWS = {
  "structs": set(),
  "parallel": {"structs"},
  "decoding": {"parallel", "structs"},
  "models": {"parallel", "reporting", "structs"},
  "data": {"reporting", "structs"},
  "losses": {"decoding", "parallel", "structs"},
  "reporting": set(),
  "evaluation": {
    "decoding",
    "losses",
    "models",
    "data",
    "parallel",
    "structs",
  },
  "training": {
    "decoding",
    "losses",
    "models",
    "data",
    "reporting",
    "parallel",
    "structs",
  },
}
PACKAGES = sorted(ARROWS.keys() - {"structs"})
# They serve the command lines, which are launched by SLURM and the like.
READ_THE_ENVIRONMENT = {"parallel/processes.py", "parallel/compilation.py"}


def sources(package):
  """The files of a package, or of a single module."""
  folder = _ROOT / package
  return sorted(folder.rglob("*.py")) or [folder.with_suffix(".py")]


def names_used(source):
  """Dotted names of what a file imports, late imports too, or reads as a.b."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "a relative import"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      found.add(f"{node.value.id}.{node.attr}")
  return found


def packages_used(source):
  """Names of our packages, and modules beside them, that a file imports."""
  ours = (name.split(".") for name in names_used(source))
  return {parts[1] for parts in ours if parts[0] == "skd_jax" and parts[1:]}


def forbidden(source):
  """What no package uses: config files, flags, arguments and environment."""
  starts = ("ml_collections", "absl.flags", "absl.app", "sys.argv")
  starts += ("os.environ", "os.getenv", "os.putenv")
  return {name for name in names_used(source) if name.startswith(starts)}


def test_every_package_has_its_arrows():
  folders = {path.parent.name for path in _ROOT.glob("*/__init__.py")}
  assert folders == set(PACKAGES)


@pytest.mark.parametrize("package", ARROWS)
def test_package_imports_only_what_it_may(package):
  for path in sources(package):
    used = packages_used(path.read_text("utf-8")) - {package}
    assert used <= ARROWS[package], path


def test_arrows_have_no_circle():
  order = list(graphlib.TopologicalSorter(ARROWS).static_order())
  assert order.index("structs") < order.index("decoding")
  assert order.index("decoding") < order.index("training")


@pytest.mark.parametrize("package", PACKAGES)
def test_package_reads_no_config_flags_or_environment(package):
  for path in sources(package):
    found = forbidden(path.read_text("utf-8"))
    if path.relative_to(_ROOT).as_posix() in READ_THE_ENVIRONMENT:
      found -= {"os.environ"}
    assert not found, path


@pytest.mark.parametrize(
  ("source", "packages", "names"),
  [
    ("from skd_jax import config as c, structs", {"config", "structs"}, set()),
    ("import skd_jax.models.loading", {"models"}, set()),
    ("def f():\n  from skd_jax.data import tasks", {"data"}, set()),
    ("from absl import flags, logging", set(), {"absl.flags"}),
    ("import ml_collections", set(), {"ml_collections"}),
    ("import os\nx = os.environ['HOME']", set(), {"os.environ"}),
    ("from sys import argv", set(), {"sys.argv"}),
    ("import sys\nprint(sys.argv[1:])", set(), {"sys.argv"}),
  ],
)
def test_each_way_to_import_or_to_read_is_seen(source, packages, names):
  assert packages_used(source) == packages
  assert forbidden(source) == names
