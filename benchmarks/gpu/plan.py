"""Does my config fit one GPU? Compiled for it, without the card.

  python -m benchmarks.gpu.plan [--quick]
  python -m benchmarks.gpu.plan --config=configs/wmt.py:gemma \\
    --config.mesh.tensor=1 --config.student.lora.rank=16 --gpu=h100

As benchmarks/tpu/plan.py, which says what the rows are; without seconds. The
card grants XLA 95 % of its memory, if XLA_PYTHON_CLIENT_MEM_FRACTION=.95 asks
for them. The library cuDNN is not there: what reads attention by it
(skd_jax/models/fused_attention.py) cannot be compiled.

Without --config, Gemma's pair is compiled for one L4 of 24 GB: an int8 teacher,
adapters for the student. --quick takes two layers of each model.
"""

import sys

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from benchmarks import harness
from benchmarks.gpu import target
from benchmarks.tpu import chips, plan, programs
from configs import wmt

_GPU = flags.DEFINE_enum("gpu", "l4", target.NAMES, "The card.")
_GRANTED = 0.95  # Of the memory of a card.
_QUICK_LAYERS = 2


def make_row(
  config: ml_collections.ConfigDict, gpu: str, layers: int = 0
) -> harness.Row:
  """Compiles a config for a GPU.

  Args:
    config: from a file in configs/.
    gpu: one of target.NAMES.
    layers: of both models; 0: all that they have.

  Returns:
    What programs.measure does, and whether the card has the memory.
  """
  made = programs.make_plan(config, target.devices(gpu), layers=layers)
  row = programs.measure(made)
  available = _GRANTED * target.memory_bytes(gpu) / chips.GIB
  return {
    "config": config.task,
    "slice": gpu,
    "batch": config.distill.batch_size,
    "microbatches": config.distill.num_microbatches,
    **row,
    "available_gib": available,
    "fits": row["peak_gib"] <= available,
  }


def one_card() -> ml_collections.ConfigDict:
  """Returns the pair of the paper, in a form that one card of 24 GB holds."""
  config = wmt.get_config("gemma")
  config.mesh.tensor = 1
  config.teacher.quantization = "int8"
  config.student.lora.rank = 16
  config.distill.update(batch_size=16, num_microbatches=4)
  return config


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Compiles what the command line asks for."""
  # Without a card, the plugin would say so and leave no device at all.
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_enable_compilation_cache", False)
  config = flags.FLAGS.config or one_card()
  row = make_row(config, _GPU.value, _QUICK_LAYERS if quick else 0)
  print(plan.describe(row), flush=True)
  wrong = plan.failures(row)
  if wrong and not quick:
    sys.exit("\n".join(wrong))
  return [row]


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "By default Gemma's pair.")
  harness.run(
    "gpu_plan",
    rows_from_flags,
    program="gpu.plan",
    result="gpu/plan.json",
    device=lambda quick: "gpu-compiler",
    is_whole=lambda: not flags.FLAGS.config,
  )
