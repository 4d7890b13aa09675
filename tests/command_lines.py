"""The command lines: as modules, and as programs of their own."""

import importlib
import os
import pathlib
import subprocess
import sys
import types

from absl import flags

import skd_jax

_ROOT = pathlib.Path(__file__).parents[1]


def load(name: str, *, keep_flags: bool = True) -> types.ModuleType:
  """Imports a module that is a command line.

  `skd_jax.generate` and `skd_jax.compare` are functions, unless the modules of
  these names are imported: then they are those. Here the functions stay.

  Args:
    name: of the module.
    keep_flags: False, where another command line has flags of the same name:
      the functions of the module work without its flags.
  """
  module = importlib.import_module(name)
  package, _, attribute = name.rpartition(".")
  if package == "skd_jax":
    vars(skd_jax).pop(attribute, None)
  if not keep_flags:
    for flag in flags.FLAGS.flags_by_module_dict().get(name, []):
      delattr(flags.FLAGS, flag.name)
  return module


def run(*arguments, given: str = "", timeout: float = 120):
  """Runs Python with some arguments in a process of its own, on the CPU."""
  return subprocess.run(
    [sys.executable, *map(str, arguments)],
    input=given,
    cwd=_ROOT,
    env=os.environ
    | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"},
    capture_output=True,
    text=True,
    timeout=timeout,
    check=False,
  )
