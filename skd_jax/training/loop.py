"""The training loop around a step: log, checkpoint, resume, stop cleanly."""

import collections
import contextlib
import math
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import ml_collections
import tqdm
from absl import logging

from skd_jax import structs
from skd_jax.parallel import processes
from skd_jax.reporting import metric_log
from skd_jax.training import checkpoint, health

Metrics = Mapping[str, Any]
# (state, batch, step) -> (state, means, counts). Means are averaged over the
# steps between two lines of the log; counts are summed, also over the run.
StepFn = Callable[
  [structs.TrainState, structs.Batch, int],
  tuple[structs.TrainState, Metrics, Metrics],
]


class Interrupted(Exception):
  """The run was asked to stop, and has saved where it was."""


class Visit(Protocol):
  """Called with the state at chosen steps; what it returns is logged."""

  def __call__(self, state: structs.TrainState, step: int) -> Metrics: ...


def fit(
  step_fn: StepFn,
  state: structs.TrainState,
  batches: Any,
  config: ml_collections.ConfigDict,
  *,
  workdir: pathlib.Path,
  stage: str,
  seed: int,
  visits: Mapping[int, Visit],
) -> tuple[structs.TrainState, dict[str, float]]:
  """Runs `step_fn` until `config.num_steps`, from the newest checkpoint on.

  Args:
    step_fn: one step of training.
    state: the state before the first step.
    batches: iterator of Batch with get_state and set_state.
    config: a `config.fit_config`.
    workdir: checkpoints go to its checkpoints/STAGE_seed_SEED.
    stage: of the log.
    seed: of the log.
    visits: what to call once so many steps are done; 0: before the first.

  Returns:
    (the last state, the counts summed over the whole run).

  Raises:
    Interrupted: SIGINT or SIGTERM came, to any of the processes; the step in
      flight was finished and saved.
    FloatingPointError: the loss is not finite, or a divergence is negative.
  """
  folder = workdir / "checkpoints" / f"{stage}_seed_{seed}"
  with contextlib.ExitStack() as stack:
    manager = stack.enter_context(checkpoint.open_manager(folder))
    stop = stack.enter_context(_stop_signals())
    meter = _Meter()
    restored = checkpoint.restore(manager, state)
    if restored is not None:
      state, saved = restored
      batches.set_state(saved["batches"])
      meter.totals.update(saved["totals"])
      logging.info("%s: continues from step %d", stage, int(state.step))
    first = int(state.step)
    # Without a checkpoint, the line of step 0 is written anew as well.
    last_step = -1 if restored is None else first
    log = stack.enter_context(
      metric_log.open_metrics(
        workdir, stage=stage, seed=seed, last_step=last_step
      )
    )
    progress = stack.enter_context(
      contextlib.closing(_Progress(stage, first, config.num_steps))
    )
    if restored is None:
      progress.add(_visit(visits, state, first, log))
    for step in range(first, config.num_steps):
      state, means, counts = step_fn(state, next(batches), step)
      meter.add(means, counts)
      progress.step()
      done = step + 1
      is_stopped = processes.any_process(stop.is_set())
      last = done == config.num_steps or is_stopped
      due = _due(done, config.checkpoint_every_steps) or last
      if _due(done, config.log_every_steps) or due:
        line = meter.line()
        health.check_finite(line, stage, done, manager.latest_step())
        signs = {f"warning_{name}": 1 for name in health.signs(line)}
        log(done, line | signs)
        progress.show(line)
      # Before the save: what a checkpoint has behind it has been visited.
      progress.add(_visit(visits, state, done, log))
      if due:
        totals = dict(meter.totals)  # A copy: it is written in the background.
        checkpoint.save(
          manager, state, {"batches": batches.get_state(), "totals": totals}
        )
      if is_stopped and done < config.num_steps:
        raise Interrupted(f"stopped after step {done} of {stage!r}")
  return state, dict(meter.totals)


def merge_visits(*sources: Mapping[int, Visit]) -> dict[int, Visit]:
  """Joins visits by step; those of one step are made one after the other."""
  merged: dict[int, list[Visit]] = collections.defaultdict(list)
  for visits in sources:
    for step, visit in visits.items():
      merged[step].append(visit)

  def all_of(several: list[Visit]) -> Visit:
    def visit(state, step):
      scalars: dict[str, Any] = {}
      for one in several:
        scalars |= one(state, step)
      return scalars

    return visit

  return {step: all_of(several) for step, several in merged.items()}


def _visit(
  visits: Mapping[int, Visit],
  state: structs.TrainState,
  step: int,
  log: metric_log.LogMetrics,
) -> Metrics:
  scalars = visits[step](state, step) if step in visits else {}
  if scalars:
    log(step, scalars)
  return scalars


class _Progress:
  """The progress bar of the first process, with the newest of every number."""

  def __init__(self, stage: str, first: int, num_steps: int):
    self._shows = processes.is_first()
    self._bar = tqdm.tqdm(
      total=num_steps,
      initial=first,
      desc=stage,
      unit="step",
      disable=not self._shows,
    )
    self._watch = health.Watch(stage)
    self._newest: dict[str, float] = {}

  def step(self) -> None:
    """One more step is done."""
    self._bar.update()

  def add(self, line: Metrics) -> None:
    """Takes numbers, to be shown with the next line of the log."""
    self._newest |= line

  def show(self, line: Metrics) -> None:
    """Shows a line of the log, and warns of the trouble that it tells of."""
    self.add(line)
    self._bar.set_postfix_str(_short(self._newest))
    for warning in self._watch.warnings(line) if self._shows else ():
      tqdm.tqdm.write(f"Warning: {warning}")

  def close(self) -> None:
    """Leaves the bar as it is."""
    self._bar.close()


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


class _Meter:
  """Gathers what the steps return, for the log and over the whole run."""

  def __init__(self):
    self.totals: collections.Counter = collections.Counter()
    self._counts: collections.Counter = collections.Counter()
    self._means: list[Metrics] = []

  def add(self, means: Metrics, counts: Metrics) -> None:
    """Adds one step."""
    self._means.append(means)
    self._counts.update(counts)
    self.totals.update(counts)

  def line(self) -> dict[str, float]:
    """Sums up the steps since the last line: mean values and rates."""
    fetched = processes.to_host(self._means)
    line = {
      name: sum(float(means[name]) for means in fetched) / len(fetched)
      for name in fetched[0]
    }
    line["least_token_loss"] = min(
      float(means["least_token_loss"]) for means in fetched
    )
    line |= rates(self._counts)
    self._means, self._counts = [], collections.Counter()
    return line


def rates(counts: Metrics) -> dict[str, float]:
  """Turns the counts of rollouts into rates.

  Returns:
    replacement_rate: replaced tokens over ALL emitted tokens; like the next,
    only where a teacher judges.
    accepted_per_round: the student's tokens that stayed, per teacher pass.
    truncated: share of rollouts that reached the length limit.
    generated_tokens_per_s, and seconds_* of each part, and tokens_per_s of
    the whole step. Only what the counts allow. References are not counted as
    emitted, nor their rows as rollouts.
  """
  result = {k: v for k, v in counts.items() if k.startswith("seconds_")}
  seconds = sum(result.values())
  if seconds:
    result["tokens_per_s"] = counts["trained_tokens"] / seconds
  if counts.get("emitted"):
    emitted = counts["emitted"]
    result["truncated"] = counts["truncated"] / counts["rows"]
    result["generated_tokens_per_s"] = emitted / counts["seconds_generate"]
    if counts.get("rounds"):
      accepted = emitted - counts["replaced"]
      result["replacement_rate"] = counts["replaced"] / emitted
      result["accepted_per_round"] = accepted / counts["rounds"]
  return result


def _short(line: Mapping[str, float]) -> str:
  """The newest numbers for the progress bar, and the signs of trouble."""
  formats = {
    "loss": "loss {:.3f}",
    "kl": "kl {:.3f}",
    "replacement_rate": "replaced {:.1%}",
    "accepted_per_round": "{:.1f} a round",
    "truncated": "cut {:.0%}",
    # The student's mass on the teacher's best tokens, at the last validation.
    "held_out_student_top_mass": "mass {:.1%}",
  }
  shown = [text.format(line[k]) for k, text in formats.items() if k in line]
  shown += [f"WARNING {name}" for name in health.signs(line)]
  if math.isfinite(line.get("tokens_per_s", math.nan)):
    shown.append(f"{line['tokens_per_s']:.0f} tok/s")
  return ", ".join(shown)


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
  """Yields an event that the first SIGINT or SIGTERM sets.

  The second one acts as ever. Outside the main thread signals are left alone.
  """
  event = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield event
    return
  before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
  shows = processes.is_first()  # Not asked for inside a signal.

  def restore():
    for number, handler in before.items():
      signal.signal(number, handler)

  def on_signal(*_):
    if shows:
      tqdm.tqdm.write(
        "Finishing this step, then saving. Once more to quit now."
      )
    event.set()
    restore()

  for number in before:
    signal.signal(number, on_signal)
  try:
    yield event
  finally:
    restore()
