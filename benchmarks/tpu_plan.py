"""Compiles a config for a TPU slice that is not there, and says if it fits.

  python -m benchmarks.tpu_plan [--search] [--quick]
  python -m benchmarks.tpu_plan --config=configs/wmt.py:gemma --topology=v5e:2x4
  python -m benchmarks.tpu_plan --config=... --platform=cpu --devices=8

The real rollout and train step of a config, at the sizes of the checkpoints
that it names, are compiled by the TPU compiler (`pip install -e .[tpu-plan]`,
x86 Linux, in an environment of its own), from shapes alone: no weight is read.
Without --config, all large configs are compiled for the slices that their
docstrings name, each within minutes. For each:

  memory       GiB on each chip: weights, optimizer, caches, temporaries; what
               the two programs need at most, their code included; whether the
               chip has it
  collectives  MiB that one run of each operation gives to a chip, in the loop
               of the rollout and outside
  proofs       inside the decode loop no weight and no cache is gathered; the
               state is donated; nothing is asked of the host
  seconds      the least by roofline, if every response has max_new_tokens
               tokens (benchmarks/roofline.py): a bound, no measurement

Caches and weights are counted by their shapes; the compiler's totals, which
pad them, are what must fit. The teacher is ready: its fine-tuning, and
evaluation, are other programs. --search doubles the batch until it does not
fit. Exits with 1 where a config does not fit or a proof fails.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence

import jax
import ml_collections
from absl import flags

import skd_jax.main  # noqa: F401 - defines --config.
from benchmarks import chips, columns, harness, plans, roofline
from configs import wmt

_TOPOLOGY = flags.DEFINE_string(
  "topology", None, "The slice: v5e:2x4, v5p:2x2x1, v4:..., v6e:..."
)
_PLATFORM = flags.DEFINE_enum(
  "platform", "tpu", ["tpu", "cpu"], "Whose compiler; cpu for a quick look."
)
_DEVICES = flags.DEFINE_integer("devices", 8, "With --platform=cpu: how many.")
_SEARCH = flags.DEFINE_bool("search", False, "Look for the largest batch.")


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
    row |= plans.compile_plan(plan)
  except plans.DoesNotFitError as error:
    return row | {"fits": False, "note": str(error)}
  machine = roofline.Machine(chip, **plan.run.mesh.shape)
  seconds = roofline.summary(machine.step(plan.work(replacement_rate)))
  available = chip.hbm_bytes / chips.GIB
  fits = row["peak_gib"] <= available
  libtpu = {"libtpu": harness.installed("libtpu")}
  return row | {"hbm_gib": available, "fits": fits} | seconds | libtpu


def cpu_row(
  name: str, config: ml_collections.ConfigDict, *, small: bool
) -> harness.Row:
  """Compiles a config for the devices of the CPU; see make_row."""
  devices = jax.devices()
  make = plans.make_small_plan if small else plans.make_plan
  plan = make(config, devices)
  row = {"config": name, "slice": f"cpu:{len(devices)}"}
  return row | plan.describe() | plans.compile_plan(plan)


def search(
  name: str,
  config: ml_collections.ConfigDict,
  topology: str,
  replacement_rate: float,
) -> list[harness.Row]:
  """Doubles the batch until it does not fit.

  Returns:
    A row for each batch; the last one does not fit. Microbatches keep the
    number of rows that the config gives them.
  """
  rows = []
  config = config.copy_and_resolve_references()
  while not rows or rows[-1]["fits"]:
    rows.append(make_row(name, config, topology, replacement_rate))
    print(describe(rows[-1]), flush=True)
    config.distill.batch_size *= 2
    config.distill.num_microbatches *= 2
  return rows


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


def _on_cpu(quick: bool) -> bool:
  return quick or _PLATFORM.value == "cpu"


def _compiler(quick: bool) -> str:
  return harness.device_name() if _on_cpu(quick) else "tpu-compiler"


def rows_from_flags(quick: bool) -> Sequence[harness.Row]:
  """Compiles what the command line asks for."""
  # libtpu, where it is installed, would look for a TPU.
  jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
  jax.config.update("jax_enable_compilation_cache", False)
  if _on_cpu(quick):
    jax.config.update("jax_num_cpu_devices", _DEVICES.value)
  if flags.FLAGS.config is None:
    wanted = [(s.name, s.config(), s.topology) for s in SHIPPED]
  elif _TOPOLOGY.value or _on_cpu(quick):
    wanted = [(flags.FLAGS.config.task, flags.FLAGS.config, _TOPOLOGY.value)]
  else:
    raise ValueError("topology = None: must be given with --config")
  rate, rows = roofline.REPLACEMENT_RATE.value, []
  for name, config, topology in wanted[: 1 if quick else None]:
    print(f"\n{name} on {topology or 'the CPU'}", flush=True)
    if _on_cpu(quick):
      rows.append(cpu_row(name, config, small=quick))
    elif _SEARCH.value:
      rows += search(name, config, topology, rate)
      continue
    else:
      rows.append(make_row(name, config, topology, rate))
    print(describe(rows[-1]), flush=True)
  wrong = [line for row in rows for line in failures(row)]
  if wrong and not _SEARCH.value:
    sys.exit("\n".join(wrong))
  return rows


if __name__ == "__main__":
  harness.run(
    "tpu_plan",
    rows_from_flags,
    device=_compiler,
    columns=columns.COLUMNS["tpu_plan"],
  )
