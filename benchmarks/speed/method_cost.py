"""What a training step of each method costs, in turns.

  python -m benchmarks.speed.method_cost --config=configs/wmt.py \\
    --workdir=workdir/compare [--methods=on_policy_kd,skd]

Runs that follow each other on a shared machine compare its hours as much as the
methods. Here all methods take their steps in turns: from the same student, the
start, at the same steps of the schedule, on the same prompts. Teacher and start
are those of a comparison in the same workdir, and are trained if there are
none. Every step is compiled before it is timed.

  seconds                of a step, the median; `generate`, `verify` (a pass of
                         the teacher of its own, if no rollout has it) and
                         `train` are its parts
  ratio_to_on_policy_kd  the median of the ratios, turn by turn

The start replaces more than the student that it becomes.
"""

import dataclasses
import functools
import pathlib
import statistics
from collections.abc import Callable, Sequence

import jax
from absl import flags
from ml_collections import config_flags

from benchmarks import harness
from skd_jax import comparison, comparison_runs, grids, messages, methods
from skd_jax.decoding import sampling
from skd_jax.distillation import prepare_distillation
from skd_jax.parallel import compilation, sharding
from skd_jax.training import generation, timing
from skd_jax.training.rollout_stats import trim_and_count

_STEPS = flags.DEFINE_integer(
  "steps", 5, "Batches, spread over the schedule.", lower_bound=1
)
_METHODS = flags.DEFINE_list(
  "methods", list(methods.METHODS), "Names of skd_jax/methods.py."
)
_BASELINE = "on_policy_kd"


def make_step(
  prepared: comparison_runs.Prepared, method: str, rate: float | None
) -> Callable[[int], dict[str, float]]:
  """Returns `step -> seconds and tokens` of a method, always from the start.

  Args:
    prepared: teacher and start.
    method: of skd_jax/methods.py.
    rate: of replacement, for a control.
  """
  config = methods.apply_method(prepared.experiment.config, method, rate)
  opened = dataclasses.replace(prepared.experiment, config=config)
  teacher = prepared.teacher
  made = prepare_distillation(opened, prepared.start, teacher)
  head = teacher.model.head_params(teacher.params)
  stream = opened.train_batches(config.distill, 0)
  batch_of = functools.cache(lambda step: next(stream))

  def step_once(step: int) -> dict[str, float]:
    batch = batch_of(step)
    state = jax.block_until_ready(made.train.init(prepared.start.params))
    rollout, parts = generation.generate_responses(
      made.spec,
      made.rollout_fn,
      teacher.model,
      made.train.params(state),
      teacher.params,
      batch,
      sampling.row_keys(0, step, batch.index),
      step,
      state.distance,
    )
    rollout, stats = trim_and_count(rollout, config.data.length_multiple)
    with timing.timed(parts, "train"):
      jax.block_until_ready(
        made.train.step(
          state, head if made.spec.uses_teacher else None, batch, rollout
        )
      )
    timed = {part: parts.get(part, 0.0) for part in timing.PARTS}
    return timed | {
      "seconds": sum(timed.values()),
      "emitted": stats.emitted if stats.rounds else 0,
      "replaced": stats.replaced if stats.rounds else 0,
    }

  return step_once


def make_rows(
  prepared: comparison_runs.Prepared, names: Sequence[str], num_steps: int
) -> list[harness.Row]:
  """Times the methods in turns.

  Args:
    prepared: teacher and start.
    names: of methods, with `on_policy_kd` and the method of each control.
    num_steps: turns.
  """
  last = prepared.experiment.config.distill.num_steps - 1
  steps = [round(i * last / max(num_steps - 1, 1)) for i in range(num_steps)]
  contestants: dict[str, Callable[[int], dict[str, float]]] = {}
  rates: dict[str, float] = {}
  for name in sorted(names, key=lambda name: name in methods.CONTROLS):
    rate = rates[methods.CONTROLS[name]] if name in methods.CONTROLS else None
    contestants[name] = make_step(prepared, name, rate)
    first = [contestants[name](step) for step in steps]
    emitted = sum(turn["emitted"] for turn in first)
    rates[name] = sum(turn["replaced"] for turn in first) / max(emitted, 1)
    print(f"{name}: compiled", flush=True)
  turns = [
    {name: once(step) for name, once in contestants.items()} for step in steps
  ]

  def row(name: str) -> harness.Row:
    def median(part):
      return statistics.median(turn[name][part] for turn in turns)

    ratios = [t[name]["seconds"] / t[_BASELINE]["seconds"] for t in turns]
    return {
      "what": name,
      "seconds": median("seconds"),
      "ratio_to_on_policy_kd": statistics.median(ratios),
      **{part: median(part) for part in timing.PARTS},
      "replacement_rate": rates[name] or None,
    }

  return [row(name) for name in names]


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Runs what the command line asks for.

  Raises:
    ValueError: bad settings, or on-policy KD is not among the methods.
  """
  compilation.keep_compiled()
  config, names = flags.FLAGS.config, _METHODS.value
  if _BASELINE not in names:
    raise ValueError(
      f"--methods={','.join(names)}: must be methods, with {_BASELINE!r}"
    )
  asked = comparison.open_comparison(
    methods.quick(config) if quick else config,
    flags.FLAGS.workdir,
    methods=names,
    # The lines of a comparison itself stay as they are.
    path=pathlib.Path(flags.FLAGS.workdir) / "method_cost.jsonl",
    command=messages.command_line("benchmarks.speed.method_cost"),
  )
  with jax.set_mesh(sharding.make_mesh(**asked.config.mesh)):
    prepared = comparison_runs.prepare(asked, grids.Start())
    return make_rows(prepared, names, _STEPS.value)


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "Of the comparison.")
  flags.DEFINE_string("workdir", "workdir/compare", "Of the comparison.")
  flags.mark_flag_as_required("config")
  harness.run(
    "method_cost",
    rows_from_flags,
    program="speed.method_cost",
    result="speed/{device}/method_cost.json",
  )
