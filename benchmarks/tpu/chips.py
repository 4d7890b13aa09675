"""What a TPU chip can do, by its maker's documentation.

Peak bf16 rate, memory and interconnect are those of cloud.google.com/tpu/docs
(pages v4, v5e, v5p and v6e, read in 2026). The memory is what the compiler
grants a program, as it says itself when one does not fit: a little less than
the documented 32, 16, 95 and 32 GB.

The documents give the interconnect of a chip in both directions over all its
links: 400 GB/s over 4 on v5e, 800 over 4 on v6e, 1200 over 6 on v5p. A
collective along one axis of the mesh is assumed to run around one ring, on two
of the links, so that a chip sends the documented figure / links. The page of v4
has no figure: 6 links of 50 GB/s in each direction (arXiv 2304.01433).

The clock is the one that the peak rate implies: a core has 4 units that each
multiply a matrix of 128 x 128 in a cycle (v6e: 256 x 256), and v4 and v5p have
two cores.
"""

import dataclasses
import math
import os
from typing import Any

import jax
from jax.experimental import topologies


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of TPU chip."""

  name: str
  flops_per_s: float  # Peak, bf16 products accumulated in float32.
  hbm_bytes: float  # Available to a program.
  hbm_bytes_per_s: float
  ici_bytes_per_s: float  # Sent around one ring.
  clock_hz: float
  config: str  # In libtpu: megacore shows two cores as one device.


GIB = 2**30
# libtpu reads these when it is loaded, and then asks nothing of this machine.
_WITHOUT_A_TPU = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}
CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v4", 275e12, 30.75 * GIB, 1.2e12, 100e9, 1.05e9, "megacore"),
    Chip("v5e", 197e12, 15.75 * GIB, 819e9, 100e9, 1.5e9, "default"),
    Chip("v5p", 459e12, 95.74 * GIB, 2765e9, 200e9, 1.75e9, "megacore"),
    Chip("v6e", 918e12, 31.25 * GIB, 1638e9, 200e9, 1.75e9, "default"),
  )
}


def parse_topology(topology: str) -> tuple[Chip, tuple[int, ...]]:
  """Reads a slice: "v5e:2x4" is (v5e, (2, 4)), eight chips.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  name, _, shape = topology.partition(":")
  if name not in CHIPS:
    raise ValueError(
      f"topology = {topology!r}: the chip must be one of {list(CHIPS)}, as in "
      "v5e:2x4"
    )
  sides = shape.split("x")
  if not all(side.isdecimal() and int(side) > 0 for side in sides):
    raise ValueError(
      f"topology = {topology!r}: the shape must be like 2x4 or 2x2x1"
    )
  return CHIPS[name], tuple(map(int, sides))


def tpu_devices(topology: str) -> tuple[Any, ...]:
  """Returns the devices of a slice; programs can be compiled for them.

  Args:
    topology: as in parse_topology.

  Raises:
    ValueError: no such slice, or libtpu is not installed.
  """
  chip, shape = parse_topology(topology)
  for name, value in _WITHOUT_A_TPU.items():
    os.environ.setdefault(name, value)
  options: dict[str, Any] = {"chip_config_name": chip.config}
  if math.prod(shape) == 1:
    options["chips_per_host_bounds"] = (1, 1, 1)
  try:
    description = topologies.get_topology_desc(
      platform="tpu", topology_name=topology, **options
    )
  except (RuntimeError, jax.errors.JaxRuntimeError) as error:
    line = str(error).splitlines()[0]
    raise ValueError(f"topology = {topology!r}: {line}") from None
  return tuple(description.devices)
