"""The teacher's share follows the distance that the rollouts show."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import structs
from skd_jax.decoding import sampling
from skd_jax.training import checkpoint, distance, generation, schedules
from skd_jax.training import train_step as train_step_lib
from tests import reference
from tests.conftest import make_batch, trigram_logits
from tests.training import test_train_step as toy
from tests.training.test_generation import (
  MODEL,
  STUDENT,
  TEACHER,
  make_rollout_fn,
  make_spec,
)

RULE = distance.ShareByDistance(least=0.05, largest=1.0)


def responses(source, length=None):
  """A rollout of rows of sources; nothing else in it is looked at."""
  source = np.asarray(source, np.int8)
  rows, size = source.shape
  zeros = jnp.zeros((rows, size), jnp.int32)
  length = [size] * rows if length is None else length
  return structs.Rollout(
    tokens=zeros,
    length=jnp.asarray(length),
    source=jnp.asarray(source),
    draft_tokens=zeros,
    stopped=jnp.zeros(rows, bool),
    num_rounds=jnp.zeros(rows, jnp.int32),
    teacher_hidden=None,
    teacher_top=None,
  )


def shares(*rollouts):
  """The shares of the first step, and after each of the rollouts."""
  seen, found = RULE.start(), []
  for rollout in rollouts:
    found.append(float(RULE.share(seen)))
    seen = RULE.after(seen, rollout)
  return [*found, float(RULE.share(seen))]


def test_share_is_twice_the_distance_of_recent_steps():
  S, T = structs.STUDENT, structs.TEACHER
  # With a share of 1, one of five: a distance of 0.2. With 0.4, none of five,
  # and 0.9 of what was before: 2 x 0.9 / (0.9 x 5 + 0.4 x 5) = 0.277.
  found = shares(responses([[S, T, S, S, S]]), responses([[S] * 5]))
  np.testing.assert_allclose(found, [1.0, 0.4, 1.8 / 6.5], rtol=1e-6)


def test_share_stays_within_its_bounds():
  S, T = structs.STUDENT, structs.TEACHER
  assert shares(responses([[T, T, S, T]])) == [1.0, 1.0]
  least = np.float32(RULE.least)
  assert shares(responses([[S, S, S, S]])) == [1.0, pytest.approx(least)]


def test_references_and_what_follows_the_end_are_not_counted():
  S, T, R = structs.STUDENT, structs.TEACHER, structs.REFERENCE
  short = responses([[S, T, S, S, S, T], [R] * 6], length=[5, 6])
  assert shares(short) == shares(responses([[S, T, S, S, S]]))


@pytest.mark.slow
def test_distance_is_the_total_variation_along_the_responses():
  spec = make_spec("mixture_by_distance", **{"rollout.threshold": 0.6})
  batch = make_batch([[3], [1, 2, 5], [4, 4], [5, 1]] * 100)
  seen = jnp.float32([0.2, 1.0])  # So the share is 0.4.
  rollout, _ = generation.generate_responses(
    spec,
    make_rollout_fn(spec),
    MODEL,
    STUDENT.params,
    TEACHER.params,
    batch,
    sampling.row_keys(0, 5, jnp.arange(400)),
    3,
    seen,
  )
  models = [
    (trigram_logits(STUDENT.params), spec.student_sampling),
    (trigram_logits(TEACHER.params), spec.teacher_sampling),
  ]
  apart = []
  for row in range(400):
    sequence = list(batch.prompt[row, : batch.prompt_length[row]])
    for token in rollout.tokens[row, : rollout.length[row]]:
      p, q = (
        reference.sampling_distribution(logits(sequence), how)
        for logits, how in models
      )
      apart.append(0.5 * np.sum(np.abs(p - q)))
      sequence.append(int(token))
  chance = 0.4 * np.asarray(apart)
  assert spec.by_distance
  replaced, weight = spec.by_distance.after(seen, rollout) - 0.9 * seen
  deviation = np.sqrt(np.sum(chance * (1 - chance)))
  assert abs(float(replaced) - chance.sum()) < 4 * deviation
  assert float(weight) == pytest.approx(0.4 * len(apart), rel=1e-5)


def test_responses_are_drawn_with_the_share_of_the_state():
  spec = make_spec("mixture_by_distance", **{"rollout.threshold": 1.0})
  given = []

  def rollout_fn(student, teacher, batch, keys, threshold):
    given.append(float(threshold))
    return generation.reference_rollout(batch)

  for seen in (None, [0.0, 0.0], [30.0, 100.0]):
    generation.generate_responses(
      spec,
      rollout_fn,
      MODEL,
      None,
      None,
      toy.BATCH,
      sampling.row_keys(0, 0, toy.BATCH.index),
      2,
      None if seen is None else jnp.float32(seen),
    )
  assert given == pytest.approx([1.0, 1.0, 0.6])


def test_train_step_keeps_the_distance_and_a_checkpoint_has_it(tmp_path):
  optimizer = toy.optimizer()
  state = train_step_lib.init_train_state(toy.params(0), optimizer, RULE)
  rollout = dataclasses.replace(
    toy.verified(toy.params(1)), source=jnp.ones((4, 4), jnp.int8)
  )
  step = functools.partial(
    train_step_lib.train_step,
    loss_fn=toy.loss_fn(),
    optimizer=optimizer,
    num_microbatches=1,
    by_distance=RULE,
  )
  head = toy.MODEL.head_params(toy.params(1))
  state, metrics = jax.jit(step)(state, head, toy.BATCH, rollout)
  num_tokens = int(np.sum(rollout.length))
  np.testing.assert_array_equal(state.distance, [num_tokens, num_tokens])
  assert metrics["teacher_share"] == 1
  start = train_step_lib.init_train_state(toy.params(0), optimizer, RULE)
  with checkpoint.open_manager(tmp_path) as manager:
    checkpoint.save(manager, state, {})
  with checkpoint.open_manager(tmp_path) as manager:
    restored, _ = checkpoint.restore(manager, start)
  jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_other_schedules_have_no_distance():
  assert distance.of_schedule(schedules.Schedule(0.5, 0.1, "linear")) is None
  by_distance = distance.of_schedule(
    schedules.Schedule(0.5, 0.1, schedules.BY_DISTANCE)
  )
  assert by_distance == distance.ShareByDistance(least=0.1, largest=0.5)
