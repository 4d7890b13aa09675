"""The command lines: as modules, and as programs of their own."""

import importlib
import os
import pathlib
import subprocess
import sys
import types

import skd_jax

_ROOT = pathlib.Path(__file__).parents[1]


def load(name: str) -> types.ModuleType:
  """Returns the module of `python -m skd_jax.NAME`.

  `skd_jax.generate` and `skd_jax.compare` are functions, unless the modules of
  these names are imported: then they are those. Here the functions stay.
  """
  module = importlib.import_module(f"skd_jax.{name}")
  vars(skd_jax).pop(name, None)
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
