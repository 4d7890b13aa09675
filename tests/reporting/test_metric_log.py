"""metrics.jsonl holds each step of a stage and seed once, whatever happens."""

import json
import math

import numpy as np
import pytest

from skd_jax.reporting import boards
from skd_jax.reporting.metric_log import open_metric_log, read_metrics
from tests import tensorboard_events


def log_steps(workdir, steps, *, stage="distill", seed=0, loss=1.0, **options):
  with open_metric_log(workdir, stage=stage, seed=seed, **options) as log:
    for step in steps:
      log(step, {"loss": loss})


def rows(workdir):
  lines = read_metrics(workdir / "metrics.jsonl")
  return [(m["stage"], m["seed"], m["step"], m["loss"]) for m in lines]


def test_each_line_is_on_disk_before_the_next_step(tmp_path):
  with open_metric_log(tmp_path, stage="distill", seed=3) as log:
    log(10, {"loss": np.float32(0.5), "tokens": 7})
    lines = read_metrics(tmp_path / "metrics.jsonl")
  assert lines == [
    {"stage": "distill", "seed": 3, "step": 10, "loss": 0.5, "tokens": 7}
  ]


def test_resumed_run_writes_each_step_once(tmp_path):
  log_steps(tmp_path, [10, 20, 30, 40])
  log_steps(tmp_path, [30, 40, 50], last_step=20, loss=2.0)
  assert rows(tmp_path) == [
    ("distill", 0, 10, 1.0),
    ("distill", 0, 20, 1.0),
    ("distill", 0, 30, 2.0),
    ("distill", 0, 40, 2.0),
    ("distill", 0, 50, 2.0),
  ]


def test_fresh_start_drops_its_own_old_lines_only(tmp_path):
  log_steps(tmp_path, [0, 10])
  log_steps(tmp_path, [0, 10], seed=1)
  log_steps(tmp_path, [0, 10], stage="teacher")
  log_steps(tmp_path, [0], loss=2.0)
  assert rows(tmp_path) == [
    ("distill", 1, 0, 1.0),
    ("distill", 1, 10, 1.0),
    ("teacher", 0, 0, 1.0),
    ("teacher", 0, 10, 1.0),
    ("distill", 0, 0, 2.0),
  ]


def test_torn_last_line_does_not_spoil_the_next(tmp_path):
  log_steps(tmp_path, [10])
  path = tmp_path / "metrics.jsonl"
  with path.open("a") as file:
    file.write('{"stage": "distill", "se')
  assert len(read_metrics(path)) == 1
  log_steps(tmp_path, [20], last_step=10)
  assert [row[2] for row in rows(tmp_path)] == [10, 20]


@pytest.mark.parametrize("bad", ["{oops", "[1]", '{"step": 1}', ""])
def test_malformed_line_is_named(tmp_path, bad):
  path = tmp_path / "metrics.jsonl"
  good = '{"stage": "distill", "seed": 0, "step": 1}\n'
  path.write_text(good + bad + "\n" + good)
  with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
    read_metrics(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("-inf")])
def test_number_that_is_not_finite_is_null_in_the_file(tmp_path, value):
  log_steps(tmp_path, [10], loss=value)
  text = (tmp_path / "metrics.jsonl").read_text()
  assert json.loads(text)["loss"] is None
  assert math.isnan(rows(tmp_path)[0][3])


def test_reserved_name_is_refused(tmp_path):
  with (
    open_metric_log(tmp_path, stage="distill", seed=0) as log,
    pytest.raises(ValueError, match="'step', which is reserved"),
  ):
    log(10, {"step": 3})


def test_tensorboard_events_are_beside_the_lines(tmp_path):
  log_steps(tmp_path, [10], seed=2)
  (events,) = (tmp_path / "tensorboard/distill/seed_2").glob("events*")
  assert b"loss" in events.read_bytes()


def test_resumed_events_hide_those_of_the_killed_run(tmp_path):
  log_steps(tmp_path, [10, 20, 30])
  log_steps(tmp_path, [30], last_step=20)
  events = tensorboard_events.read(tmp_path / "tensorboard/distill/seed_0")
  starts = [e.step for e in events if e.HasField("session_log")]
  assert sorted(starts) == [0, 21]


class Board:
  """Keeps what it is given."""

  def __init__(self, place):
    self.place, self.written, self.is_open = place, [], True

  def write(self, step, entries):
    self.written.append((step, entries))

  def close(self):
    self.is_open = False


def test_texts_and_histograms_go_to_the_boards_alone(tmp_path):
  texts = boards.Texts(("prompt",), [("a",)])
  histogram = boards.Histogram((0, 1), (2,))
  opened = []

  def open_board(place):
    opened.append(Board(place))
    return opened[-1]

  with open_metric_log(
    tmp_path, stage="distill", seed=3, last_step=9, open_boards=[open_board]
  ) as log:
    log(10, {"loss": np.float32(0.5), "h": histogram})
    log(20, {"texts": texts})
    assert opened[0].is_open
  assert rows(tmp_path) == [("distill", 3, 10, 0.5)]
  assert opened[0].written == [
    (10, {"loss": 0.5, "h": histogram}),
    (20, {"texts": texts}),
  ]
  assert opened[0].place == boards.Place(tmp_path, "distill", 3, 9)
  assert not opened[0].is_open
