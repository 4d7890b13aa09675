"""The speed benchmarks on tiny models: their rows, not their speed."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import harness, tables
from benchmarks.speed import (
  draft_contestants,
  draft_costs,
  draft_prompts,
  draft_trees,
  long_sequences,
  loss_memory,
  packing,
  peers,
  regimes,
  rollout_speed,
  rollouts,
  speculative_decoding,
  step_cost,
)
from benchmarks.speed import pair as pair_lib
from skd_jax import structs
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.models import loading
from skd_jax.parallel import sharding

pytestmark = pytest.mark.slow

# The sizes of STEP, so that most is compiled once.
SPEED = rollout_speed.Settings(
  batches=((2, 1),),
  prompt_size=4,
  new_tokens=8,
  draft_lengths=(5,),
  tune_rows=2,
)
STEP = step_cost.Settings(
  batch_size=2, prompt_size=4, new_tokens=8, draft_lengths=(5,), repeats=1
)


@pytest.fixture(scope="module")
def tiny():
  return pair_lib.from_shape("tiny", num_layers=2)


@pytest.fixture(scope="module")
def speed_rows(tiny):
  """Without the peers, which have their own test."""
  with pytest.MonkeyPatch().context() as patch:
    patch.setattr(peers, "missing", lambda needed: "torch not installed")
    return list(rollout_speed.make_rows(tiny, SPEED))


@pytest.mark.slow
def test_rollout_speed_has_a_row_for_each_contestant(speed_rows):
  assert {row["what"] for row in speed_rows} == {
    "student",
    "teacher",
    "on_policy",
    "skd_all_accepted",
    "skd_2pct",
    "skd_10pct",
    "skd_k25",
    "skd_k1",
    *rollout_speed.PEERS,
  }
  assert all(
    {"what", "batch", "tokens_per_s"} <= row.keys() for row in speed_rows
  )


@pytest.mark.slow
def test_absent_peer_is_stated_in_its_row(speed_rows):
  notes = {row["what"]: row.get("note") for row in speed_rows}
  assert notes["hf_teacher"] == notes["hf_assisted"] == "torch not installed"
  assert "torch not installed" in tables.pivot(speed_rows)


@pytest.mark.slow
def test_nothing_is_replaced_where_all_is_accepted(speed_rows):
  (row,) = (r for r in speed_rows if r["what"] == "skd_all_accepted")
  assert row["replacement_rate"] == 0
  # Drafts of 5 and 3: the response has 8 tokens.
  assert (row["num_draft_tokens"], row["tokens_per_round"]) == (5, 4)


DRAFTS = speculative_decoding.Settings(
  batches=(1, 2), repeats=1, num_prompts=2, prompt_size=4, new_tokens=10
)


def test_speculative_decoding_has_a_row_for_each_drafter(
  tiny, monkeypatch, capsys
):
  monkeypatch.setattr(peers, "missing", lambda needed: "torch not installed")
  # Every pass costs the same, but to judge a tree twice as much.
  costs = draft_costs.PassCosts(
    num_draft_tokens=4,
    draft=1,
    one_round=5,
    second_choices=1,
    prompt=1,
    draft_prompt=1,
  )
  monkeypatch.setattr(
    draft_costs.Passes,
    "costs",
    lambda passes, seconds: dict.fromkeys(passes.drafters, costs),
  )
  rows = speculative_decoding.make_rows(
    tiny, DRAFTS, students={"self": tiny.teacher, "third": tiny.student}
  )
  found = {(row["what"], row["batch"]): row for row in rows}
  drafters = ("self", "third", "early_exit", "prompt_lookup")
  ours = {"plain", *drafters, *(f"{what}_adaptive" for what in drafters)}
  assert set(found) == {
    (what, batch)
    for what in ours | set(speculative_decoding.PEERS)
    for batch in (1, 2)
  }
  for batch in (1, 2):
    # A teacher that drafts for itself: 10 tokens are two rounds of 5.
    row = found["self", batch]
    assert (row["acceptance"], row["tokens_per_pass"]) == (1, 5)
    assert row["by_position"] == [1] * 4
    # A prompt and 10 tokens, or two prompts and two rounds of four drafts. All
    # of it is accepted: a tree costs more, and saves nothing.
    assert row["predicted_speedup"] == pytest.approx(11 / (2 + 2 * 5))
    assert row["tree_bound"] == pytest.approx(11 / (2 + 2 * 6))
    assert "tree_bound" not in found["prompt_lookup", batch]
    assert found["plain", batch]["speedup"] == 1
    for what in ours:
      assert found[what, batch]["same_tokens"] == 1
      assert found[what, batch]["speedup"] > 0
    assert found["hf_assisted", batch]["note"] == "torch not installed"
  assert "NOT RUN: hf_plain, " in capsys.readouterr().out


def test_speed_of_a_pair_is_predicted_from_its_passes():
  costs = draft_costs.PassCosts(
    num_draft_tokens=4,
    draft=0.1,
    one_round=1.75,
    second_choices=0.2,
    prompt=2.0,
    draft_prompt=0.5,
  )
  assert costs.adaptation == pytest.approx(
    {"draft_cost": 0.1, "round_cost": 0.35}
  )
  # Two batches: 2 prompts and 30 tokens, or 2 prompts of both and 12 rounds.
  found = costs.speedup([10, 20], [5, 7])
  assert found == pytest.approx((4 + 30) / (5 + 12 * 1.75))
  found = costs.of_tree.speedup([10, 20], [5, 7])
  assert found == pytest.approx((4 + 30) / (5 + 12 * 1.95))


def test_second_choice_saves_a_round_where_the_first_is_wrong():
  # Ranks of each token by the student. A chain emits three, two, and one token
  # in its rounds, a tree three, and three.
  ranks = [0, 0, 2, 0, 1, 0]
  assert draft_trees.count_rounds(ranks, 3, num_choices=1) == 3
  assert draft_trees.count_rounds(ranks, 3, num_choices=2) == 2


def test_rounds_by_rank_are_those_that_speculative_decoding_takes(tiny):
  prompts = draft_prompts.endless(tiny, 4, 4)
  decoder = draft_contestants.Decoder(
    tiny.teacher.config.vocab_size, (), new_tokens=20, num_draft_tokens=3
  )
  found = draft_contestants.make_contestants(tiny, {"s": tiny.student}, None)
  for row in prompts.batches(1, 20):
    (rollout,) = decoder.bind(found["s"], [row])()
    assert draft_trees.most_rounds(
      found["s"].drafter.policy, row, rollout, 3, 1
    ) == int(rollout.num_rounds[0])


def write_pair(tmp_path):
  """Writes a teacher and a student, of one tokenizer; returns both folders."""
  folders = []
  for name, num_layers in (("teacher", 2), ("student", 1)):
    folder = tmp_path / name
    tokenizer_lib.train_bpe(["ein Hund sieht", "der Mann"] * 9, 270, folder)
    tokenizer = tokenizer_lib.load_tokenizer(folder)
    config = dataclasses.replace(
      pair_lib.SHAPES["tiny"],
      num_layers=num_layers,
      vocab_size=tokenizer_lib.num_ids(tokenizer),
      max_position_embeddings=64,
    )
    model = pair_lib.random_model(config, jnp.float32)
    loading.save_model(folder, model, tokenizer)
    folders.append(str(folder))
  return folders


def test_a_pair_of_ones_own_answers_lines_to_their_end(tmp_path):
  teacher, student = write_pair(tmp_path)
  pair = pair_lib.from_folder(teacher)
  path = tmp_path / "lines.txt"
  path.write_text("ein Hund\n\nder Mann sieht den Hund\nHund\n", "utf-8")
  prompts = draft_prompts.from_file(str(path), pair, "{source}", 3)
  assert len({len(row) for row in prompts.rows}) == 3
  assert prompts.eos_ids
  students = draft_contestants.read_students(pair, [f"one={student}"])
  rows = speculative_decoding.make_rows(
    dataclasses.replace(pair, student=students["one"]),
    dataclasses.replace(DRAFTS, num_prompts=3),
    prompts,
    students,
  )
  # Transformers, which pads on the left, answers the same, where it is there.
  known = [row["same_tokens"] for row in rows if "note" not in row]
  assert known == [1] * len(known)
  # The batches of two are filled up.
  assert {r["prompts"] for r in rows if "note" not in r} == {3, 4}
  with pytest.raises(ValueError, match="--num_prompts=4: must be at most 3"):
    draft_prompts.from_file(str(path), pair, "{source}", 4)
  with pytest.raises(ValueError, match="must have a NAME= of its own"):
    draft_contestants.read_students(pair, [student, student])
  small = pair_lib.from_folder(student)
  with pytest.raises(ValueError, match=r"draft: it has .* weights, must have"):
    draft_contestants.read_students(small, [teacher])


def test_transformers_generates_what_our_student_generates(tiny):
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
  silent = hidden(regimes.with_faint_layers(tiny, 0.0).teacher)
  same = hidden(regimes.with_faint_layers(tiny, 1.0).teacher)
  np.testing.assert_allclose(silent, student, atol=1e-4)
  np.testing.assert_array_equal(same, teacher)
  assert not np.allclose(student, teacher, atol=1e-2)


def test_tuning_finds_the_wanted_rate(tiny):
  rates = []

  def kernel(pair):
    return pair.teacher.params["layers"]["1"]["mlp"]["down"]["kernel"]

  def measure(pair):
    faintness = float(jnp.mean(kernel(pair) / kernel(tiny)))
    rates.append(faintness**0.5)
    return rates[-1]

  regime = regimes.tune(tiny, 0.1, measure)
  assert regime.top_k == regimes.TOP_K
  assert rates[-1] == pytest.approx(0.1, rel=0.1)
  assert len(rates) <= 10


def test_replacement_rate_counts_emitted_tokens_alone():
  source = np.array([[1, 0, 1, 1], [0, 0, 0, 1]], np.int8)
  generated = structs.Rollout(
    tokens=None,
    length=np.array([2, 3]),
    source=source,
    draft_tokens=None,
    stopped=None,
    num_rounds=None,
    teacher_hidden=None,
  )
  assert rollouts.replacement_rate(generated) == pytest.approx(1 / 5)


@pytest.mark.slow
def test_step_cost_compares_with_on_policy(tiny, monkeypatch):
  monkeypatch.setattr(peers, "missing", lambda needed: "trl not installed")
  rows = {row["what"]: row for row in step_cost.make_rows(tiny, STEP)}
  assert rows["on_policy"]["ratio_to_on_policy"] == 1
  for what in ("skd_2pct", "skd_10pct", "supervised"):
    expected = rows[what]["seconds"] / rows["on_policy"]["seconds"]
    assert rows[what]["ratio_to_on_policy"] == pytest.approx(expected)
  assert rows["trl_gkd"] == {
    "what": "trl_gkd",
    "seconds": None,
    "note": "trl not installed",
  }


@pytest.mark.slow
def test_training_step_changes_the_state_and_not_the_pair(tiny):
  batch = pair_lib.make_prompts(tiny, 2, 4)
  on_policy = rollouts.make_rollout(tiny, "on_policy", max_new_tokens=8)
  trainer = step_cost.Trainer(tiny, chunk_size=4)
  before = np.array(tiny.student.params["embedding"])
  trainer.train(batch, rollouts.bind(on_policy, tiny, batch)())
  np.testing.assert_array_equal(before, tiny.student.params["embedding"])
  assert not np.array_equal(before, trainer.state.params["embedding"])
  assert int(trainer.state.step) == 1


def test_gkd_trainer_changes_its_student_at_each_step(tiny):
  missing = peers.missing(peers.GKD)
  if missing:
    pytest.skip(missing)
  prompts = pair_lib.make_prompts(tiny, 2, 4).prompt
  trainer, step = peers.make_gkd_step(tiny, prompts, new_tokens=4)
  weights = [next(trainer.model.parameters()).detach().clone()]
  for _ in range(2):
    step()
    weights.append(next(trainer.model.parameters()).detach().clone())
  assert not weights[0].equal(weights[1])
  assert not weights[1].equal(weights[2])


def test_chunked_loss_needs_less_memory_than_plain():
  settings = loss_memory.Settings(width=16, chunk_size=16, repeats=1)
  row = loss_memory.measure(4000, 256, settings)
  assert (row["vocab"], row["length"]) == (4000, 256)
  assert 0 < row["memory_ratio"] < 0.2
  assert row["time_ratio"] > 0


def test_plain_and_chunked_loss_are_equal():
  model, arguments = loss_memory.make_problem(vocab=100, length=20, width=8)
  plain, chunked = (
    jax.tree.leaves(jax.value_and_grad(loss, argnums=(0, 1))(*arguments))
    for loss in loss_memory.make_losses(model, 8).values()
  )
  for expected, found in zip(plain, chunked, strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_plain_loss_that_does_not_fit_is_stated(monkeypatch):
  monkeypatch.setattr(harness, "available_bytes", lambda: 1000)
  row = loss_memory.measure(400, 8, loss_memory.Settings(width=8, chunk_size=4))
  assert row["time_ratio"] is None
  assert row["memory_ratio"] > 0
  assert "does not fit" in row["note"]


@pytest.mark.slow
@pytest.mark.parametrize(
  "program",
  [
    "speed.rollout_speed",
    "speed.speculative_decoding",
    "speed.step_cost",
    "speed.loss_memory",
    "tpu.plan",
  ],
)
def test_quick_run_writes_its_rows(program, tmp_path):
  path = tmp_path / "result.json"
  command = [sys.executable, "-m", f"benchmarks.{program}"]
  subprocess.run(
    [*command, "--quick", f"--json={path}"],
    check=True,
    timeout=600,
    cwd=tables.ROOT,
  )
  found = json.loads(path.read_text())
  assert found["command"].startswith(f"python -m benchmarks.{program}")
  assert found["rows"]


def test_packed_rows_are_fuller_than_those_of_one_example():
  usual, packed = packing.make_rows(packing.QUICK)
  assert packed["rows"] < usual["rows"] == packing.QUICK.batch_size
  assert usual["fill"] < packed["fill"] <= 1
  assert packed["time_ratio"] > 0


def test_memory_of_a_step_is_more_than_the_least():
  settings = long_sequences.QUICK
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  row = long_sequences.measure(settings.lengths[0], settings, mesh, timed=False)
  assert row["memory_ratio"] > 1
  assert row["rows"] * row["length"] == settings.num_tokens
