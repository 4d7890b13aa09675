"""The loop around a training step: log, checkpoint, resume, stop cleanly.

  with open_loop(state, batches, ...) as loop:
    for step, batch in loop:
      ...                                  # a rollout, a train step
      loop.record(state, metrics, seconds, stats, (batch, rollout))
  loop.state, loop.totals

A run that is killed goes on from its newest checkpoint with the same batches,
and so ends with the same weights.
"""

import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from absl import logging

from skd_jax import structs
from skd_jax.parallel import processes
from skd_jax.reporting import boards, metric_log
from skd_jax.training import (
  checkpoint,
  failed_step,
  health,
  profiling,
  watchdog,
)
from skd_jax.training.cadence import Cadence, Watch, Wish
from skd_jax.training.progress import Progress, stop_signals
from skd_jax.training.rollout_stats import RolloutStats

Metrics = Mapping[str, Any]


class Interrupted(Exception):
  """The run was asked to stop, and has saved where it was."""


class Callback(Protocol):
  """Called with the state at chosen steps; what it returns is logged."""

  def __call__(self, state: structs.TrainState, step: int) -> Metrics: ...


Callbacks = Mapping[int, Callback]  # By step; 0: before the first.


@dataclasses.dataclass
class Totals:
  """What some steps came to: trained tokens, seconds by part, rollouts."""

  tokens: int = 0
  seconds: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  stats: RolloutStats = dataclasses.field(default_factory=RolloutStats)

  def add(self, other: "Totals") -> None:
    """Adds other steps."""
    self.tokens += other.tokens
    self.seconds.update(other.seconds)
    self.stats = self.stats + other.stats

  def rates(self) -> dict[str, float]:
    """Returns `RolloutStats.rates`, and what the clock allows.

    tokens_per_s: trained tokens over all seconds that did not compile;
    generated_tokens_per_s.
    """
    rates = self.stats.rates()
    seconds = sum(self.seconds.values()) - self.seconds["compile"]
    if seconds > 0:
      rates["tokens_per_s"] = self.tokens / seconds
    if self.stats.emitted and self.seconds["generate"]:
      rates["generated_tokens_per_s"] = (
        self.stats.emitted / self.seconds["generate"]
      )
    return rates

  def to_plain(self) -> dict[str, Any]:
    """Returns the totals as JSON can hold them."""
    return {
      "tokens": self.tokens,
      "seconds": dict(self.seconds),
      "rollouts": self.stats.to_plain(),
    }

  @classmethod
  def from_plain(cls, plain: Mapping[str, Any]) -> "Totals":
    """Reads what `to_plain` returned."""
    return cls(
      plain["tokens"],
      collections.Counter(plain["seconds"]),
      RolloutStats.from_plain(plain["rollouts"]),
    )


@contextlib.contextmanager
def open_loop(
  state: structs.TrainState,
  batches: Any,
  *,
  workdir: pathlib.Path,
  name: str,
  stage: str,
  seed: int,
  num_steps: int,
  cadence: Cadence,
  guards: health.Guards,
  callbacks: Callbacks | None = None,
  tracer: profiling.StepTracer | None = None,
  open_boards: Sequence[boards.OpenBoard] = (),
) -> Iterator["TrainLoop"]:
  """Opens the loop of one stage, at its newest checkpoint where there is one.

  Args:
    state: the state before the first step.
    batches: iterator of Batch with get_state and set_state.
    workdir: of the run.
    name: checkpoints go to WORKDIR/checkpoints/NAME.
    stage: of the log.
    seed: of the log.
    num_steps: where the loop ends.
    cadence: when it logs and saves.
    guards: what it is stopped for. A step that ends the run as its loss or
      gradient is not finite is kept in WORKDIR/failed_steps/NAME.
    callbacks: what to call once so many steps are done.
    tracer: of some steps.
    open_boards: where the log is shown as well, beside TensorBoard.

  Yields:
    The TrainLoop, to be iterated over once.

  Raises:
    OSError, ValueError: a checkpoint cannot be read or, after further tries,
      written.
    Interrupted: SIGINT or SIGTERM came, to any of the processes, or the time
      that the run must be saved by; the step in flight was finished and saved.
    FloatingPointError: the loss is not finite, or a divergence is negative.
    health.Collapsed: a sign of trouble that the guards stop at.
  """
  with contextlib.ExitStack() as stack:
    manager = stack.enter_context(
      checkpoint.open_manager(checkpoint.folder(workdir, name), cadence.kept)
    )
    stop = stack.enter_context(stop_signals())
    if tracer is not None:
      stack.callback(tracer.close)
    totals = Totals()
    restored = checkpoint.restore(manager, state)
    if restored is not None:
      state, saved = restored
      batches.set_state(saved["batches"])
      totals = Totals.from_plain(saved["totals"])
      logging.info("%s: continues from step %d", name, int(state.step))
    first = int(state.step)
    log: metric_log.LogMetrics = _log_nothing
    # Without a checkpoint, the line of step 0 is written again as well.
    last_step = -1 if restored is None else first
    if processes.is_first():
      log = stack.enter_context(
        metric_log.open_metric_log(
          workdir,
          stage=stage,
          seed=seed,
          last_step=last_step,
          open_boards=open_boards,
        )
      )
    progress = stack.enter_context(
      contextlib.closing(Progress(name, first, num_steps))
    )
    loop = TrainLoop(
      state=state,
      totals=totals,
      num_steps=num_steps,
      name=name,
      failed_folder=failed_step.folder(workdir, name),
      batches=batches,
      cadence=cadence,
      guards=guards,
      callbacks=callbacks or {},
      tracer=tracer,
      manager=manager,
      stop=stop,
      log=log,
      progress=progress,
    )
    if restored is None:
      loop.call_back(first)
    yield loop


@dataclasses.dataclass
class TrainLoop:
  """Yields (step, batch); `record` takes what the step came to."""

  state: structs.TrainState
  totals: Totals  # Of the whole stage, up to the last line of the log.
  num_steps: int
  name: str
  failed_folder: pathlib.Path
  batches: Any
  cadence: Cadence
  guards: health.Guards
  callbacks: Callbacks
  tracer: profiling.StepTracer | None
  manager: Any
  stop: Any
  log: metric_log.LogMetrics
  progress: Progress
  _metrics: list[Metrics] = dataclasses.field(default_factory=list)
  _since_line: Totals = dataclasses.field(default_factory=Totals)
  _skipped: int = 0  # Steps in a row.

  def __iter__(self) -> Iterator[tuple[int, structs.Batch]]:
    watch = Watch(self.cadence)
    first = int(self.state.step)
    for step in range(first, self.num_steps):
      # The first one compiles.
      minutes = self.guards.max_step_minutes if step > first else 0.0
      what = f"{self.name}, step {step + 1}"
      # To write a trace may take longer than a step.
      with (
        profiling.traced(self.tracer, step),
        watchdog.limited(minutes, what),
      ):
        yield step, next(self.batches)
      self.progress.step()
      done = step + 1
      is_due = self.cadence.saves(done) or done == self.num_steps
      if self.cadence.logs(done) or is_due:
        self._write_line(done)
      # Before the save: the callbacks of a saved step have been called.
      score = self.cadence.kept.score(self.call_back(done))
      wish = Wish.STOP if self.stop.is_set() else watch.wish()
      wish = processes.largest(wish)
      if is_due or wish or score is not None:
        # Where the stage ends, a save that fails is not left for later.
        is_last = done == self.num_steps or wish == Wish.STOP
        self._save(done, score, waits=is_last)
        watch.saved()
      if wish == Wish.STOP:
        raise Interrupted(f"Stopped after step {done} of {self.name!r}")
    if self.cadence.kept.result_is_best:
      self.state = checkpoint.restore_best(self.manager, self.state)

  def record(
    self,
    state: structs.TrainState,
    metrics: Metrics,
    seconds: Mapping[str, float],
    stats: RolloutStats | None = None,
    inputs: tuple[structs.Batch, structs.Rollout] | None = None,
  ) -> None:
    """Takes what a step came to; to be called once in each.

    Args:
      state: the state after it.
      metrics: of the train step, averaged over the steps between two lines of
        the log: loss, grad_norm, tokens, min_token_loss and what else there is.
      seconds: of its parts.
      stats: of its rollouts, if there were any.
      inputs: what it learned from, to be kept if the run ends with it.

    Raises:
      FloatingPointError: as open_loop.
    """
    self.state = state
    metrics = processes.to_host(metrics)
    self._skipped = 0 if health.is_finite(metrics) else self._skipped + 1
    if not 0 < self._skipped <= self.guards.max_skipped_steps:
      self._check(metrics, inputs)
    self._metrics.append(metrics)
    self._since_line.add(
      Totals(0, collections.Counter(seconds), stats or RolloutStats())
    )

  def call_back(self, step: int) -> Metrics:
    """Calls what is due at a step; logs and returns what that returns."""
    if step not in self.callbacks:
      return {}
    scalars = self.callbacks[step](self.state, step)
    if scalars:
      self._log_line(step, scalars)
    return scalars

  def _save(self, step: int, score: float | None, *, waits: bool) -> None:
    if self._metrics:  # Of a stop between two lines of the log.
      self._write_line(step)
    data = {
      "batches": self.batches.get_state(),
      "totals": self.totals.to_plain(),
    }
    checkpoint.save(self.manager, self.state, data, score=score, waits=waits)

  def _check(
    self,
    metrics: Metrics,
    inputs: tuple[structs.Batch, structs.Rollout] | None,
  ) -> None:
    """Ends the run with a step that makes no sense, and keeps the step."""
    step, failed = int(self.state.step), None
    if inputs and not health.is_finite(metrics):
      failed = self.failed_folder
      # A step that is not finite has left the weights as they were.
      failed_step.save(
        failed, failed_step.FailedStep(step, self.state.params, *inputs)
      )
    saved = self.manager.latest_step()
    health.check_finite(metrics, self.name, step, saved, failed)

  def _write_line(self, step: int) -> None:
    """Sums up the steps since the last line: mean values and rates."""
    kept = [m for m in self._metrics if health.is_finite(m)]
    line: dict[str, float] = {}
    if kept:
      line = {
        name: sum(float(metrics[name]) for metrics in kept) / len(kept)
        for name in kept[0]
      }
      line["min_token_loss"] = min(float(m["min_token_loss"]) for m in kept)
    if len(kept) < len(self._metrics):
      line["skipped_steps"] = len(self._metrics) - len(kept)
    since = self._since_line
    since.tokens = sum(int(metrics["tokens"]) for metrics in kept)
    self.totals.add(since)
    line |= {f"{name}_seconds": value for name, value in since.seconds.items()}
    line |= since.rates()
    histograms = since.stats.histograms()
    self._metrics, self._since_line = [], Totals()
    self._log_line(step, line, histograms)

  def _log_line(
    self, step: int, line: Metrics, histograms: Metrics | None = None
  ) -> None:
    """Logs numbers and their signs of trouble; ends the run if asked to."""
    signs = health.signs(line, self.guards.meant)
    warnings = {f"warning_{name}": 1 for name in signs}
    self.log(step, {**line, **warnings, **(histograms or {})})
    self.progress.show(line, signs)
    for name in self.guards.stops:
      if name in signs:
        raise health.Collapsed(
          f"{self.name}, step {step}: {signs[name]} stop_on_warnings has "
          f"{name!r}"
        )


def _log_nothing(step: int, scalars: Metrics) -> None:
  """The log of every process but the first."""


def merge_callbacks(*sources: Callbacks) -> Callbacks:
  """Joins callbacks by step; those of one step are called in order."""
  merged: dict[int, list[Callback]] = collections.defaultdict(list)
  for callbacks in sources:
    for step, callback in callbacks.items():
      merged[step].append(callback)
  return {step: _InOrder(several) for step, several in merged.items()}


@dataclasses.dataclass(frozen=True)
class _InOrder:
  """Several callbacks as one."""

  callbacks: list[Callback]

  def __call__(self, state: structs.TrainState, step: int) -> Metrics:
    scalars: dict[str, Any] = {}
    for callback in self.callbacks:
      scalars |= callback(state, step)
    return scalars
