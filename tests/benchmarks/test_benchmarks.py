"""The benchmarks on tiny models: what their rows hold, not their speed."""

import dataclasses
import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
  contestants,
  corrected,
  gkd,
  harness,
  limits,
  loss_memory,
  peers,
  queues,
  rollout_speed,
  scaling,
  step_cost,
  tables,
  targets,
)
from benchmarks import pair as pair_lib
from skd_jax import models, structs
from tests import tiny_run

MACHINE = limits.Machine(bytes_per_s=1e10, flops_per_s=1e11)
# The sizes of step_cost below, so that most is compiled once.
SPEED = rollout_speed.Settings(
  batches=((2, 1),),
  prompt_size=4,
  new_tokens=8,
  draft_lengths=(5,),
  queue_repeats=1,
  tune_rows=2,
  queue_batch=2,
)


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation(tmp_path_factory):
  with tiny_run.quick_compilation(tmp_path_factory):
    yield


@pytest.fixture(scope="module")
def tiny():
  return pair_lib.from_shape("tiny", num_layers=2)


@pytest.fixture(scope="module")
def speed_rows(tiny):
  """Without the peers, which have their own test."""
  patch = pytest.MonkeyPatch()
  with patch.context() as context:
    context.setattr(peers, "has_torch", lambda: False)
    return rollout_speed.make_rows(tiny, SPEED, MACHINE)


def test_rollout_speed_has_a_row_for_each_contestant(speed_rows):
  assert {row["what"] for row in speed_rows} >= {
    "student",
    "teacher",
    "on_policy",
    "skd_all_accepted",
    "skd_2pct",
    "skd_10pct",
    "hf_student",
    "hf_teacher",
    "hf_assisted",
    "queue_on",
    "queue_off",
  }
  assert all(
    {"what", "batch", "tokens_per_s"} <= row.keys() for row in speed_rows
  )


def test_absent_peer_is_stated_in_its_row(speed_rows):
  notes = {row["what"]: row.get("note") for row in speed_rows}
  assert notes["hf_teacher"] == notes["hf_assisted"] == "torch not installed"
  assert "torch not installed" in tables.pivot(speed_rows, "tokens_per_s")


def test_nothing_is_replaced_where_all_is_accepted(speed_rows):
  (row,) = (r for r in speed_rows if r["what"] == "skd_all_accepted")
  assert row["replacement_rate"] == 0
  # Drafts of 5 and 3: the response has 8 tokens.
  assert (row["num_draft_tokens"], row["tokens_per_round"]) == (5, 4)


def test_transformers_writes_what_our_student_writes(tiny):
  pytest.importorskip("torch", reason="needs torch")
  pytest.importorskip("accelerate", reason="needs accelerate")
  batch = pair_lib.make_prompts(tiny, 2, 4)
  found = peers.generate(peers.to_torch(tiny.student), batch.prompt, 6)
  model, params = tiny.student.model, tiny.student.params
  ids = jnp.concatenate([batch.prompt, jnp.asarray(found, jnp.int32)], axis=1)

  @jax.jit
  def greedy(params, ids):
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    hidden, _ = model.apply(params, ids, positions, None)
    return jnp.argmax(model.head(model.head_params(params), hidden), axis=-1)

  # Position 3 reads the last token of the prompt and predicts the first new.
  np.testing.assert_array_equal(found, greedy(params, ids)[:, 3:-1])


def test_faint_layers_make_the_teacher_its_student(tiny):
  batch = pair_lib.make_prompts(tiny, 2, 4)
  positions = jnp.broadcast_to(jnp.arange(4), (2, 4))

  def hidden(loaded):
    return loaded.model.apply(loaded.params, batch.prompt, positions, None)[0]

  student, teacher = hidden(tiny.student), hidden(tiny.teacher)
  silent = hidden(pair_lib.with_faint_layers(tiny, 0.0).teacher)
  same = hidden(pair_lib.with_faint_layers(tiny, 1.0).teacher)
  np.testing.assert_allclose(silent, student, atol=1e-4)
  np.testing.assert_array_equal(same, teacher)
  assert not np.allclose(student, teacher, atol=1e-2)


def test_bisection_finds_the_wanted_rate(tiny):
  rates = []

  def measure(params):
    layers = params["layers"]
    full = tiny.teacher.params["layers"]["1"]["mlp"]["down"]["kernel"]
    faintness = layers["1"]["mlp"]["down"]["kernel"] / full
    rates.append(float(jnp.mean(faintness)) ** 0.5)
    return rates[-1]

  _, found = pair_lib.tune_faintness(tiny, 0.1, measure)
  assert found == pytest.approx(0.1, rel=0.1)
  assert len(rates) <= 10


def test_unrelated_pair_is_replaced_blindly(tiny):
  unrelated = dataclasses.replace(tiny, every_third=False)
  (regime,) = corrected.at_rates(
    unrelated, [0.1], num_rows=2, prompt_size=4, new_tokens=8
  )
  assert (regime.accept, regime.threshold) == ("random", 0.1)
  with pytest.raises(ValueError, match="faint layers"):
    pair_lib.with_faint_layers(unrelated, 0.1)


def test_lengths_of_the_queue_vary_eightfold():
  length = np.asarray(queues.varying_limits(2000, max_new_tokens=64))
  assert length.min() == 8
  assert length.max() == 64
  # Log-uniform: as many between 8 and 16 as between 32 and 64.
  assert np.mean(length < 16) == pytest.approx(1 / 3, abs=0.06)
  assert np.mean(length > 32) == pytest.approx(1 / 3, abs=0.06)


def test_replacement_rate_counts_emitted_tokens_alone():
  source = np.array([[1, 0, 1, 1], [0, 0, 0, 1]], np.int8)
  written = structs.Rollout(
    tokens=None,
    length=np.array([2, 3]),
    source=source,
    draft_tokens=None,
    stopped=None,
    num_rounds=None,
    teacher_hidden=None,
  )
  assert contestants.replacement_rate(written) == pytest.approx(1 / 5)


def test_step_cost_compares_with_on_policy(tiny, monkeypatch):
  monkeypatch.setattr(gkd, "missing", lambda: "trl not installed")
  settings = step_cost.Settings(
    batch_size=2, prompt_size=4, new_tokens=8, draft_lengths=(5,), repeats=1
  )
  rows = {
    row["what"]: row for row in step_cost.make_rows(tiny, settings, MACHINE)
  }
  assert rows["on_policy"]["ratio_to_on_policy"] == 1
  for what in ("skd_2pct", "skd_10pct", "supervised"):
    expected = rows[what]["seconds"] / rows["on_policy"]["seconds"]
    assert rows[what]["ratio_to_on_policy"] == pytest.approx(expected)
  assert rows["trl_gkd"] == {
    "what": "trl_gkd",
    "seconds": None,
    "note": "trl not installed",
  }


def test_training_step_changes_the_state_and_not_the_pair(tiny):
  batch = pair_lib.make_prompts(tiny, 2, 4)
  write = contestants.make_on_policy(
    tiny, contestants.never_stop(512), max_new_tokens=8
  )
  trainer = step_cost.Trainer(tiny, chunk_size=4)
  before = np.array(tiny.student.params["embedding"])
  trainer.learn(tiny, batch, contestants.bind(write, tiny, batch, 0.0)())
  np.testing.assert_array_equal(before, tiny.student.params["embedding"])
  assert not np.array_equal(before, trainer.state.params["embedding"])
  assert int(trainer.state.step) == 1


def test_chunked_loss_needs_less_memory_than_plain():
  settings = loss_memory.Settings(
    vocabs=(4000,), lengths=(256,), width=16, chunk_size=16, repeats=1
  )
  (row,) = loss_memory.make_rows(settings)
  assert (row["vocab"], row["length"]) == (4000, 256)
  assert 0 < row["memory_ratio"] < 0.2
  assert row["time_ratio"] > 0


def test_plain_and_chunked_loss_are_the_same_problem():
  problem = loss_memory.make_problem(vocab=100, length=20, width=8)
  values = [
    jax.value_and_grad(function, argnums=(0, 1))(*problem.arguments)
    for function in (
      loss_memory.plain_loss(problem.model),
      loss_memory.chunked_loss(problem.model, 8),
    )
  ]
  for plain, chunked in zip(*map(jax.tree.leaves, values), strict=True):
    np.testing.assert_allclose(plain, chunked, rtol=1e-4, atol=1e-4)


def test_plain_loss_that_does_not_fit_is_stated(monkeypatch):
  monkeypatch.setattr(harness, "available_bytes", lambda: 1000)
  row = loss_memory.measure(400, 8, loss_memory.Settings(width=8, chunk_size=4))
  assert row["time_ratio"] is None
  assert row["memory_ratio"] > 0
  assert "does not fit" in row["note"]


def test_scaling_varies_one_size_at_a_time():
  settings = scaling.Settings(
    base=scaling.Point(batch=1, length=4, draft_length=2, depth=1),
    batch=(2,),
    length=(),
    draft_length=(1,),
    depth=(),
    shape="tiny",
    prompt_size=4,
    repeats=1,
  )
  rows = scaling.make_rows(settings)
  assert [(row["what"], row["value"]) for row in rows] == [
    ("batch", 2),
    ("draft_length", 1),
  ]
  assert (rows[0]["batch"], rows[0]["draft_length"]) == (2, 2)
  assert all(row["compile_seconds"] > 0 for row in rows)


def test_limit_is_bytes_for_one_row_and_products_for_many():
  config = models.ModelConfig(
    vocab_size=100,
    hidden_size=10,
    intermediate_size=20,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
  )
  # Attention 10 x (8 + 4 + 4 + 8), MLP 3 x 10 x 20, twice; the head 100 x 10.
  weights = 2 * (240 + 600) + 1000
  machine = limits.Machine(bytes_per_s=1.0, flops_per_s=10.0)

  def limit(rows):
    return limits.pass_seconds(
      machine, config, rows=rows, tokens=1, context=0, itemsize=4
    )

  assert limit(1) == 4 * weights
  assert limit(100) == 2 * 100 * weights / 10


def test_timing_takes_turns_after_a_warm_up():
  calls = []
  timings = harness.interleaved(
    {name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2
  )
  assert calls == ["a", "b", "a", "b", "a", "b"]
  assert len(timings["a"].seconds) == 2


def test_timing_waits_for_the_result():
  def slow(x):
    time.sleep(0.05)
    return x

  call = jax.jit(
    lambda x: jax.pure_callback(slow, jax.ShapeDtypeStruct((), jnp.float32), x)
  )
  seconds, _ = harness.time_once(lambda: call(jnp.float32(1)))
  assert seconds >= 0.05


def result(name, rows, device="cpu-2"):
  return harness.result_object(name, rows, device)


def test_json_has_the_keys_of_every_benchmark(tmp_path):
  path = tmp_path / "new" / "result.json"
  harness.write_json(
    path, harness.result_object("scaling", [{"what": "x"}], "cpu-2")
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
  assert found["device"] == harness.device_name()
  assert set(harness.PEERS) <= found["versions"].keys()


def test_table_states_what_is_missing():
  table = harness.format_table([{"a": 1, "b": 0.12345}, {"a": 20}])
  assert table.splitlines() == [
    "|   a |     b |",
    "| --: | ----: |",
    "|   1 | 0.123 |",
    "|  20 |     - |",
  ]


README = "".join(
  f"a\n<!-- table: {name} -->\nold\n<!-- end -->\nb\n" for name in tables.NAMES
)


def test_tables_replace_what_stands_between_the_marks():
  rows = [{"vocab": 8, "length": 2, "memory_ratio": 0.5, "time_ratio": 1.0}]
  text = tables.rebuild(
    README,
    [result("loss_memory", rows), result("loss_memory", rows, "nvidia-h200")],
  )
  assert "old" not in text
  assert text.count("|     8 |") == 2
  assert "nvidia-h200" in text
  assert text.count("Not measured yet.") == len(tables.NAMES) - 1
  assert tables.rebuild(text, []) == tables.rebuild(README, [])


def test_readme_without_marks_is_an_error():
  with pytest.raises(ValueError, match="table: step_cost"):
    tables.rebuild(README.replace("step_cost", "other"), [])


def test_command_does_not_say_where_the_folders_lie(monkeypatch):
  arguments = ["x", "--quick", "--json=/a/b", "--teacher=/home/my own/gemma/"]
  monkeypatch.setattr(sys, "argv", [*arguments, "--workdir", "/tmp/run"])
  command = harness.command("step_cost")
  assert command == (
    "python -m benchmarks.step_cost --quick --teacher=gemma --workdir run"
  )
  # What holds a space can be typed again.
  monkeypatch.setattr(sys, "argv", ["x", "--baselines=1, skd"])
  assert harness.command("x").endswith(" '--baselines=1, skd'")


def test_check_fails_where_the_readme_differs(tmp_path, monkeypatch):
  path = tmp_path / "README.md"
  path.write_text(README)
  monkeypatch.setattr(tables, "README", path)
  monkeypatch.setattr(harness, "RESULTS", tmp_path)
  monkeypatch.setattr(tables, "_CHECK", Flag(True))
  with pytest.raises(SystemExit, match="differs"):
    tables.main(["tables"])
  assert path.read_text() == README
  monkeypatch.setattr(tables, "_CHECK", Flag(False))
  tables.main(["tables"])
  monkeypatch.setattr(tables, "_CHECK", Flag(True))
  tables.main(["tables"])


@dataclasses.dataclass
class Flag:
  value: bool


def test_readme_shows_the_kept_results():
  results = tables.read_results(harness.RESULTS)
  readme = tables.README.read_text("utf-8")
  assert tables.rebuild(readme, results) == readme


def test_missed_target_says_by_how_much():
  rows = [{"what": "skd_2pct", "ratio_to_on_policy": 1.38}]
  shown = {row["target"]: row for row in targets.table("step_cost", rows)}
  missed = shown["SKD step over on-policy, 2 %"]
  assert missed["measured"] == 1.38
  assert missed["verdict"] == "missed by 20%"
  absent = shown["SKD step over on-policy, 10 %"]
  assert absent["verdict"] == "not measured"


def test_gkd_trainer_steps_when_asked(tiny):
  missing = gkd.missing()
  if missing:
    pytest.skip(missing)
  prompts = pair_lib.make_prompts(tiny, 2, 4).prompt
  with gkd.SteppedTrainer(tiny, prompts, new_tokens=4, num_steps=3) as trainer:
    trainer.step()
    trainer.step()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_quick_run_writes_its_rows(name, tmp_path):
  path = tmp_path / "result.json"
  command = [sys.executable, "-m", f"benchmarks.{name}"]
  subprocess.run(
    [*command, "--quick", f"--json={path}"],
    check=True,
    timeout=600,
    cwd=tables.README.parent,
  )
  found = json.loads(path.read_text())
  assert found["benchmark"] == name
  assert found["rows"]
