"""How many kernels does a GPU start for a token? Counted without a GPU.

  python -m benchmarks.gpu.kernels [--quick]

The rollouts of large configs, with 8 rows, are compiled from shapes for an H100
as h100.txtpb has it; see target.py for the compiler.

  kernels  of one draft step or of one verification, each loop times its trips,
           both branches of a condition

A kernel is a fusion, a copy, or a call of a library. Without the card nothing
is tuned: there, a product may be a call of cuBLAS in place of a fusion.
"""

import collections
import re

import jax
import ml_collections

from benchmarks import harness
from benchmarks.gpu import target
from benchmarks.tpu import listing, programs, schedule
from configs import wmt

_FREE = frozenset(
  ("parameter", "constant", "get-tuple-element", "tuple", "bitcast")
)
_PARTS = (schedule.DRAFT_STEP, "verify", "commit")
_QUICK_LAYERS = 2


def count(program: listing.Program) -> dict[str, int]:
  """Returns the kernels of each part of a program, by the name of the part."""
  total: collections.Counter[str] = collections.Counter()

  def add(name: str, times: int) -> None:
    part = ""
    for op in program.computations[name].values():
      part = schedule.part_of(op, part)
      if op.opcode == "while":
        add(op.called("body"), times * _trips(op))
      elif op.opcode == "conditional":
        for branch in op.branches():
          add(branch, times)
      elif op.opcode not in _FREE:
        total[part] += times

  add(program.entry, 1)
  return dict(total)


def _trips(loop: listing.Op) -> int:
  """Returns how often a loop runs; 1 where the program does not say it."""
  found = re.search(r'known_trip_count[\\":{n]+(\d+)', loop.line)
  return int(found[1]) if found else 1


def make_rows(
  name: str, config: ml_collections.ConfigDict, layers: int
) -> list[harness.Row]:
  """Returns a row for each part of a round.

  Args:
    name: of the config.
    config: from a file in configs/; its mesh is one device.
    layers: of both models; 0: all.
  """
  print(name, flush=True)
  plan = programs.make_plan(config, target.devices("h100"), layers=layers)
  rollout, _, _ = programs.lower_programs(plan)
  text = programs.compile_program(rollout).as_text() or ""
  kernels = count(listing.Program(text))
  return [
    {
      "config": name,
      "layers": layers or plan.student.config.num_layers,
      "part": part,
      "kernels": kernels.get(part, 0),
    }
    for part in _PARTS
  ]


def large_configs() -> dict[str, ml_collections.ConfigDict]:
  """Returns the configs by name, for one device."""
  found = {name: wmt.get_config(name) for name in ("gemma", "qwen")}
  for config in found.values():
    config.mesh.tensor = 1
    # Longer sequences would be read by cuDNN, which is not there.
    config.data.update(max_prompt_length=96, max_new_tokens=128)
    config.distill.update(batch_size=8, num_microbatches=1)
  return {f"wmt.py:{name}": config for name, config in found.items()}


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Compiles what the command line asks for."""
  # Without a card, the plugin would say so and leave no device at all.
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_enable_compilation_cache", False)
  layers = _QUICK_LAYERS if quick else 0
  return [
    row
    for name, config in large_configs().items()
    for row in make_rows(name, config, layers)
  ]


if __name__ == "__main__":
  harness.run(
    "gpu_kernels",
    rows_from_flags,
    program="gpu.kernels",
    result="gpu/kernels.json",
    device=lambda quick: "gpu-compiler",
  )
