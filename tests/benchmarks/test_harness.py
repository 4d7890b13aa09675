"""Timing, tables and JSON of the benchmarks."""

import json
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from benchmarks import harness
from skd_jax import messages
from tests import command_lines

ROOT = pathlib.Path(__file__).parents[2]
PROGRAMS = sorted(
  ".".join(path.relative_to(ROOT).with_suffix("").parts)
  for path in (ROOT / "benchmarks").rglob("*.py")
  if "__main__" in path.read_text("utf-8")
)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_benchmark_says_what_its_flags_are(name):
  found = command_lines.run("-m", name, "--help")
  assert "Traceback" not in found.stderr
  assert "--helpfull" in found.stdout


def test_timing_takes_turns_after_a_warm_up():
  calls = []
  timings = harness.interleaved(
    {name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2
  )
  assert calls == ["a", "b", "a", "b", "a", "b"]
  assert len(timings["a"]) == 2


def test_timing_waits_for_the_result():
  def slow(x):
    time.sleep(0.05)
    return x

  call = jax.jit(
    lambda x: jax.pure_callback(slow, jax.ShapeDtypeStruct((), jnp.float32), x)
  )
  seconds, _ = harness.time_once(lambda: call(jnp.float32(1)))
  assert seconds >= 0.05


def test_json_has_the_keys_of_every_benchmark(tmp_path):
  path = tmp_path / "new" / "result.json"
  harness.write_json(
    path, harness.result_object("step_cost", [{"what": "x"}], "cpu-2")
  )
  found = json.loads(path.read_text())
  assert list(found) == [
    "benchmark",
    "command",
    "versions",
    "device",
    "git",
    "rows",
  ]
  assert found["rows"] == [{"what": "x"}]
  assert found["device"] == "cpu-2"
  assert set(harness.PEERS) <= found["versions"].keys()


def test_rows_stay_if_a_benchmark_does_not_reach_its_end(tmp_path):
  path = tmp_path / "result.json"
  program = """
from benchmarks import harness

def rows(quick):
  yield {"what": "first"}
  raise FileNotFoundError("the second")

harness.run("x", rows, program="x", result="x.json")
"""
  found = subprocess.run(
    [sys.executable, "-c", program, f"--json={path}"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 1
  assert found.stderr.splitlines()[-1] == "Error: the second"
  assert not path.exists()
  rest = json.loads((tmp_path / "result.json.partial").read_text("utf-8"))
  assert rest["rows"] == [{"what": "first"}]


def test_table_states_what_is_missing():
  table = harness.format_table([{"a": 1, "b": 0.12345}, {"a": 20}])
  assert table.splitlines() == [
    "|   a |     b |",
    "|----:|------:|",
    "|   1 | 0.123 |",
    "|  20 |     - |",
  ]


def test_command_does_not_say_where_the_folders_lie(monkeypatch):
  arguments = ["x", "--quick", "--json=/a/b", "--teacher=/home/my own/gemma/"]
  monkeypatch.setattr(sys, "argv", [*arguments, "--workdir", "/tmp/run"])
  command = messages.command_line("benchmarks.speed.step_cost")
  assert command == (
    "python -m benchmarks.speed.step_cost --quick --teacher=gemma --workdir run"
  )
  # What holds a space can be typed again.
  monkeypatch.setattr(sys, "argv", ["x", "--baselines=1, skd"])
  assert messages.command_line("benchmarks.x").endswith(" '--baselines=1, skd'")
