"""Compiled programs are kept where they are found again."""

import os
import subprocess
import sys

_PROGRAM = """
import jax
from skd_jax.parallel import compilation

compilation.keep_compiled()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x * 2 + 1)(jax.numpy.arange(7.0)).block_until_ready()
"""


def run(**environment):
  # Not a cache that whoever runs the tests has chosen.
  inherited = dict(os.environ)
  inherited.pop("JAX_COMPILATION_CACHE_DIR", None)
  subprocess.run(
    [sys.executable, "-c", _PROGRAM],
    env=inherited | {"JAX_PLATFORMS": "cpu"} | environment,
    check=True,
    timeout=60,
  )


def test_compiled_programs_go_to_the_cache_of_the_user(tmp_path):
  run(XDG_CACHE_HOME=str(tmp_path))
  assert list((tmp_path / "skd_jax" / "compiled").iterdir())


def test_another_folder_can_be_chosen(tmp_path):
  chosen = tmp_path / "chosen"
  run(
    XDG_CACHE_HOME=str(tmp_path / "home"),
    JAX_COMPILATION_CACHE_DIR=str(chosen),
  )
  assert list(chosen.iterdir())
  assert not (tmp_path / "home").exists()
