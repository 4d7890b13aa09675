"""Who generates a step's responses: a model, the data set, or row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import builders, methods, structs
from skd_jax import config as config_lib
from skd_jax.decoding import sampling, stopping
from skd_jax.models import forward, loading
from skd_jax.parallel import sharding
from skd_jax.training import generation, rollout_stats
from tests.conftest import make_batch, trigram_model, trigram_params

V, T, EOS, ROWS = 7, 8, 0, 40
MODEL = trigram_model()
PROMPTS = [[3], [1, 2, 5], [4, 4], [5, 1]] * (ROWS // 4)
REFERENCES = [[2, 4, EOS], [3, EOS], [5, 1, 1, 1, EOS], [EOS]] * (ROWS // 4)
BATCH = make_batch(PROMPTS, references=REFERENCES)


def loaded(seed):
  params = trigram_params(V, seed=seed, scale=1.5)
  return loading.LoadedModel(None, MODEL, params)


STUDENT, TEACHER = loaded(0), loaded(1)


def make_spec(method="skd", num_steps=4, **changes):
  """Returns who generates by a method; G = 3, and K = 2 where it has one."""
  config = methods.apply_method(config_lib.default_config(), method)
  config = methods.change(
    config,
    {
      "rollout.threshold": 2.0,
      "rollout.student_temperature": 1.0,
      "rollout.student_top_p": 1.0,
      "distill.num_steps": num_steps,
      **changes,
    },
  )
  return builders.generation_spec(config, max_new_tokens=T, num_draft_tokens=3)


def make_rollout_fn(spec):
  return generation.make_rollout_fn(
    spec,
    STUDENT,
    TEACHER,
    stopping.make_stop_table(V, (EOS,)),
    mesh=sharding.make_mesh(data=-1, fsdp=1, tensor=1),
    dtype=jnp.float32,
  )


def generate(spec, step=0, batch=BATCH, rollout_fn=None):
  """Returns the responses of a step, and the seconds by part."""
  return generation.generate_responses(
    spec,
    rollout_fn or make_rollout_fn(spec),
    MODEL,
    STUDENT.params,
    TEACHER.params,
    batch,
    sampling.row_keys(0, 5, batch.index),
    step,
  )


def rows_of(rollout):
  rows = zip(*jax.device_get((rollout.tokens, rollout.length)), strict=True)
  return [tokens[:length].tolist() for tokens, length in rows]


def assert_targets_are_the_teachers(rollout, batch=BATCH):
  hidden = forward.response_hidden(
    MODEL, TEACHER.params, batch.prompt, batch.prompt_length, rollout.tokens
  )
  for row, length in enumerate(np.asarray(rollout.length)):
    np.testing.assert_allclose(
      rollout.teacher_hidden[row, :length], hidden[row, :length], rtol=1e-6
    )


@pytest.fixture(scope="module", params=["on_policy_kd", "skd"])
def pure_and_mixed(request):
  mixed = make_spec(request.param, **{"rollout.reference_share": 0.5})
  return generate(make_spec(request.param))[0], generate(mixed)[0]


def test_mixed_rows_are_references_or_what_is_generated(pure_and_mixed):
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
  together, marked = generation.choose_references(BATCH, keys, 0.5)
  np.testing.assert_array_equal(np.asarray(marked.index) < 0, together)
  few = jax.tree.map(lambda x: x[7:12], BATCH)
  alone, _ = generation.choose_references(few, keys[7:12], 0.5)
  np.testing.assert_array_equal(alone, together[7:12])


def test_share_is_the_probability_of_a_row():
  keys = jax.random.split(jax.random.key(0), 4000)
  batch = make_batch([[3]] * 4000)
  for share in (0.1, 0.7):
    chosen, _ = generation.choose_references(batch, keys, share)
    assert np.mean(chosen) == pytest.approx(share, abs=0.03)


class Calls:
  """A rollout that counts its calls and remembers its thresholds."""

  def __init__(self, spec):
    self._rollout_fn = make_rollout_fn(spec)
    self.thresholds = []

  def __call__(self, *arguments):
    self.thresholds.append(float(arguments[-1]))
    return self._rollout_fn(*arguments)


def test_two_stages_have_one_source_each():
  spec = make_spec("two_stage")
  calls, sources = Calls(spec), []
  for step in range(4):
    rollout, seconds = generate(spec, step, rollout_fn=calls)
    within = np.arange(rollout.tokens.shape[1]) < rollout.length[:, None]
    (source,) = set(np.asarray(rollout.source)[np.asarray(within)].tolist())
    sources.append(source)
    assert seconds["verify"] > 0
    assert_targets_are_the_teachers(rollout)
  assert sources == [structs.REFERENCE] * 2 + [structs.STUDENT] * 2
  assert len(calls.thresholds) == 2  # No rollout in the first half.


def test_references_alone_need_no_rollout():
  def refuse(*_):
    raise AssertionError("a rollout")

  rollout, _ = generate(make_spec("supervised_kd"), rollout_fn=refuse)
  assert rows_of(rollout) == REFERENCES


def test_skd_has_no_teacher_pass_besides_its_own(monkeypatch):
  def refuse(*_):
    raise AssertionError("a second teacher pass")

  monkeypatch.setattr(generation, "with_teacher_hidden", refuse)
  rollout, seconds = generate(make_spec("skd"))
  assert rollout.teacher_hidden is not None
  assert set(seconds) - {"compile"} == {"generate"}
  with pytest.raises(AssertionError, match="second teacher pass"):
    generate(make_spec("on_policy_kd"))


def test_teacher_that_generates_has_no_pass_besides_its_own(monkeypatch):
  spec = make_spec("teacher_kd")
  monkeypatch.setattr(generation, "with_teacher_hidden", None)
  rollout, seconds = generate(spec)
  assert set(np.unique(rollout.source[:, 0])) == {structs.TEACHER}
  assert set(seconds) - {"compile"} == {"generate"}
  assert_targets_are_the_teachers(rollout)


@pytest.mark.parametrize("method", ["skd", "supervised_kd", "imit_kd"])
def test_first_tokens_alone_are_generated_and_learned(method):
  spec = make_spec(method)
  whole, _ = generate(spec)
  cut, _ = generate(
    make_spec(
      method,
      **{
        "rollout.first_tokens": 1,
        "rollout.first_tokens_end": 4,
        "rollout.first_tokens_schedule": "linear",
      },
    ),
    step=1,  # Of 4: the second of 1, 2, 3, 4.
  )
  assert np.max(whole.length) > 2
  np.testing.assert_array_equal(cut.length, np.minimum(whole.length, 2))
  for row, length in enumerate(np.asarray(cut.length)):
    np.testing.assert_array_equal(
      cut.tokens[row, :length], whole.tokens[row, :length]
    )


@pytest.mark.parametrize("method", ["sft", "seq_kd"])
def test_cross_entropy_asks_no_teacher_for_targets(method, monkeypatch):
  def refuse(*_):
    raise AssertionError("a teacher pass")

  monkeypatch.setattr(generation, "with_teacher_hidden", refuse)
  rollout, seconds = generate(make_spec(method))
  assert rollout.teacher_hidden is None
  assert set(seconds) - {"compile"} == {"generate"}
  trimmed, _ = rollout_stats.trim_and_count(rollout, 2)
  assert trimmed.teacher_hidden is None


def replacement_rate(rollout):
  _, stats = rollout_stats.trim_and_count(rollout, 1)
  return stats.rates()["replacement_rate"]


def test_threshold_follows_its_schedule():
  spec = make_spec(
    **{
      "rollout.threshold": 4.0,
      "rollout.threshold_end": 1.0,
      "rollout.threshold_schedule": "linear",
    }
  )
  calls = Calls(spec)
  rates = [
    replacement_rate(generate(spec, step, rollout_fn=calls)[0])
    for step in range(4)
  ]
  assert calls.thresholds == [4.0, 3.0, 2.0, 1.0]
  assert rates[0] < rates[3]


def test_rounds_are_those_of_a_judge():
  for method in ("on_policy_kd", "seq_kd", "supervised_kd"):
    rollout, _ = generate(make_spec(method))
    assert not np.any(rollout.num_rounds), method
  assert np.all(generate(make_spec("skd"))[0].num_rounds > 0)
