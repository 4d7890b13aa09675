"""The loop with an encoder in front: prompts are encoded, slots refilled."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models, structs
from skd_jax.decoding import acceptance, rollout, sampling, stopping
from skd_jax.decoding.drafters import ModelDrafter
from skd_jax.decoding.policy import Policy
from skd_jax.decoding.speculative import speculative_decode
from tests import reference
from tests.conftest import make_batch
from tests.toy_models import M2M100, T5, noisy_params

V, T, EOS = 11, 6, 2
# With what the decoder starts from: the last two tokens.
PROMPTS = [[3, 4, 2, 2, 9], [7, 2, 2, 9], [3, 5, 5, 8, 6, 2, 2, 10]]
PROMPTS += [[6, 1, 2, 2, 9], [4, 4, 4, 4, 2, 2, 9]]
RULE = acceptance.Rule("top_k", "sample")
HOW = {
  "student_sampling": sampling.Sampling(1.3, 0.95),
  "teacher_sampling": sampling.Sampling(0.8, 0.9),
}
SMALL = dataclasses.replace(M2M100, vocab_size=V, num_encoder_layers=1)
CONFIGS = {
  "m2m100": SMALL,
  "t5": dataclasses.replace(T5, vocab_size=V, num_encoder_layers=1),
}


@functools.cache
def policies(family):
  """Student and teacher of different widths."""
  config = CONFIGS[family]
  wide = dataclasses.replace(config, hidden_size=16, num_layers=1)
  return tuple(
    Policy(noisy_params(c, seed, scale=0.4), models.create(c), how)
    for seed, (c, how) in enumerate(
      zip((config, wide), HOW.values(), strict=True)
    )
  )


_each_family = pytest.mark.parametrize(
  "family", ["t5", pytest.param("m2m100", marks=pytest.mark.slow)]
)
STOPS = stopping.make_stop_table(V, (EOS,))
KEYS = jax.random.split(jax.random.key(3), len(PROMPTS))


@functools.partial(jax.jit, static_argnames="batch_size")
def run(student, teacher, batch, keys, threshold, batch_size=None):
  return rollout.rollout(
    student,
    teacher,
    batch,
    keys,
    STOPS,
    threshold,
    rule=RULE,
    num_draft_tokens=3,
    max_new_tokens=T,
    batch_size=batch_size,
  )


@functools.partial(jax.jit, static_argnames="source")
def decode(policy, batch, keys, source):
  return rollout.decode(
    policy, batch, keys, STOPS, max_new_tokens=T, source=source
  )


def as_lists(result, field="tokens"):
  values = np.asarray(getattr(result, field))
  return [
    row[:n].tolist()
    for row, n in zip(values, np.asarray(result.length), strict=True)
  ]


@jax.jit
def whole_logits(policy, prompt, length, tokens):
  hidden = policy.model.response_hidden(policy.params, prompt, length, tokens)
  return policy.logits(hidden)


def sequence_logits(policy, prompt):
  """The same model, as a plain function of prompt and response so far."""
  padded = make_batch([prompt], max(map(len, PROMPTS)))

  def logits(sequence):
    tokens = np.zeros((1, T), np.int32)
    done = sequence[len(prompt) :]
    tokens[0, : len(done)] = done
    found = whole_logits(policy, padded.prompt, padded.prompt_length, tokens)
    return np.asarray(found)[0, len(done)]

  return logits


@_each_family
def test_rollout_of_refilled_slots_equals_the_reference(family):
  student, teacher = policies(family)
  batch = make_batch(PROMPTS)
  result = run(student, teacher, batch, KEYS, jnp.float32(2), batch_size=2)
  expected = [
    reference.skd(
      sequence_logits(student, prompt),
      sequence_logits(teacher, prompt),
      prompt,
      key,
      accept=RULE.accept,
      replace=RULE.replace,
      threshold=2,
      eos_id=EOS,
      max_new_tokens=T,
      **HOW,
    )
    for prompt, key in zip(PROMPTS, KEYS, strict=True)
  ]
  assert as_lists(result) == [tokens for tokens, _, _ in expected]
  sources = as_lists(result, "source")
  assert sources == [sources for _, sources, _ in expected]
  assert {0, 1} == {source for row in sources for source in row}
  # Nor does a separate pass of the teacher compute other states.
  separate = jax.jit(teacher.model.response_hidden)(
    teacher.params, batch.prompt, batch.prompt_length, result.tokens
  )
  for row, length in enumerate(np.asarray(result.length)):
    np.testing.assert_allclose(
      result.teacher_hidden[row, :length], separate[row, :length], atol=1e-5
    )


@pytest.mark.slow
@_each_family
def test_limits_are_the_models_alone(family):
  student, teacher = policies(family)
  batch = make_batch(PROMPTS)
  all_accepted = run(student, teacher, batch, KEYS, jnp.float32(V))
  alone = decode(student, batch, KEYS, structs.STUDENT)
  assert as_lists(all_accepted) == as_lists(alone)
  none_accepted = run(student, teacher, batch, KEYS, jnp.float32(0))
  alone = decode(teacher, batch, KEYS, structs.TEACHER)
  assert as_lists(none_accepted) == as_lists(alone)
  assert len({tuple(row) for row in as_lists(alone)}) == len(PROMPTS)


@_each_family
def test_rows_do_not_depend_on_their_batch_nor_on_the_width_of_prompts(family):
  student, teacher = policies(family)
  together = run(student, teacher, make_batch(PROMPTS), KEYS, jnp.float32(2))
  few = [1, 3]
  apart = run(
    student,
    teacher,
    make_batch([PROMPTS[row] for row in few], 13),
    KEYS[jnp.asarray(few)],
    jnp.float32(2),
  )
  assert as_lists(apart) == [as_lists(together)[row] for row in few]


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_teacher_generates_with_a_drafter_what_it_does_alone(family):
  student, teacher = (
    dataclasses.replace(policy, sampling=sampling.GREEDY)
    for policy in policies(family)
  )
  batch = make_batch(PROMPTS)
  helped = jax.jit(
    lambda student, teacher: speculative_decode(
      ModelDrafter(student),
      teacher,
      batch,
      KEYS,
      STOPS,
      num_draft_tokens=2,
      max_new_tokens=T,
      batch_size=2,
    )
  )(student, teacher)
  alone = decode(teacher, batch, KEYS, structs.TEACHER)
  assert as_lists(helped) == as_lists(alone)


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_drafter_that_starts_switched_off_has_read_the_source(family):
  _, teacher = policies(family)
  teacher = dataclasses.replace(teacher, sampling=sampling.GREEDY)
  result = jax.jit(
    lambda teacher: speculative_decode(
      ModelDrafter(teacher),
      teacher,
      make_batch(PROMPTS),
      KEYS,
      stopping.make_stop_table(V, ()),
      num_draft_tokens=3,
      max_new_tokens=24,
      draft_cost=0.1,
      round_cost=0.1,
      expected_acceptance=0.1,
    )
  )(teacher)
  drafted = np.asarray(result.source) == structs.STUDENT
  assert not np.any(drafted[:, :16])  # It is tried after 16 rounds.
  assert np.all(drafted[:, 16])
  # One draft of one token and its follower, then three in four.
  np.testing.assert_array_equal(np.sum(drafted[:, 18:], axis=1), 5)
