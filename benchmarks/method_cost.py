"""What a training step of each method costs, in turns.

  python -m benchmarks.method_cost --config=configs/wmt.py \\
    --workdir=workdir/compare [--methods=on_policy_kd,skd]

Runs that follow each other on a shared machine compare its hours as much as the
methods. Here all methods take their steps in turns: from the same student, the
start, at the same steps of the schedule, on the same prompts. Teacher and start
are those of benchmarks/compare_methods.py in the same workdir, and are trained
where there are none. On --steps batches; compiled before.

  seconds                of a step, the median; `generate`, `verify` (a teacher
                         pass of its own, where no rollout has it) and `train`
                         are its parts
  ratio_to_on_policy_kd  the median of the ratios, turn by turn

The start replaces more than the student that it becomes.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

import jax
from absl import flags

from benchmarks import (
  columns,
  compare_methods,
  comparison_runs,
  grids,
  harness,
)
from skd_jax import methods, train
from skd_jax.parallel import compilation, sharding

_STEPS = flags.DEFINE_integer(
  "steps", 5, "Batches, spread over the schedule.", lower_bound=1
)
_BASELINE = "on_policy_kd"

# step -> (seconds by part, emitted and replaced tokens)
StepOnce = Callable[[int], dict[str, float]]


def make_step(
  prepared: comparison_runs.Prepared, method: str, rate: float | None
) -> StepOnce:
  """Returns `step -> counts` of a method, from the start each time.

  Args:
    prepared: teacher and start.
    method: of skd_jax/methods.py.
    rate: of replacement, for a control.
  """
  config = methods.apply(prepared.run.config, method, rate)
  run = dataclasses.replace(prepared.run, config=config)
  shared = train.prepare_distillation(run, prepared.start, prepared.teacher)
  step_fn = train.make_step_fn(run, shared, seed=0)
  batches = {}
  stream = run.train_batches(config.distill, 0)

  def step_once(step: int) -> dict[str, float]:
    if step not in batches:
      batches[step] = next(stream)
    state = jax.block_until_ready(shared.begin(prepared.start.params))
    _, _, counts = step_fn(state, batches[step], step)
    return counts

  return step_once


def make_rows(
  prepared: comparison_runs.Prepared, names: Sequence[str], num_steps: int
) -> list[harness.Row]:
  """Times the methods in turns.

  Args:
    prepared: teacher and start.
    names: of methods; `on_policy_kd` and what a control needs are among them.
    num_steps: turns.
  """
  last = prepared.run.config.distill.num_steps - 1
  steps = [round(i * last / max(num_steps - 1, 1)) for i in range(num_steps)]
  contestants: dict[str, StepOnce] = {}
  rates: dict[str, float] = {}
  for name in sorted(names, key=lambda name: name in methods.CONTROLS):
    rate = rates[methods.CONTROLS[name]] if name in methods.CONTROLS else None
    contestants[name] = make_step(prepared, name, rate)
    compiled = [contestants[name](step) for step in steps]
    rates[name] = _rate(compiled)
    print(f"{name}: compiled", flush=True)
  turns = [
    {name: once(step) for name, once in contestants.items()} for step in steps
  ]
  return [
    {
      "what": name,
      "seconds": statistics.median(_seconds(turn[name]) for turn in turns),
      "ratio_to_on_policy_kd": statistics.median(
        _seconds(turn[name]) / _seconds(turn[_BASELINE]) for turn in turns
      ),
      **{
        part: statistics.median(
          turn[name].get(f"seconds_{part}", 0.0) for turn in turns
        )
        for part in ("generate", "verify", "train")
      },
      "replacement_rate": rates[name] or None,
    }
    for name in names
  ]


def _seconds(counts: dict[str, float]) -> float:
  return sum(v for name, v in counts.items() if name.startswith("seconds_"))


def _rate(counts: Sequence[dict[str, float]]) -> float:
  emitted = sum(c["emitted"] for c in counts if c["rounds"])
  return sum(c["replaced"] for c in counts if c["rounds"]) / max(emitted, 1)


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Runs what the command line asks for; quick: tiny models.

  Raises:
    ValueError: bad settings, or on-policy KD is not among the methods.
  """
  compilation.keep_compiled()
  named = flags.FLAGS.methods
  asked = compare_methods.comparison_from_flags()
  names = [variant.name for variant in asked.variants]
  if _BASELINE not in names or flags.FLAGS.grid:
    raise ValueError(
      f"--methods={','.join(named)}: must be methods, with {_BASELINE!r}"
    )
  del quick  # comparison_from_flags has looked.
  # Nothing is kept in the comparison's own lines.
  asked = dataclasses.replace(asked, path=asked.workdir / "method_cost.jsonl")
  config = comparison_runs.fair(asked.config)
  with jax.set_mesh(sharding.make_mesh(**config.mesh)):
    prepared = comparison_runs.prepare(asked, config, grids.Start())
    return make_rows(prepared, names, _STEPS.value)


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  flags.FLAGS.set_default("methods", list(methods.METHODS))
  harness.run(
    "method_cost", rows_from_flags, columns=columns.COLUMNS["method_cost"]
  )
