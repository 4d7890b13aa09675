"""How near its limit is each part of a step? Counted without a TPU.

  python -m benchmarks.tpu.cycles                    all large configs
  python -m benchmarks.tpu.cycles --quick            two layers of the first
  python -m benchmarks.tpu.cycles --config=configs/wmt.py:gemma
    --topology=v5e:2x4 [--layers=8] [--programs=rollout]

Rollout and train step are compiled by libtpu from shapes, as in plan.py; one
such program can run at a time, for minutes. For each part of them, for one
round, one draft step and one chunk of the loss of each microbatch:

  schedule  cycles by what the compiler has scheduled, see schedule.py
  estimate  cycles by the cost model of XLA, several times too many for sums and
            small operations, and none for gathers, scatters and TopK
  hbm_mb    what is read and written in HBM
  limit     cycles by roofline.py: weights and the filled part of the cache read
            once, or the products at the peak rate
  of_limit  limit / schedule

With few layers, weights stay in the memory of the cores: the quick table shows
what changes, and no fraction of a limit. A test compares it with
benchmarks/results/tpu/cycles_quick.json, which --quick --json=FILE replaces.
"""

import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from benchmarks import harness
from benchmarks.tpu import (
  bundles,
  chips,
  listing,
  programs,
  roofline,
  schedule,
)
from benchmarks.tpu import plan as plan_lib
from skd_jax.losses import chunked

PROGRAMS = ("rollout", "train")
_NARROW = "HuggingFaceTB/SmolLM2-135M-Instruct"  # 3 groups of 64 numbers.
# Beside those of plan.py: another chip, many rows, narrow heads.
_MORE = (
  plan_lib.Large("gemma", "v6e:2x2", {"mesh.tensor": 4}),
  plan_lib.Large("qwen", "v6e:2x2"),
  plan_lib.Large(
    "gemma",
    "v5e:2x4",
    {"distill.batch_size": 32, "distill.num_microbatches": 4},
    label="32 rows",
  ),
  plan_lib.Large(
    "qwen",
    "v5e:1x1",
    {
      "mesh.tensor": 1,
      "teacher.checkpoint": _NARROW,
      "student.checkpoint": _NARROW,
    },
    label="SmolLM2-135M",
  ),
)
_QUICK_LAYERS = 2
# Half of what a run takes by default: a loss in one chunk is no loop, and is
# not told from what follows it.
_CHUNK = 1024


def count(
  plan: programs.Plan,
  chip: chips.Chip,
  dump: pathlib.Path,
  wanted: Sequence[str] = PROGRAMS,
) -> schedule.Costs:
  """Compiles a plan, and returns what the parts of its programs take.

  Args:
    plan: the run.
    chip: of its devices.
    dump: where libtpu writes bundles; see bundles.ask_for_bundles.
    wanted: of PROGRAMS.

  Raises:
    DoesNotFitError: the compiler says that the memory does not suffice.
  """
  found: schedule.Costs = {}
  *lowered, _ = programs.lower_programs(plan)
  for name, program in zip(PROGRAMS, lowered, strict=True):
    if name not in wanted:
      continue
    bundles.take_bundles(dump)  # Those of what was compiled on the way.
    text = programs.compile_program(program).as_text() or ""
    issued = bundles.take_bundles(dump)
    for part, cost in schedule.costs(
      listing.Program(text), issued, chip
    ).items():
      found[f"{part} of {name}" if part == schedule.OTHER else part] = cost
  return found


def limits(plan: programs.Plan, chip: chips.Chip) -> dict[str, float]:
  """Returns the least cycles of each part that roofline.py knows."""
  shape, config = plan.mesh.shape, plan.config
  machine = roofline.Machine(
    chip, shape["data"], shape["fsdp"], shape["tensor"]
  )
  work = plan_lib.work_of(config, plan.teacher.config, plan.student.config)
  parts = machine.step(work) | machine.train_parts(work)
  chunk = chunked.fitting_size(
    config.loss.chunk_size, plan.student.config.vocab_size, plan.mesh
  )
  chunks = work.num_microbatches * chunk
  once = {
    schedule.DRAFT_STEP: parts["draft"].times(
      1 / (work.rounds * work.num_draft_tokens)
    ),
    "verify": parts["verify"].times(1 / work.rounds),
    "refill": parts["prompts"],
    "hidden": parts["hidden"],
    "loss": parts["loss"].times(
      min(1.0, chunks / machine.response_tokens(work))
    ),
    "update": parts["update"],
  }
  return {
    name: max(part.memory, part.compute) * chip.clock_hz
    for name, part in once.items()
  }


def make_rows(
  name: str,
  config: ml_collections.ConfigDict,
  topology: str,
  layers: int,
  dump: pathlib.Path,
  wanted: Sequence[str] = PROGRAMS,
) -> list[harness.Row]:
  """Returns a row for each part of a config's programs.

  Args:
    name: of the config.
    config: from a file in configs/.
    topology: the slice.
    layers: of both models; 0: all.
    dump: as in `count`.
    wanted: of PROGRAMS.
  """
  chip, _ = chips.parse_topology(topology)
  plan = programs.make_plan(config, chips.tpu_devices(topology), layers=layers)
  limit = limits(plan, chip)
  return [
    {
      "config": name,
      "slice": topology,
      "layers": layers or "all",
      "part": part,
      "ops": cost.num_ops,
      "schedule": round(cost.schedule),
      "estimate": round(cost.estimate),
      "hbm_mb": cost.hbm_bytes / 1e6,
      "limit": round(limit[part]) if part in limit else None,
      "of_limit": limit[part] / cost.schedule if part in limit else None,
    }
    for part, cost in count(plan, chip, dump, wanted).items()
  ]


def rows_from_flags(quick: bool) -> Iterator[harness.Row]:
  """Yields the rows of what the command line asks for; all take two hours."""
  # libtpu, where it is installed, would look for a TPU.
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_enable_compilation_cache", False)
  wanted = [
    (large.name, large.config(), large.topology)
    for large in (*plan_lib.LARGE, *_MORE)
  ]
  given = flags.FLAGS.config
  if given is not None:
    wanted = [(given.task, given, flags.FLAGS.topology)]
  else:
    wanted = wanted[:1] if quick else wanted
    for _, config, _ in wanted:
      config.loss.chunk_size = _CHUNK
  if not all(topology for _, _, topology in wanted):
    raise ValueError("topology = None: must be a slice, such as v5e:2x4")
  layers = flags.FLAGS.layers or (_QUICK_LAYERS if quick else 0)
  with tempfile.TemporaryDirectory() as folder:
    dump = pathlib.Path(folder)
    bundles.ask_for_bundles(dump)
    for name, config, topology in wanted:
      yield from make_rows(
        name, config, topology, layers, dump, flags.FLAGS.programs
      )


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "One config.")
  flags.DEFINE_string("topology", None, "The slice: v5e:2x4, v5p:2x2x1 ...")
  flags.DEFINE_integer("layers", 0, "Of both models; 0: all.", lower_bound=0)
  flags.DEFINE_multi_enum("programs", PROGRAMS, PROGRAMS, "Those to compile.")
  harness.run(
    "tpu_cycles",
    rows_from_flags,
    program="tpu.cycles",
    result="tpu/cycles.json",
    device=lambda quick: "tpu-compiler",
    is_whole=lambda: (
      not (flags.FLAGS.config or flags.FLAGS.layers)
      and tuple(flags.FLAGS.programs) == PROGRAMS
    ),
  )
