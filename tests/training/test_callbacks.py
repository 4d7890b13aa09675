"""What is called at chosen steps: validation, and rollouts to look at."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import builders, methods, structs
from skd_jax import config as config_lib
from skd_jax.training import callbacks

STATE = structs.TrainState(step=jnp.int32(4), params="student", opt_state=())


def test_validation_scores_are_named_so():
  validate = callbacks.Validate(lambda params: {"bleu": 2.0, "kl": 0.5})
  assert validate(STATE, 4) == {"validation_bleu": 2.0, "validation_kl": 0.5}


@pytest.mark.parametrize(
  ("every", "num_steps", "steps"),
  [(3, 10, [3, 6, 9]), (5, 10, [5, 10]), (0, 10, []), (11, 10, [])],
)
def test_validation_is_every_so_many_steps(every, num_steps, steps):
  validate = callbacks.Validate(dict)
  assert list(validate.every(every, num_steps)) == steps


class Words:
  """A tokenizer whose ids are words; the first has no space before it."""

  def decode(self, ids, skip_special_tokens):
    assert not skip_special_tokens
    return " ".join(f"w{token}" for token in ids)


ROLLOUT = structs.Rollout(
  tokens=np.array([[1, 2, 0], [3, 0, 0]]),
  length=np.array([2, 1]),
  source=np.array([[0, 1, 0], [0, 0, 0]], np.int8),
  draft_tokens=np.array([[1, 5, 0], [3, 0, 0]]),
  stopped=np.array([True, False]),
  num_rounds=np.array([1, 1]),
  teacher_hidden=None,
)


def make_keep_samples(folder, **changes):
  spec = builders.generation_spec(
    methods.change(
      config_lib.default_config(),
      {
        "distill.num_steps": 5,
        "rollout.threshold": 9.0,
        "rollout.threshold_end": 1.0,
        "rollout.threshold_schedule": "linear",
      },
    ),
    max_new_tokens=3,
    num_draft_tokens=2,
  )
  calls = []

  def rollout_fn(student, teacher, batch, keys, threshold):
    calls.append(
      (student, teacher, float(threshold), jax.random.key_data(keys))
    )
    return ROLLOUT

  def annotate(student, teacher, batch, rollout):
    shape = rollout.tokens.shape
    return {
      "teacher_token": np.full(shape, 7),
      "rank": np.full(shape, 2),
      "student_prob": np.full(shape, 0.5),
      "teacher_prob": np.full(shape, 0.25),
      "emitted_teacher_prob": np.full(shape, 0.125),
    }

  zeros = jnp.zeros(2, jnp.int32)
  batch = structs.Batch(zeros, zeros, zeros, zeros, zeros + 1, zeros, zeros)
  keep = callbacks.KeepSamples(
    **{
      "folder": folder,
      "batch": batch,
      "examples": [{"source": "a", "target": "b"}] * 2,
      "tokenizer": Words(),
      "rollout_fn": rollout_fn,
      "annotate": annotate,
      "params_of": lambda state: state.params,
      "teacher_params": "teacher",
      "spec": spec,
      "seed": 3,
      "num_steps": 5,
    }
    | changes
  )
  return keep, calls


def test_samples_are_kept_as_what_the_page_shows(tmp_path):
  keep, calls = make_keep_samples(tmp_path / "samples")
  logged = keep(STATE, 4)["rollouts"]
  assert logged.columns == ("prompt", "rollout", "reference")
  assert logged.rows == [("a", "w1[ w5→ w2]", "b"), ("a", "w3", "b")]
  first, second = json.loads((tmp_path / "samples" / "4.json").read_text())
  assert (first["prompt"], first["reference"]) == ("a", "b")
  assert (first["step"], first["truncated"]) == (4, False)
  assert second["truncated"]
  student, teacher = first["tokens"]
  assert (student["text"], student["source"]) == ("w1", "student")
  # As it stands in the text: with the space before it.
  assert teacher == {
    "text": " w2",
    "source": "teacher",
    "student_token": " w5",
    "teacher_token": " w7",
    "rank": 2,
    "student_prob": 0.5,
    "teacher_prob": 0.25,
    "emitted_teacher_prob": 0.125,
  }
  assert len(second["tokens"]) == 1
  # Of the threshold that this step has.
  assert calls[0][:3] == ("student", "teacher", 1.0)


def test_draws_are_the_same_each_time(tmp_path):
  keep, calls = make_keep_samples(tmp_path)
  keep(STATE, 0)
  keep(STATE, 4)
  assert [threshold for _, _, threshold, _ in calls] == [9.0, 1.0]
  np.testing.assert_array_equal(calls[0][3], calls[1][3])


@pytest.mark.parametrize(
  ("num_steps", "steps"), [(40, [0, 4, 20, 40]), (6, [0, 3, 6]), (0, [0])]
)
def test_samples_are_kept_over_the_run(tmp_path, num_steps, steps):
  keep, _ = make_keep_samples(tmp_path, num_steps=num_steps)
  assert list(keep.over_the_run()) == steps
