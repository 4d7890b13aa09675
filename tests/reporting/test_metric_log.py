"""metrics.jsonl holds each step of a stage and seed once, whatever happens."""

import json
import math
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from skd_jax.reporting.metric_log import open_metric_log, read_metrics


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
  starts = []
  for path in (tmp_path / "tensorboard/distill/seed_0").glob("events*"):
    data = path.read_bytes()
    while data:  # length, its checksum, the event, its checksum
      (size,) = struct.unpack("<Q", data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      if event.HasField("session_log"):
        starts.append(event.step)
      data = data[size + 16 :]
  assert sorted(starts) == [0, 21]
