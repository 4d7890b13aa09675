"""What a result was made with: versions, devices, the revision of the code."""

import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

import jax

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers")


def versions() -> dict[str, str]:
  """Returns the versions of what a result depends on."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {"python": platform.python_version(), **found}


def git_revision() -> str:
  """Returns the revision of the checkout that runs, or "" outside of one."""
  result = subprocess.run(
    ["git", "describe", "--always", "--dirty", "--abbrev=12"],
    cwd=pathlib.Path(__file__).parent,
    capture_output=True,
    text=True,
    check=False,
  )
  return result.stdout.strip()


def device_name() -> str:
  """Names the machine as in the files of results: cpu-2, nvidia-h200.

  A CPU has its number of cores, other kinds the number of devices if there are
  several.
  """
  devices = jax.devices()
  kind = re.sub(r"[^a-z0-9]+", "-", devices[0].device_kind.lower()).strip("-")
  if devices[0].platform == "cpu":
    return f"cpu-{len(os.sched_getaffinity(0))}"
  return kind if len(devices) == 1 else f"{kind}-{len(devices)}"


def provenance() -> dict[str, Any]:
  """Returns {"versions", "devices", "git"}, for config.json."""
  return {
    "versions": versions(),
    "devices": [str(device) for device in jax.devices()],
    "git": git_revision(),
  }
