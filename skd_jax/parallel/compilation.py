"""Compiled programs are kept on disk, so that a second start is quick."""

import os
import pathlib

import jax


def keep_compiled() -> None:
  """Turns JAX's persistent compilation cache on, unless it is set already.

  It is in skd_jax under the user's cache folder; JAX_COMPILATION_CACHE_DIR
  moves it, and JAX_ENABLE_COMPILATION_CACHE=0 turns it off. Programs that
  compile within a second are not kept.
  """
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(home) / "skd_jax" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
