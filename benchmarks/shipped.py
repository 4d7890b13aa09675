"""The large configs, compiled and held against what must be so.

The program is benchmarks/tpu_plan.py.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import ml_collections

from benchmarks import chips, footprint, harness, plans, roofline
from configs import wmt


@dataclasses.dataclass(frozen=True)
class Shipped:
  """A large config and a slice that its docstring names."""

  variant: str
  topology: str
  tensor: int | None = None  # mesh.tensor, where not the config's.

  @property
  def name(self) -> str:
    """As on the command line."""
    mesh = f" mesh.tensor={self.tensor}" if self.tensor else ""
    return f"wmt.py:{self.variant}{mesh}"

  def config(self) -> ml_collections.ConfigDict:
    """Returns the config."""
    config = wmt.get_config(self.variant)
    if self.tensor:
      config.mesh.tensor = self.tensor
    return config


SHIPPED = (
  Shipped("gemma", "v5e:2x4"),
  Shipped("gemma", "v5p:2x2x1", tensor=4),
  Shipped("gemma2", "v5e:2x4"),
  Shipped("qwen", "v5e:2x2"),
  Shipped("qwen3", "v5e:2x2"),
  Shipped("llama", "v5e:2x2"),
)


def make_row(
  name: str,
  config: ml_collections.ConfigDict,
  topology: str,
  replacement_rate: float,
) -> harness.Row:
  """Compiles a config for a slice of TPU chips.

  Args:
    name: of the config.
    config: from a file in configs/.
    topology: the slice.
    replacement_rate: for the estimate of the seconds.

  Returns:
    See the module; `fits` is False, and `note` says why, where the compiler
    refuses it.
  """
  chip, _ = chips.parse_topology(topology)
  plan = plans.make_plan(config, chips.tpu_devices(topology))
  row = {"config": name, "slice": topology} | plan.describe()
  try:
    row |= footprint.compile_plan(plan)
  except plans.DoesNotFitError as error:
    return row | {"fits": False, "note": str(error)}
  machine = roofline.Machine(chip, **plan.run.mesh.shape)
  seconds = roofline.summary(machine.step(plan.work(replacement_rate)))
  available = chip.hbm_bytes / chips.GIB
  fits = row["peak_gib"] <= available
  libtpu = {"libtpu": harness.installed("libtpu")}
  row |= {"hbm_gib": available, "fits": fits}
  return row | {"batch_estimate": batch_estimate(row)} | seconds | libtpu


def cpu_row(
  name: str, config: ml_collections.ConfigDict, *, small: bool
) -> harness.Row:
  """Compiles a config for the devices of the CPU; see make_row."""
  devices = jax.devices()
  make = plans.make_small_plan if small else plans.make_plan
  plan = make(config, devices)
  row = {"config": name, "slice": f"cpu:{len(devices)}"}
  return row | plan.describe() | footprint.compile_plan(plan)


def search(
  name: str,
  config: ml_collections.ConfigDict,
  topology: str,
  replacement_rate: float,
) -> list[harness.Row]:
  """Compiles twice the batch until it does not fit, or half until it does.

  Returns:
    A row for each batch. Microbatches keep the number of rows that the config
    gives them.
  """
  rows = []
  config = config.copy_and_resolve_references()
  fit, mesh = config.distill, config.mesh
  least = max(mesh.data, 1) * mesh.fsdp
  while True:
    rows.append(make_row(name, config, topology, replacement_rate))
    print(describe(rows[-1]), flush=True)
    fits = rows[0]["fits"]
    if rows[-1]["fits"] != fits or (not fits and fit.batch_size // 2 < least):
      return rows
    if fits:
      fit.update(
        batch_size=2 * fit.batch_size, num_microbatches=2 * fit.num_microbatches
      )
    else:
      fit.update(
        batch_size=fit.batch_size // 2,
        num_microbatches=max(1, fit.num_microbatches // 2),
      )


def largest(rows: Sequence[harness.Row]) -> str:
  """Says what a search has found."""
  batches = [row["batch"] for row in rows if row["fits"]]
  where = f"{rows[0]['config']} on {rows[0]['slice']}"
  if not batches:
    return f"{where}: no batch fits; cut the weights over more chips"
  return f"{where}: the largest batch that fits is {max(batches)}"


def batch_estimate(row: harness.Row) -> int:
  """Returns which batch may fit, without compiling it.

  As if all memory but that of the weights and the code grew with the batch. A
  power of two times the batch of the row, or 0.
  """
  weights = sum(
    row[f"{part}_gib"]
    for part in ("teacher", "student", "start", "optimizer", "code")
  )
  room = row["hbm_gib"] - weights
  if room <= 0:
    return 0
  times = room / (row["peak_gib"] - weights)
  return int(row["batch"] * 2.0 ** math.floor(math.log2(times)))


def failures(row: harness.Row) -> list[str]:
  """Returns what is wrong with a compiled config, in words."""
  found = {
    f"does not fit: {row.get('note', 'see peak_gib')}": not row.get(
      "fits", True
    ),
    f"gathered in the decode loop: {row.get('gathered')}": row.get("gathered"),
    "the training state is not donated": not row.get("donated", True),
    f"asks the host: {row.get('host_calls')}": row.get("host_calls"),
  }
  return [
    f"{row['config']} on {row['slice']}: {what}"
    for what, is_so in found.items()
    if is_so
  ]


def describe(row: harness.Row) -> str:
  """Returns a row as lines of name and value."""
  return "\n".join(
    f"  {name:<28} {harness.format_value(value)}"
    for name, value in row.items()
    if value is not None
  )
