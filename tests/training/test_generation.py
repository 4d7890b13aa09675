"""Who writes a step's data: the policy, the data set, or row by row."""

import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import config as config_lib
from skd_jax import methods, policies, structs, writers
from skd_jax.decoding import sampling, stopping
from skd_jax.experiment import Run
from skd_jax.models import forward, loading
from skd_jax.parallel import sharding
from tests import tiny_run
from tests.conftest import make_batch, trigram_model, trigram_params


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation(tmp_path_factory):
  with tiny_run.quick_compilation(tmp_path_factory):
    yield


V, T, EOS, ROWS = 7, 8, 0, 40
MODEL = trigram_model(V)
PROMPTS = [[3], [1, 2, 5], [4, 4], [5, 1]] * (ROWS // 4)
REFERENCES = [[2, 4, EOS], [3, EOS], [5, 1, 1, 1, EOS], [EOS]] * (ROWS // 4)
BATCH = make_batch(PROMPTS, references=REFERENCES)


def loaded(seed):
  params = trigram_params(V, seed=seed, scale=1.5)
  return loading.LoadedModel(None, MODEL, params)


STUDENT, TEACHER = loaded(0), loaded(1)


def make_run(method="skd", num_steps=4, **changes):
  config = methods.apply(config_lib.default_config(), method)
  config = methods.change(
    config,
    {
      "rollout.threshold": 2.0,
      "rollout.student_temperature": 1.0,
      "rollout.student_top_p": 1.0,
      "rollout.num_draft_tokens": 3,
      "distill.num_steps": num_steps,
      **changes,
    },
  )
  task = types.SimpleNamespace(
    max_new_tokens=T, stop_table=stopping.make_stop_table(V, (EOS,))
  )
  mesh = sharding.make_mesh(data=-1, fsdp=1, tensor=1)
  return Run(config, pathlib.Path(), task, jnp.float32, mesh)


def write(run, step=0, batch=BATCH, policy=None):
  policy = policy or policies.make_policy_fn(run, STUDENT, TEACHER, 3)
  keys = sampling.row_keys(0, 5, batch.index)
  written, seconds = writers.make_write_fn(run, TEACHER, policy)(
    STUDENT.params, TEACHER.params, batch, keys, step
  )
  return written, seconds


def rows_of(written):
  rows = zip(*jax.device_get((written.tokens, written.length)), strict=True)
  return [tokens[:length].tolist() for tokens, length in rows]


def assert_targets_are_the_teachers(written, batch=BATCH):
  scored = forward.response_hidden(
    MODEL, TEACHER.params, batch.prompt, batch.prompt_length, written.tokens
  )
  for row, length in enumerate(np.asarray(written.length)):
    np.testing.assert_allclose(
      written.teacher_hidden[row, :length], scored[row, :length], rtol=1e-6
    )


@pytest.fixture(scope="module", params=["on_policy_kd", "skd"])
def pure_and_mixed(request):
  mixed = make_run(request.param, **{"rollout.reference_share": 0.5})
  return write(make_run(request.param))[0], write(mixed)[0]


def test_mixed_rows_are_references_or_what_the_policy_writes(pure_and_mixed):
  pure, mixed = pure_and_mixed
  is_reference = np.asarray(mixed.source)[:, 0] == structs.REFERENCE
  assert 10 < is_reference.sum() < 30
  for row, tokens in enumerate(rows_of(mixed)):
    if is_reference[row]:
      assert tokens == REFERENCES[row]
      assert np.all(mixed.source[row, : len(tokens)] == structs.REFERENCE)
      assert mixed.stopped[row]
      assert mixed.num_rounds[row] == 0  # No rollout was made for it.
    else:
      assert tokens == rows_of(pure)[row]
      for field in ("source", "draft_tokens"):
        np.testing.assert_array_equal(
          getattr(mixed, field)[row, : len(tokens)],
          getattr(pure, field)[row, : len(tokens)],
        )


def test_every_row_of_a_mix_has_its_targets(pure_and_mixed):
  pure, mixed = pure_and_mixed
  assert_targets_are_the_teachers(pure)
  assert_targets_are_the_teachers(mixed)


def test_choice_of_a_row_does_not_depend_on_its_batch():
  keys = sampling.row_keys(0, 5, BATCH.index)
  together, marked = writers.choose_references(BATCH, keys, 0.5)
  np.testing.assert_array_equal(np.asarray(marked.index) < 0, together)
  few = jax.tree.map(lambda x: x[7:12], BATCH)
  alone, _ = writers.choose_references(few, keys[7:12], 0.5)
  np.testing.assert_array_equal(alone, together[7:12])


def test_share_is_the_probability_of_a_row():
  keys = jax.random.split(jax.random.key(0), 4000)
  batch = make_batch([[3]] * 4000)
  for share in (0.1, 0.7):
    chosen, _ = writers.choose_references(batch, keys, share)
    assert np.mean(chosen) == pytest.approx(share, abs=0.03)


class Calls:
  """A policy that counts its calls and remembers its thresholds."""

  def __init__(self, run):
    self._policy = policies.make_policy_fn(run, STUDENT, TEACHER, 3)
    self.thresholds = []

  def __call__(self, *arguments):
    self.thresholds.append(float(arguments[-1]))
    return self._policy(*arguments)


def test_two_stages_write_with_one_source_each():
  run = make_run("two_stage")
  calls, sources = Calls(run), []
  for step in range(4):
    written, seconds = write(run, step, policy=calls)
    within = np.arange(written.tokens.shape[1]) < written.length[:, None]
    (source,) = set(np.asarray(written.source)[np.asarray(within)].tolist())
    sources.append(source)
    assert seconds["seconds_verify"] > 0
    assert_targets_are_the_teachers(written)
  assert sources == [structs.REFERENCE] * 2 + [structs.STUDENT] * 2
  assert len(calls.thresholds) == 2  # No rollout in the first half.


def test_references_alone_need_no_rollout():
  run = make_run("supervised_kd")
  calls = Calls(run)
  written, _ = write(run, policy=calls)
  assert calls.thresholds == []
  assert rows_of(written) == REFERENCES


def test_skd_has_no_teacher_pass_besides_its_own(monkeypatch):
  def refuse(*_):
    raise AssertionError("a second teacher pass")

  monkeypatch.setattr(writers.scoring, "response_hidden", refuse)
  written, seconds = write(make_run("skd"))
  assert written.teacher_hidden is not None
  assert "seconds_verify" not in seconds
  with pytest.raises(AssertionError, match="second teacher pass"):
    write(make_run("on_policy_kd"))


@pytest.mark.parametrize("method", ["sft", "seq_kd"])
def test_cross_entropy_asks_no_teacher_for_targets(method, monkeypatch):
  def refuse(*_):
    raise AssertionError("a teacher pass")

  monkeypatch.setattr(writers.scoring, "response_hidden", refuse)
  written, seconds = write(make_run(method))
  assert written.teacher_hidden is None
  assert list(seconds) == ["seconds_generate"]
  trimmed, _ = writers.trim_and_count(written, 2)
  assert trimmed.teacher_hidden is None


def test_threshold_follows_its_schedule():
  run = make_run(
    **{
      "rollout.threshold": 4.0,
      "rollout.threshold_end": 1.0,
      "rollout.threshold_schedule": "linear",
    }
  )
  calls = Calls(run)
  replaced = []
  for step in range(4):
    written, _ = write(run, step, policy=calls)
    counts = writers.count(jax.device_get(written))
    replaced.append(counts["replaced"] / counts["emitted"])
  assert calls.thresholds == [4.0, 3.0, 2.0, 1.0]
  assert replaced[0] < replaced[3]


def test_counts_are_of_what_models_wrote():
  source = np.array([[0, 1, 0, 0, 1], [2] * 5, [1, 0, 1, 1, 1]], np.int8)
  written = structs.Rollout(
    tokens=np.zeros((3, 5), np.int32),
    length=np.array([5, 3, 2], np.int32),
    source=source,
    # Of three replacements two are another token than the proposed one.
    draft_tokens=np.array([[0, 7, 0, 0, 0], [0] * 5, [8, 0, 9, 9, 9]]),
    stopped=np.array([False, True, True]),
    num_rounds=np.array([3, 0, 1], np.int32),
    teacher_hidden=None,
  )
  assert writers.count(written) == {
    "rows": 2,
    "emitted": 7,
    "replaced": 3,
    "changed": 2,
    "truncated": 1,
    "rounds": 4,
    # Positions 0, 1, 2 and 3, and 4.
    "emitted_from_0": 2,
    "replaced_from_0": 1,
    "emitted_from_1": 2,
    "replaced_from_1": 1,
    "emitted_from_2": 2,
    "replaced_from_2": 0,
    "emitted_from_4": 1,
    "replaced_from_4": 1,
  }


def test_rounds_are_those_of_a_judge():
  counts = writers.count(jax.device_get(write(make_run("on_policy_kd"))[0]))
  assert counts["rounds"] == 0
  assert not any("_from_" in name for name in counts)
  judged = writers.count(jax.device_get(write(make_run("skd"))[0]))
  assert judged["rounds"] > 0
  for kind in ("emitted", "replaced"):
    parts = [v for k, v in judged.items() if k.startswith(f"{kind}_from_")]
    assert sum(parts) == judged[kind]
