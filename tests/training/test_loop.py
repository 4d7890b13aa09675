"""The loop around a step: log, save, resume, stop."""

import collections
import contextlib
import json
import math
import os
import signal
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import structs
from skd_jax.parallel.sharding import make_mesh
from skd_jax.training import (
  cadence,
  checkpoint,
  failed_step,
  loop,
  profiling,
  watchdog,
)
from skd_jax.training.cadence import Cadence
from skd_jax.training.generation import reference_rollout
from skd_jax.training.health import Collapsed, Guards
from skd_jax.training.rollout_stats import RolloutStats
from tests.conftest import make_batch


class Numbers:
  """Batches 0, 1, 2, ... with a position, like a grain iterator."""

  def __init__(self):
    self._next = 0

  def __next__(self):
    self._next += 1
    return self._next - 1

  def get_state(self):
    return {"next": self._next}

  def set_state(self, state):
    self._next = state["next"]


def _start():
  return structs.TrainState(
    step=jnp.int32(0),
    params={"w": jnp.zeros(2, jnp.float32)},
    opt_state={"sum": jnp.float32(0)},
  )


def _step_fn(fail_at=None, fail=None, stats=None, **metrics):
  """A step whose result depends on state, batch and step.

  Before the step `fail_at` is done, `fail` is called; `metrics` overrides what
  is measured in it. `stats` are those of the rollouts of every step.
  """

  def step_fn(state, batch, step):
    at_fault = step == fail_at
    if at_fault and fail:
      fail()
    state = structs.TrainState(
      step=state.step + 1,
      params={"w": state.params["w"] * 0.5 + jnp.float32([batch, step])},
      opt_state={"sum": state.opt_state["sum"] + batch * (step + 1)},
    )
    measured = {"loss": 1.0 + batch, "grad_norm": 1.0, "min_token_loss": 0.0}
    measured |= {"tokens": 10 + batch} | (metrics if at_fault else {})
    return state, measured, {"generate": 1.0, "train": 0.5}, stats

  return step_fn


def _fit(workdir, step_fn, callbacks=None, **changes):
  """Runs the loop to its end; returns (the last state, the totals)."""
  fields = {"log_every_steps": 1, "checkpoint_every_steps": 2}
  fields |= {k: changes.pop(k) for k in vars(Cadence(1)) if k in changes}
  guards = {k: changes.pop(k) for k in vars(Guards()) if k in changes}
  with loop.open_loop(
    _start(),
    Numbers(),
    workdir=workdir,
    name="distill_seed_3",
    stage="distill",
    seed=3,
    callbacks=callbacks,
    cadence=Cadence(**fields),
    guards=Guards(**guards),
    **{"num_steps": 7} | changes,
  ) as training:
    for step, batch in training:
      training.record(*step_fn(training.state, batch, step))
  return training.state, training.totals


def _logged(workdir):
  lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
  return [json.loads(line) for line in lines]


def _assert_same(ours, theirs):
  (state, totals), (other, other_totals) = ours, theirs
  assert int(state.step) == int(other.step)
  np.testing.assert_array_equal(state.params["w"], other.params["w"])
  np.testing.assert_array_equal(state.opt_state["sum"], other.opt_state["sum"])
  assert totals == other_totals


class _Killed(Exception):
  pass


def _kill():
  raise _Killed


def _interrupt():
  os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The result of a run that nothing disturbs, and its log."""
  workdir = tmp_path_factory.mktemp("whole")
  return _fit(workdir, _step_fn()), _logged(workdir)


def test_undisturbed_run_counts_and_logs_every_step(whole):
  (state, totals), log = whole
  assert int(state.step) == 7
  assert totals.tokens == 7 * 10 + 21
  assert totals.seconds == {"generate": 7.0, "train": 3.5}
  assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6, 7]
  assert [line["loss"] for line in log] == [1, 2, 3, 4, 5, 6, 7]
  assert {(line["stage"], line["seed"]) for line in log} == {("distill", 3)}
  # Trained tokens over the seconds of the step.
  assert log[0]["tokens_per_s"] == 10 / 1.5
  assert (log[0]["generate_seconds"], log[0]["train_seconds"]) == (1.0, 0.5)


@pytest.mark.parametrize("killed_at", [1, 2, 5, 6])
def test_killed_run_resumes_exactly(tmp_path, whole, killed_at):
  with pytest.raises(_Killed):
    _fit(tmp_path, _step_fn(killed_at, _kill))
  seen = []

  def watched(state, batch, step):
    seen.append(step)
    return _step_fn()(state, batch, step)

  _assert_same(_fit(tmp_path, watched), whole[0])
  # From the checkpoint of every second step on.
  assert seen == list(range(killed_at // 2 * 2, 7))
  steps = [line["step"] for line in _logged(tmp_path)]
  assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_finished_run_is_not_run_again(tmp_path, whole):
  _fit(tmp_path, _step_fn())
  _assert_same(_fit(tmp_path, _step_fn(None)), whole[0])
  again = _fit(tmp_path, lambda *_: _kill())
  _assert_same(again, whole[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_finishes_its_step_saves_and_continues(
  tmp_path, whole, number
):
  before = signal.getsignal(number)
  stop = _step_fn(4, lambda: os.kill(os.getpid(), number))
  with pytest.raises(loop.Interrupted, match="step 5 of 'distill_seed_3'"):
    # No checkpoint is due: the last one is written because of the signal.
    _fit(tmp_path, stop, checkpoint_every_steps=0)
  assert signal.getsignal(number) is before
  assert [line["step"] for line in _logged(tmp_path)] == [1, 2, 3, 4, 5]
  seen = []

  def watched(state, batch, step):
    seen.append(step)
    return _step_fn()(state, batch, step)

  _assert_same(_fit(tmp_path, watched), whole[0])
  assert seen == [5, 6]
  assert [line["step"] for line in _logged(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


class _Clock:
  """Stands still but for what a step takes, in seconds."""

  def __init__(self, monkeypatch, seconds):
    self.now, self._seconds = 1000.0, seconds
    now = lambda: self.now  # noqa: E731
    clocks = types.SimpleNamespace(time=now, monotonic=now)
    monkeypatch.setattr(cadence, "time", clocks)

  def step_fn(self, *arguments):
    self.now += self._seconds
    return _step_fn()(*arguments)


def test_run_that_must_be_saved_by_a_time_stops_a_step_before(
  tmp_path, whole, monkeypatch
):
  clock = _Clock(monkeypatch, seconds=100.0)
  # After step 3 another one would end at 1,400, and 60 s are for the save.
  with pytest.raises(loop.Interrupted, match="step 3 of 'distill_seed_3'"):
    _fit(tmp_path, clock.step_fn, checkpoint_every_steps=0, must_save_by=1455.0)
  assert _fit(tmp_path, _step_fn())[1].tokens == whole[0][1].tokens


def test_run_is_saved_by_the_clock_as_well(tmp_path, monkeypatch):
  clock = _Clock(monkeypatch, seconds=50.0)
  saved = []
  save = checkpoint.save

  def watched(manager, state, data, **settings):
    saved.append(int(state.step))
    save(manager, state, data, **settings)

  monkeypatch.setattr(checkpoint, "save", watched)
  _fit(
    tmp_path,
    clock.step_fn,
    checkpoint_every_steps=0,
    checkpoint_every_minutes=2.0,
  )
  assert saved == [3, 6, 7]


@pytest.mark.parametrize("killed_at", [None, 3, 6])
@pytest.mark.parametrize(
  ("metric", "best"), [("bleu", 3), ("-bleu", 5), ("kl", 5)]
)
def test_stage_may_end_with_its_best_checkpoint(
  tmp_path, metric, best, killed_at
):
  scores = {1: math.nan, 3: 9.0, 5: 2.0}

  def validate(state, step):
    assert int(state.step) == step
    return {"validation_bleu": scores[step], "validation_kl": step}

  def fit(step_fn, **changes):
    return _fit(
      tmp_path,
      step_fn,
      dict.fromkeys(scores, validate),
      checkpoint_every_steps=2,
      kept=cadence.Kept(last=1, best=1, metric=metric, **changes),
    )

  if killed_at is not None:
    with pytest.raises(_Killed):
      fit(_step_fn(fail_at=killed_at, fail=_kill), result_is_best=True)
  (state, totals), again = (
    fit(_step_fn(), result_is_best=True) for _ in range(2)
  )
  assert int(state.step) == best
  assert totals.tokens == 7 * 10 + 21  # Of all steps, as the log has them.
  _assert_same((state, totals), again)
  assert int(fit(_step_fn())[0].step) == 7


def test_second_signal_acts_at_once(tmp_path):
  def twice():
    _interrupt()
    _interrupt()

  with pytest.raises(KeyboardInterrupt):
    _fit(tmp_path, _step_fn(1, twice))


def test_signal_in_the_last_step_interrupts_and_keeps_all(tmp_path, whole):
  # What would come after this stage is not begun.
  with pytest.raises(loop.Interrupted, match="step 7 of 'distill_seed_3'"):
    _fit(tmp_path, _step_fn(6, _interrupt))
  _assert_same(_fit(tmp_path, lambda *_: _kill()), whole[0])


@pytest.mark.parametrize("step", [2, 3, 7])
def test_signal_in_a_callback_interrupts_after_saving(tmp_path, whole, step):
  seen = []
  callbacks = _callbacks(seen, 0, 2, 3, 7)
  interrupted = callbacks | {step: lambda *_: _interrupt() or {"score": 5.0}}
  with pytest.raises(loop.Interrupted, match=f"step {step} of"):
    _fit(tmp_path, _step_fn(), interrupted)
  first = list(seen)
  _assert_same(_fit(tmp_path, _step_fn(), callbacks), whole[0])
  # Neither the interrupted one nor another one is called again.
  assert seen == [n for n in (0, 2, 3, 7) if n != step]
  assert first == [n for n in (0, 2, 3, 7) if n < step]
  log = _logged(tmp_path)
  assert [x["step"] for x in log if "score" in x] == [step]


def _nan_at(*steps):
  """A step function whose gradient is not finite at some steps."""

  def step_fn(state, batch, step):
    fault = {"grad_norm": math.nan} if step in steps else {}
    return _step_fn(step, **fault)(state, batch, step)

  return step_fn


@pytest.mark.parametrize("log_every", [1, 7])
def test_steps_that_are_not_finite_may_be_skipped(tmp_path, log_every):
  _fit(
    tmp_path,
    _nan_at(2, 3, 5),
    log_every_steps=log_every,
    checkpoint_every_steps=0,
    max_skipped_steps=2,
  )
  log = _logged(tmp_path)
  assert sum(line.get("skipped_steps", 0) for line in log) == 3
  assert all(math.isfinite(line.get("grad_norm", 0.0)) for line in log)


def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path):
  with pytest.raises(FloatingPointError, match="step 5: grad_norm is nan"):
    _fit(tmp_path, _nan_at(2, 3, 4), max_skipped_steps=2)


def _mesh():
  return make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])


@pytest.fixture
def inputs():
  return make_batch([[3], [4, 5]], references=[[7, 2], [9]])


@pytest.mark.parametrize(("max_skipped_steps", "last"), [(0, 2), (2, 4)])
def test_step_that_ends_a_run_is_kept_as_it_began(
  tmp_path, inputs, max_skipped_steps, last
):
  seen = {}

  def step_fn(state, batch, step):
    # As the train step does, it learns nothing of what is not finite.
    seen[step] = state.params
    after, metrics, *rest = _nan_at(2, 3, 4)(state, batch, step)
    if step in (2, 3, 4):
      after = after.replace(params=state.params)
    shifted = inputs.replace(index=inputs.index + step)
    return after, metrics, *rest, (shifted, reference_rollout(shifted))

  with pytest.raises(FloatingPointError) as caught:
    _fit(tmp_path, step_fn, max_skipped_steps=max_skipped_steps)
  path = tmp_path / "failed_steps" / "distill_seed_3"
  assert f"`python -m skd_jax.replay {path}` shows" in str(caught.value)
  found = failed_step.read(path, _start().params, _mesh())
  assert found.step == last + 1
  np.testing.assert_array_equal(found.params["w"], seen[last]["w"])
  np.testing.assert_array_equal(found.batch.index, inputs.index + last)


def test_negative_divergence_keeps_no_step(tmp_path, inputs):
  def step_fn(*arguments):
    kept = inputs, reference_rollout(inputs)
    return *_step_fn(1, min_token_loss=-1.0)(*arguments), kept

  with pytest.raises(FloatingPointError, match="never negative"):
    _fit(tmp_path, step_fn)
  assert not (tmp_path / "failed_steps").exists()


def test_every_step_but_the_first_has_a_limit_and_no_callback_has(
  tmp_path, monkeypatch
):
  limits, inside = [], []

  @contextlib.contextmanager
  def limited(minutes, what):
    limits.append((minutes, what))
    inside.append(what)
    yield
    inside.pop()

  monkeypatch.setattr(watchdog, "limited", limited)

  def step_fn(*arguments):
    assert inside
    return _step_fn()(*arguments)

  def callback(state, step):
    assert not inside
    return {}

  _fit(tmp_path, step_fn, {2: callback}, max_step_minutes=5.0, num_steps=3)
  assert limits == [
    (0.0, "distill_seed_3, step 1"),
    (5.0, "distill_seed_3, step 2"),
    (5.0, "distill_seed_3, step 3"),
  ]


def test_step_that_raises_is_not_taken_for_stuck(tmp_path, monkeypatch):
  given_up = []
  monkeypatch.setattr(watchdog, "_give_up", lambda *_: given_up.append(1))
  with pytest.raises(_Killed):
    _fit(tmp_path, _step_fn(2, _kill), max_step_minutes=0.5 / 60)
  time.sleep(1.0)
  assert not given_up


def test_writing_a_trace_is_no_part_of_a_step(tmp_path, monkeypatch):
  events = []

  def noting(name):
    @contextlib.contextmanager
    def block(*_):
      events.append(name)
      yield
      events.append(f"end of {name}")

    return block

  monkeypatch.setattr(watchdog, "limited", noting("limit"))
  monkeypatch.setattr(profiling, "traced", noting("trace"))
  _fit(tmp_path, _step_fn(), num_steps=1)
  assert events == ["trace", "limit", "end of limit", "end of trace"]


def test_run_that_collapses_is_stopped_if_asked(tmp_path):
  endless = RolloutStats(rows=4, emitted=36, truncated=4)
  _fit(tmp_path / "warned", _step_fn(stats=endless))
  assert _logged(tmp_path / "warned")[0]["warning_endless"] == 1
  with pytest.raises(Collapsed, match="step 1: 100% of the responses reach"):
    _fit(tmp_path / "w", _step_fn(stats=endless), stops=("gap", "endless"))


def test_collapse_that_a_validation_shows_is_warned_of_and_stops(tmp_path):
  def validate(state, step):
    return {
      "validation_teacher_entropy": 1.5,
      "validation_student_entropy": 0.01,
    }

  _fit(tmp_path / "warned", _step_fn(), {4: validate})
  warned = [x for x in _logged(tmp_path / "warned") if "warning_peaked" in x]
  assert [(x["step"], x["validation_student_entropy"]) for x in warned] == [
    (4, 0.01)
  ]
  with pytest.raises(Collapsed, match="step 4: on the validation set"):
    _fit(tmp_path / "w", _step_fn(), {4: validate}, stops=("peaked",))


@pytest.mark.parametrize(
  ("fault", "said"),
  [
    ({"loss": math.nan}, "loss is nan"),
    ({"grad_norm": math.inf}, "grad_norm is inf"),
    ({"min_token_loss": -1e-3}, "never negative"),
  ],
)
def test_meaningless_loss_stops_and_keeps_the_last_good_checkpoint(
  tmp_path, whole, fault, said
):
  with pytest.raises(FloatingPointError, match=said) as caught:
    _fit(tmp_path, _step_fn(5, **fault))
  assert "checkpoint of step 4 is kept" in str(caught.value)
  _assert_same(_fit(tmp_path, _step_fn()), whole[0])


def test_fault_between_two_log_lines_is_never_saved(tmp_path):
  with pytest.raises(FloatingPointError, match="step 2 is kept"):
    _fit(tmp_path, _step_fn(2, loss=math.nan), log_every_steps=100)


def test_fault_in_an_interrupted_step_is_never_saved(tmp_path, whole):
  faulty = _step_fn(4, _interrupt, loss=math.nan)
  with pytest.raises(FloatingPointError, match="step 4 is kept"):
    _fit(tmp_path, faulty, log_every_steps=100)
  _assert_same(_fit(tmp_path, _step_fn()), whole[0])


def test_metrics_are_averaged_and_counts_become_rates(tmp_path):
  _fit(tmp_path, _step_fn(2, min_token_loss=-1e-5), log_every_steps=7)
  # Checkpoints of steps 2, 4, 6 end a window as well.
  log = {line["step"]: line for line in _logged(tmp_path)}
  assert list(log) == [2, 4, 6, 7]
  assert log[4]["loss"] == 3.5
  assert log[4]["min_token_loss"] == -1e-5
  assert log[4]["tokens_per_s"] == (12 + 13) / 3.0
  assert log[4]["tokens"] == 12.5


@pytest.mark.parametrize(
  ("replaced", "name", "said"),
  [(60, "gap", "is too large"), (0, "inert", "gate is inert"), (10, None, "")],
)
def test_warning_is_said_once_and_logged_at_every_line(
  tmp_path, capsys, replaced, name, said
):
  stats = RolloutStats(
    rows=4, emitted=100, replaced=replaced, truncated=1, rounds=30
  )
  _fit(tmp_path, _step_fn(stats=stats))
  shown = capsys.readouterr()
  lines = [line for line in _logged(tmp_path) if "loss" in line]
  (events,) = (tmp_path / "tensorboard/distill/seed_3").glob("events*")
  if name is None:
    assert "Warning" not in shown.out + shown.err
    assert not any("warning" in key for line in lines for key in line)
  else:
    assert (shown.out + shown.err).count("Warning: distill_seed_3: ") == 1
    assert said in shown.out + shown.err
    assert f"WARNING {name}" in shown.err  # In the progress bar.
    assert [line[f"warning_{name}"] for line in lines] == [1] * 7
    assert f"warning_{name}".encode() in events.read_bytes()
  assert f"replaced {replaced}.0%" in shown.err
  assert "cut 25%" in shown.err


def test_progress_bar_shows_the_newest_validation(tmp_path, capsys):
  def callback(state, step):
    return {"validation_student_top_mass": 0.875}

  _fit(tmp_path, _step_fn(), {4: callback})
  shown = capsys.readouterr().err
  assert "mass 87.5%" in shown
  assert "mass" not in shown.split("4/7")[0]


def _totals(**changes):
  stats = {"rows": 4, "emitted": 50, "replaced": 10, "truncated": 1}
  return loop.Totals(
    tokens=50,
    seconds=collections.Counter(generate=2.0, train=3.0),
    stats=RolloutStats(**stats | {"rounds": 16} | changes),
  )


def test_rates_are_over_all_emitted_tokens():
  rates = _totals().rates()
  assert rates["replacement_rate"] == 0.2
  assert rates["accepted_per_round"] == 2.5
  assert rates["truncated"] == 0.25
  assert rates["generated_tokens_per_s"] == 25.0
  assert rates["tokens_per_s"] == 10.0
  trained = loop.Totals(9, collections.Counter(train=1.0))
  assert trained.rates() == {"tokens_per_s": 9.0}
  assert loop.Totals().rates() == {}
  # Without a judge, nothing is replaced, whoever generated.
  assert "replacement_rate" not in _totals(rounds=0).rates()


def test_totals_add_up_and_come_back_from_json():
  totals = _totals()
  totals.add(_totals(truncated=0))
  assert (totals.tokens, totals.seconds["train"]) == (100, 6.0)
  assert (totals.stats.rows, totals.stats.truncated) == (8, 1)
  plain = json.loads(json.dumps(totals.to_plain()))
  assert loop.Totals.from_plain(plain) == totals


def test_totals_of_the_rollouts_survive_a_kill(tmp_path):
  stats = RolloutStats(rows=4, emitted=100, replaced=7, rounds=30)
  with pytest.raises(_Killed):
    _fit(tmp_path, _step_fn(5, _kill, stats=stats))
  _, totals = _fit(tmp_path, _step_fn(stats=stats))
  assert (totals.stats.emitted, totals.stats.replaced) == (700, 49)


def _callbacks(seen, *steps):
  def callback(state, step):
    assert int(state.step) == step
    seen.append(step)
    return {"validation_bleu": float(step)}

  return dict.fromkeys(steps, callback)


def test_callbacks_are_called_once_at_their_steps(tmp_path):
  seen = []
  _fit(tmp_path, _step_fn(), _callbacks(seen, 0, 3, 7))
  assert seen == [0, 3, 7]
  logged = {
    line["step"]: line["validation_bleu"]
    for line in _logged(tmp_path)
    if "validation_bleu" in line
  }
  assert logged == {0: 0.0, 3: 3.0, 7: 7.0}


@pytest.mark.parametrize("stopped_in", range(7))
def test_interrupted_run_misses_and_repeats_no_callback(tmp_path, stopped_in):
  seen = []
  callbacks = _callbacks(seen, 0, 3, 4, 7)
  with pytest.raises(loop.Interrupted):
    _fit(tmp_path, _step_fn(stopped_in, _interrupt), callbacks)
  _fit(tmp_path, _step_fn(), callbacks)
  assert seen == [0, 3, 4, 7]


@pytest.mark.parametrize("killed_at", [0, 3, 4])
def test_killed_run_logs_no_callback_twice(tmp_path, killed_at):
  callbacks = _callbacks([], 0, 3, 4, 7)
  with pytest.raises(_Killed):
    _fit(tmp_path, _step_fn(killed_at, _kill), callbacks)
  _fit(tmp_path, _step_fn(), callbacks)
  log = [line for line in _logged(tmp_path) if "validation_bleu" in line]
  assert [line["step"] for line in log] == [0, 3, 4, 7]


@pytest.mark.parametrize("step", [0, 3, 4, 7])
def test_callback_that_is_cut_short_is_called_again(tmp_path, step):
  # No checkpoint lies between a step and its callback: that of step 4 is due.
  cut_short = _callbacks([], 0, 3, 4, 7)
  cut_short[step] = lambda *_: _kill()
  with pytest.raises(_Killed):
    _fit(tmp_path, _step_fn(), cut_short)
  seen = []
  _fit(tmp_path, _step_fn(), _callbacks(seen, 0, 3, 4, 7))
  assert step in seen
  log = [line for line in _logged(tmp_path) if "validation_bleu" in line]
  assert [line["step"] for line in log] == [0, 3, 4, 7]


def test_no_steps_leave_the_state_as_it_is(tmp_path):
  seen = []
  state, totals = _fit(tmp_path, _step_fn(), _callbacks(seen, 0), num_steps=0)
  assert int(state.step) == 0
  assert totals == loop.Totals()
  assert seen == [0]


def test_merged_callbacks_are_called_in_order_and_log_together(tmp_path):
  seen = []
  scores = {3: lambda state, step: seen.append("score") or {"score": 1.0}}
  samples = {
    n: lambda state, step: seen.append(f"sample {step}") or {} for n in (0, 3)
  }
  _fit(tmp_path, _step_fn(), loop.merge_callbacks(scores, samples))
  assert seen == ["sample 0", "score", "sample 3"]
  log = [line for line in _logged(tmp_path) if "loss" not in line]
  assert log == [{"stage": "distill", "seed": 3, "step": 3, "score": 1.0}]
