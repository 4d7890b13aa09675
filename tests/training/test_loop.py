"""The loop around a step: log, save, resume, stop."""

import json
import math
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import config as config_lib
from skd_jax import structs
from skd_jax.training import loop


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


def _step_fn(fail_at=None, fail=None, **means):
  """A step whose result depends on state, batch and step.

  Before the step `fail_at` is done, `fail` is called; `means` overrides what
  is measured in it.
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
    measured = {"loss": 1.0 + batch, "grad_norm": 1.0, "least_token_loss": 0.0}
    counts = {"trained_tokens": 10 + batch, "seconds_train": 0.5}
    return state, measured | (means if at_fault else {}), counts

  return step_fn


def _fit(workdir, step_fn, visits=None, **changes):
  config = config_lib.fit_config(
    num_steps=7, log_every_steps=1, checkpoint_every_steps=2
  )
  config.update(changes)
  return loop.fit(
    step_fn,
    _start(),
    Numbers(),
    config,
    workdir=workdir,
    stage="distill",
    seed=3,
    visits=visits or {},
  )


def _logged(workdir):
  lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
  return [json.loads(line) for line in lines]


def _assert_same(ours, theirs):
  (state, counts), (other, other_counts) = ours, theirs
  assert int(state.step) == int(other.step)
  np.testing.assert_array_equal(state.params["w"], other.params["w"])
  np.testing.assert_array_equal(state.opt_state["sum"], other.opt_state["sum"])
  assert counts == other_counts


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
  (state, counts), log = whole
  assert int(state.step) == 7
  assert counts == {"trained_tokens": 7 * 10 + 21, "seconds_train": 3.5}
  assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6, 7]
  assert [line["loss"] for line in log] == [1, 2, 3, 4, 5, 6, 7]
  assert {(line["stage"], line["seed"]) for line in log} == {("distill", 3)}
  # Trained tokens over the seconds of the step.
  assert log[0]["tokens_per_s"] == 10 / 0.5


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
  with pytest.raises(loop.Interrupted, match="step 5 of 'distill'"):
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


def test_second_signal_acts_at_once(tmp_path):
  def twice():
    _interrupt()
    _interrupt()

  with pytest.raises(KeyboardInterrupt):
    _fit(tmp_path, _step_fn(1, twice))


def test_signal_in_the_last_step_is_no_interruption(tmp_path, whole):
  _assert_same(_fit(tmp_path, _step_fn(6, _interrupt)), whole[0])


@pytest.mark.parametrize(
  ("fault", "said"),
  [
    ({"loss": math.nan}, "loss is nan"),
    ({"grad_norm": math.inf}, "grad_norm is inf"),
    ({"least_token_loss": -1e-3}, "never negative"),
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


def test_means_are_averaged_and_counts_become_rates(tmp_path):
  _fit(tmp_path, _step_fn(2, least_token_loss=-1e-5), log_every_steps=7)
  # Checkpoints of steps 2, 4, 6 end a window as well.
  log = {line["step"]: line for line in _logged(tmp_path)}
  assert list(log) == [2, 4, 6, 7]
  assert log[4]["loss"] == 3.5
  assert log[4]["least_token_loss"] == -1e-5
  assert log[4]["tokens_per_s"] == (12 + 13) / 1.0


@pytest.mark.parametrize(
  ("replaced", "name", "said"),
  [(60, "gap", "is too large"), (0, "inert", "gate is inert"), (10, None, "")],
)
def test_warning_is_said_once_and_logged_at_every_line(
  tmp_path, capsys, replaced, name, said
):
  plain = _step_fn()

  def step_fn(state, batch, step):
    state, means, counts = plain(state, batch, step)
    counts |= {"rows": 4, "emitted": 100, "replaced": replaced, "rounds": 30}
    counts |= {"truncated": 1, "seconds_generate": 1.0}
    return state, means, counts

  _fit(tmp_path, step_fn)
  shown = capsys.readouterr()
  lines = [line for line in _logged(tmp_path) if "loss" in line]
  (events,) = (tmp_path / "tensorboard/distill/seed_3").glob("events*")
  if name is None:
    assert "Warning" not in shown.out + shown.err
    assert not any("warning" in key for line in lines for key in line)
  else:
    assert (shown.out + shown.err).count("Warning: distill: ") == 1
    assert said in shown.out + shown.err
    assert f"WARNING {name}" in shown.err  # In the progress bar.
    assert [line[f"warning_{name}"] for line in lines] == [1] * 7
    assert f"warning_{name}".encode() in events.read_bytes()
  assert f"replaced {replaced}.0%" in shown.err
  assert "cut 25%" in shown.err


def test_progress_bar_shows_the_newest_validation(tmp_path, capsys):
  def visit(state, step):
    return {"held_out_student_top_mass": 0.875}

  _fit(tmp_path, _step_fn(), {4: visit})
  shown = capsys.readouterr().err
  assert "mass 87.5%" in shown
  assert "mass" not in shown.split("4/7")[0]


def test_rates_are_over_all_emitted_tokens():
  counts = {
    "rows": 4,
    "emitted": 50,
    "replaced": 10,
    "truncated": 1,
    "rounds": 16,
    "trained_tokens": 50,
    "seconds_generate": 2.0,
    "seconds_train": 3.0,
  }
  rates = loop.rates(counts)
  assert rates["replacement_rate"] == 0.2
  assert rates["accepted_per_round"] == 2.5
  assert rates["truncated"] == 0.25
  assert rates["generated_tokens_per_s"] == 25.0
  assert rates["tokens_per_s"] == 10.0
  assert "replacement_rate" not in loop.rates(
    {"seconds_train": 1.0, "trained_tokens": 9}
  )
  # Without a judge, nothing is replaced, whoever wrote.
  assert "replacement_rate" not in loop.rates(counts | {"rounds": 0})


def _visits(seen, *steps):
  def visit(state, step):
    assert int(state.step) == step
    seen.append(step)
    return {"validation_bleu": float(step)}

  return dict.fromkeys(steps, visit)


def test_visits_are_called_once_at_their_steps(tmp_path):
  seen = []
  _fit(tmp_path, _step_fn(), _visits(seen, 0, 3, 7))
  assert seen == [0, 3, 7]
  logged = {
    line["step"]: line["validation_bleu"]
    for line in _logged(tmp_path)
    if "validation_bleu" in line
  }
  assert logged == {0: 0.0, 3: 3.0, 7: 7.0}


@pytest.mark.parametrize("stopped_in", range(7))
def test_interrupted_run_misses_and_repeats_no_visit(tmp_path, stopped_in):
  seen = []
  visits = _visits(seen, 0, 3, 4, 7)
  if stopped_in < 6:
    with pytest.raises(loop.Interrupted):
      _fit(tmp_path, _step_fn(stopped_in, _interrupt), visits)
  _fit(tmp_path, _step_fn(), visits)
  assert seen == [0, 3, 4, 7]


@pytest.mark.parametrize("killed_at", [0, 3, 4])
def test_killed_run_logs_no_visit_twice(tmp_path, killed_at):
  visits = _visits([], 0, 3, 4, 7)
  with pytest.raises(_Killed):
    _fit(tmp_path, _step_fn(killed_at, _kill), visits)
  _fit(tmp_path, _step_fn(), visits)
  log = [line for line in _logged(tmp_path) if "validation_bleu" in line]
  assert [line["step"] for line in log] == [0, 3, 4, 7]


@pytest.mark.parametrize("step", [0, 3, 4, 7])
def test_visit_that_is_cut_short_is_called_again(tmp_path, step):
  # No checkpoint lies between a step and its visit: that of step 4 is due.
  cut_short = _visits([], 0, 3, 4, 7)
  cut_short[step] = lambda *_: _kill()
  with pytest.raises(_Killed):
    _fit(tmp_path, _step_fn(), cut_short)
  seen = []
  _fit(tmp_path, _step_fn(), _visits(seen, 0, 3, 4, 7))
  assert step in seen
  log = [line for line in _logged(tmp_path) if "validation_bleu" in line]
  assert [line["step"] for line in log] == [0, 3, 4, 7]


def test_no_steps_leave_the_state_as_it_is(tmp_path):
  seen = []
  state, counts = _fit(tmp_path, _step_fn(), _visits(seen, 0), num_steps=0)
  assert int(state.step) == 0
  assert counts == {}
  assert seen == [0]
