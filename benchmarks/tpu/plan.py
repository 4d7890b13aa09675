"""Does my config fit a TPU slice? Compiled by the TPU compiler, without a TPU.

  python -m benchmarks.tpu.plan --config=configs/wmt.py:gemma --topology=v5e:2x4
  python -m benchmarks.tpu.plan --config=... --topology=... --search
  python -m benchmarks.tpu.plan [--quick]

The rollout and the train step of a config, at the sizes of the checkpoints that
it names, are compiled by libtpu (`pip install -e .[tpu-plan]`, x86 Linux, in an
environment of its own) from shapes alone. Without --config, all large configs
are compiled for the slices of their docstrings, each within minutes; --quick
compiles a small model for the CPU. For each:

  memory   GiB on each chip: weights, optimizer, caches, temporaries; the peak
           of the two programs, their code included; whether the chip has it
  checks   no weight and no cache is gathered inside the decode loop, the state
           is donated, nothing is asked of the host
  seconds  the roofline if every response has max_new_tokens tokens, of which
           one in ten is replaced: a bound, no measurement; of decoders

Weights and caches are counted by their shapes; the compiler's totals, which pad
them, must fit. The teacher's fine-tuning and evaluation are other programs.
--search doubles or halves the batch and says which is the largest that fits.
The exit code is 1 if a config does not fit or fails a check.
"""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from benchmarks import harness
from benchmarks.tpu import checkpoints, chips, programs, roofline
from configs import wmt
from skd_jax import models
from skd_jax.reporting import provenance

_REPLACEMENT_RATE = 0.1  # Assumed for the seconds.
_TEACHER_BYTES = {"": 2.0, "int8": 1.0, "int4": 0.625}  # A weight, and scales.


@dataclasses.dataclass(frozen=True)
class Large:
  """A large config and a slice, most of them of its docstring."""

  variant: str
  topology: str
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  label: str = ""  # What the changes are called.

  @property
  def name(self) -> str:
    """As on the command line, or the label in place of the changes."""
    changed = [f"{field}={value}" for field, value in self.changes.items()]
    label = [self.label] if self.label else changed
    return " ".join([f"wmt.py:{self.variant}", *label])

  def config(self) -> ml_collections.ConfigDict:
    """Returns the config."""
    config = wmt.get_config(self.variant)
    config.update_from_flattened_dict(self.changes)
    return config


LARGE = (
  Large("gemma", "v5e:2x4"),
  Large("gemma", "v5p:2x2x1", {"mesh.tensor": 4}),
  Large("gemma2", "v5e:2x4"),
  *(Large(variant, "v5e:2x2") for variant in ("qwen", "qwen3", "llama")),
)


def make_row(
  name: str, config: ml_collections.ConfigDict, topology: str | None
) -> harness.Row:
  """Compiles a config for a slice.

  Args:
    name: of the config.
    config: from a file in configs/.
    topology: the slice; None: a small model for the devices of the CPU.

  Returns:
    See the module; `fits` is False, and `note` says why, if the compiler
    refuses it.
  """
  devices = chips.tpu_devices(topology) if topology else jax.devices()
  plan = programs.make_plan(config, devices, small=not topology)
  distill = plan.config.distill
  row: harness.Row = {
    "config": name,
    "slice": topology or f"cpu:{len(devices)}",
    "mesh": "x".join(str(n) for n in plan.mesh.shape.values()),
    "batch": distill.batch_size,
    "microbatches": distill.num_microbatches,
    "teacher_params": checkpoints.num_params(plan.teacher.config),
    "student_params": checkpoints.num_params(plan.student.config),
  }
  try:
    row |= programs.measure(plan)
  except programs.DoesNotFitError as error:
    return row | {"fits": False, "note": str(error)}
  if not topology:
    return row
  available = chips.parse_topology(topology)[0].hbm_bytes / chips.GIB
  row |= {"hbm_gib": available, "fits": row["peak_gib"] <= available}
  if isinstance(plan.student.config, models.EncoderDecoderConfig):
    return row  # The roofline knows no encoder.
  return row | step_seconds(config, topology)


def step_seconds(
  config: ml_collections.ConfigDict, topology: str
) -> harness.Row:
  """Returns the roofline of a step with the longest prompts and responses."""
  chip, shape = chips.parse_topology(topology)
  teacher, student = checkpoints.load_pair(
    config.teacher.checkpoint, config.student.checkpoint
  )
  work = work_of(config, teacher, student)
  fsdp, tensor = config.mesh.fsdp, config.mesh.tensor
  data = math.prod(shape) // (fsdp * tensor)
  machine = roofline.Machine(chip, data, fsdp, tensor)
  return roofline.summary(machine.step(work))


def work_of(
  config: ml_collections.ConfigDict,
  teacher: models.ModelConfig,
  student: models.ModelConfig,
) -> roofline.Work:
  """Returns a step with the longest prompts and responses."""
  return roofline.Work(
    student=student,
    teacher=teacher,
    rows=config.distill.batch_size,
    prompt_tokens=config.data.max_prompt_length,
    response_tokens=config.data.max_new_tokens,
    num_draft_tokens=config.rollout.num_draft_tokens,
    replacement_rate=_REPLACEMENT_RATE,
    num_microbatches=config.distill.num_microbatches,
    remat=config.student.remat,
    teacher_bytes=_TEACHER_BYTES[config.teacher.quantization],
    trains_adapters=config.student.lora.rank > 0,
  )


def search(
  name: str, config: ml_collections.ConfigDict, topology: str
) -> list[harness.Row]:
  """Doubles the batch until it does not fit, or halves it until it does.

  Microbatches keep the number of rows that the config gives them.

  Returns:
    A row for each batch.
  """
  config = config.copy_and_resolve_references()
  fit, mesh = config.distill, config.mesh
  smallest = max(mesh.data, 1) * mesh.fsdp
  rows = [make_row(name, config, topology)]
  fits = rows[0]["fits"]
  while rows[-1]["fits"] == fits and (fits or fit.batch_size // 2 >= smallest):
    print(describe(rows[-1]), flush=True)
    for field in ("batch_size", "num_microbatches"):
      fit[field] = fit[field] * 2 if fits else max(1, fit[field] // 2)
    rows.append(make_row(name, config, topology))
  return rows


def largest(rows: Sequence[harness.Row]) -> str:
  """Says what a search has found."""
  batches = [row["batch"] for row in rows if row["fits"]]
  where = f"{rows[0]['config']} on {rows[0]['slice']}"
  if not batches:
    return f"{where}: no batch fits; shard the weights over more chips"
  return f"{where}: the largest batch that fits is {max(batches)}"


def failures(row: harness.Row) -> list[str]:
  """Returns what is wrong with a compiled config, in words."""
  found = []
  if not row.get("fits", True):
    found.append(f"does not fit: {row.get('note', 'see peak_gib')}")
  if row.get("gathered"):
    found.append(f"gathered in the decode loop: {row['gathered']}")
  if not row.get("donated", True):
    found.append("the training state is not donated")
  if row.get("host_calls"):
    found.append(f"asks the host: {row['host_calls']}")
  return [f"{row['config']} on {row['slice']}: {what}" for what in found]


def describe(row: harness.Row) -> str:
  """Returns a row as lines of name and value."""
  return "\n".join(
    f"  {name:<28} {harness.format_value(value)}"
    for name, value in row.items()
    if value is not None
  )


def rows_from_flags(quick: bool) -> Sequence[harness.Row]:
  """Compiles what the command line asks for."""
  # libtpu, where it is installed, would look for a TPU.
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_enable_compilation_cache", False)
  wanted = [(large.name, large.config(), large.topology) for large in LARGE]
  given = flags.FLAGS.config
  if given is not None:
    wanted = [(given.task, given, flags.FLAGS.topology)]
  if quick:
    jax.config.update("jax_num_cpu_devices", 8)
    wanted = [(name, config, None) for name, config, _ in wanted[:1]]
  elif not all(topology for _, _, topology in wanted):
    raise ValueError("topology = None: must be a slice, such as v5e:2x4")
  rows: list[harness.Row] = []
  for name, config, topology in wanted:
    print(f"\n{name} on {topology or 'the CPU'}", flush=True)
    if flags.FLAGS.search and topology:
      found = search(name, config, topology)
      print(f"\n{largest(found)}", flush=True)
    else:
      found = [make_row(name, config, topology)]
      print(describe(found[0]), flush=True)
    rows += found
  wrong = [line for row in rows for line in failures(row)]
  if wrong and not flags.FLAGS.search:
    sys.exit("\n".join(wrong))
  return rows


if __name__ == "__main__":
  config_flags.DEFINE_config_file(
    "config", None, "One config; by default all large ones."
  )
  flags.DEFINE_string(
    "topology", None, "The slice: v5e:2x4, v5p:2x2x1, v4:..., v6e:..."
  )
  flags.DEFINE_bool("search", False, "Look for the largest batch.")
  harness.run(
    "tpu_plan",
    rows_from_flags,
    program="tpu.plan",
    result="tpu/plan.json",
    device=lambda quick: provenance.device_name() if quick else "tpu-compiler",
    is_whole=lambda: not (flags.FLAGS.config or flags.FLAGS.search),
  )
