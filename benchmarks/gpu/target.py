"""GPUs that programs are compiled for, without the card.

NAME.txtpb beside this file says what a GPU is. `pip install -e
.[gpu-compiler]`, in an environment of its own, brings the compiler.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

_FOLDER = pathlib.Path(__file__).parent
NAMES = tuple(sorted(file.stem for file in _FOLDER.glob("*.txtpb")))


def describe(name: str) -> str:
  """Returns what XLA is told of a GPU.

  Raises:
    ValueError: it is not among NAMES.
  """
  if name not in NAMES:
    raise ValueError(f"gpu = {name!r}: must be one of {list(NAMES)}")
  return (_FOLDER / f"{name}.txtpb").read_text("utf-8")


def memory_bytes(name: str) -> int:
  """Returns the memory of a GPU, as its driver gives it."""
  (found,) = re.findall(r"device_memory_size: (\d+)", describe(name))
  return int(found)


def devices(name: str) -> Sequence[Any]:
  """Returns one GPU that need not be there.

  Raises:
    ValueError: it is unknown, or its compiler is not installed.
  """
  described = describe(name)
  try:
    found = topologies.get_topology_desc(
      platform="cuda",
      topology_name="",
      topology="1x1x1",
      target_config=described,
    )
  except (RuntimeError, jax.errors.JaxRuntimeError) as error:
    line = str(error).splitlines()[0]
    raise ValueError(
      f"platform = 'cuda': {line}; install skd_jax[gpu-compiler]"
    ) from None
  return found.devices[:1]
