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
               chip has it, and batch_estimate, the batch that may fit if all
               but the weights grows with it
  collectives  MiB that one run of each operation gives to a chip, in the loop
               of the rollout and outside
  proofs       inside the decode loop no weight and no cache is gathered; the
               state is donated; nothing is asked of the host
  seconds      the least by roofline, if every response has max_new_tokens
               tokens (benchmarks/roofline.py): a bound, no measurement

Caches and weights are counted by their shapes; the compiler's totals, which
pad them, are what must fit. The teacher is ready: its fine-tuning, and
evaluation, are other programs. --search compiles larger or smaller batches and
says which is the largest that fits. Exits with 1 where a config does not fit or
a proof fails. Without --config, the result goes to benchmarks/results; that of
one config to workdir/benchmarks.
"""

import os
import sys
from collections.abc import Sequence

import jax
from absl import flags
from ml_collections import config_flags

from benchmarks import columns, harness, shipped

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "One config; by default all large ones."
)
_TOPOLOGY = flags.DEFINE_string(
  "topology", None, "The slice: v5e:2x4, v5p:2x2x1, v4:..., v6e:..."
)
_PLATFORM = flags.DEFINE_enum(
  "platform", "tpu", ["tpu", "cpu"], "Whose compiler; cpu for a quick look."
)
_DEVICES = flags.DEFINE_integer("devices", 8, "With --platform=cpu: how many.")
_SEARCH = flags.DEFINE_bool("search", False, "Look for the largest batch.")
_REPLACEMENT_RATE = flags.DEFINE_float(
  "replacement_rate", 0.1, "For the seconds: tokens that the teacher replaces."
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
  if _CONFIG.value is None:
    wanted = [(s.name, s.config(), s.topology) for s in shipped.SHIPPED]
  elif _TOPOLOGY.value or _on_cpu(quick):
    wanted = [(_CONFIG.value.task, _CONFIG.value, _TOPOLOGY.value)]
  else:
    raise ValueError("topology = None: must be given with --config")
  rate, rows = _REPLACEMENT_RATE.value, []
  for name, config, topology in wanted[: 1 if quick else None]:
    print(f"\n{name} on {topology or 'the CPU'}", flush=True)
    if _on_cpu(quick):
      rows.append(shipped.cpu_row(name, config, small=quick))
    elif _SEARCH.value:
      found = shipped.search(name, config, topology, rate)
      print(f"\n{shipped.largest(found)}", flush=True)
      rows += found
      continue
    else:
      rows.append(shipped.make_row(name, config, topology, rate))
    print(shipped.describe(rows[-1]), flush=True)
  wrong = [line for row in rows for line in shipped.failures(row)]
  if wrong and not _SEARCH.value:
    sys.exit("\n".join(wrong))
  return rows


if __name__ == "__main__":
  harness.run(
    "tpu_plan",
    rows_from_flags,
    device=_compiler,
    is_whole=lambda: _CONFIG.value is None,
    columns=columns.COLUMNS["tpu_plan"],
  )
