"""Speculative decoding gives the teacher's responses in fewer passes."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from skd_jax import structs
from skd_jax.decoding import rollout, sampling, speculative, stopping
from skd_jax.decoding.policy import Policy
from tests import reference
from tests.conftest import (
  make_batch,
  trigram_logits,
  trigram_model,
  trigram_params,
)

pytestmark = pytest.mark.usefixtures("strict")

V = 7
EOS = 0
MODEL = trigram_model()
STUDENT = trigram_params(V, seed=0, scale=1.5)
TEACHER = trigram_params(V, seed=1, scale=1.5)
PROMPTS = [[3], [1, 2, 5], [4, 4], [2, 6, 1, 3, 5], [5, 1]]


@functools.partial(
  jax.jit,
  static_argnames=("num_draft_tokens", "max_new_tokens", "batch_size", "how"),
)
def run(
  student,
  batch,
  keys,
  stop_table,
  *,
  num_draft_tokens,
  max_new_tokens=9,
  batch_size=None,
  how=(sampling.GREEDY, sampling.GREEDY),
):
  return speculative.speculative_decode(
    Policy(student, MODEL, how[0]),
    Policy(TEACHER, MODEL, how[1]),
    batch,
    keys,
    stop_table,
    num_draft_tokens=num_draft_tokens,
    max_new_tokens=max_new_tokens,
    batch_size=batch_size,
  )


def as_lists(result):
  return [
    row[:n].tolist()
    for row, n in zip(
      np.asarray(result.tokens), np.asarray(result.length), strict=True
    )
  ]


@pytest.mark.parametrize(
  ("num_draft_tokens", "batch_size"),
  [
    (5, 2),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in [(1, None), (2, None), (5, None), (1, 2), (2, 2)]
    ),
  ],
)
def test_greedy_teacher_generates_what_it_generates_alone(
  num_draft_tokens, batch_size
):
  batch = make_batch(PROMPTS)
  keys = jax.random.split(jax.random.key(0), len(PROMPTS))
  stop_table = stopping.make_stop_table(V, (EOS,))
  alone = rollout.decode(
    Policy(TEACHER, MODEL, sampling.GREEDY),
    batch,
    keys,
    stop_table,
    max_new_tokens=9,
    source=structs.TEACHER,
  )
  helped = run(
    STUDENT,
    batch,
    keys,
    stop_table,
    num_draft_tokens=num_draft_tokens,
    batch_size=batch_size,
  )
  assert as_lists(helped) == as_lists(alone)
  np.testing.assert_array_equal(helped.stopped, alone.stopped)


def test_student_that_is_the_teacher_saves_all_passes_but_one_a_block():
  batch = make_batch(PROMPTS)
  keys = jax.random.split(jax.random.key(0), len(PROMPTS))
  result = run(
    TEACHER,
    batch,
    keys,
    stopping.make_stop_table(V, ()),
    num_draft_tokens=3,
    max_new_tokens=10,
  )
  # 4 tokens a pass: 3 drafts and one of the teacher's.
  np.testing.assert_array_equal(result.num_rounds, 3)
  expected = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0]
  np.testing.assert_array_equal(result.source, [expected] * len(PROMPTS))


def test_sampled_responses_follow_the_distribution_of_the_teacher():
  """Chi-square against the probabilities of all responses of 3 tokens."""
  num_rows, num_tokens = 30_000, 3
  how = (sampling.Sampling(1.2, 0.9), sampling.Sampling(0.9, 0.95))
  prompt = [3, 2]
  result = run(
    STUDENT,
    make_batch([prompt] * num_rows),
    jax.random.split(jax.random.key(5), num_rows),
    stopping.make_stop_table(V, ()),
    num_draft_tokens=2,
    max_new_tokens=num_tokens,
    how=how,
  )
  exact = reference.response_distribution(
    trigram_logits(STUDENT),
    trigram_logits(TEACHER),
    prompt,
    next_distribution=lambda student, teacher: reference.sampling_distribution(
      teacher, how[1]
    ),
    num_tokens=num_tokens,
  )
  place = V ** np.arange(num_tokens)
  counts = np.bincount(np.asarray(result.tokens) @ place, minlength=V**3)
  expected = np.zeros(V**3)
  for response, mass in exact.items():
    expected[np.asarray(response) @ place] = num_rows * mass
  assert counts[expected == 0].sum() == 0
  common = expected >= 5
  observed = np.append(counts[common], counts[~common].sum())
  wanted = np.append(expected[common], expected[~common].sum())
  wanted *= observed.sum() / wanted.sum()
  keep = wanted > 0
  assert stats.chisquare(observed[keep], wanted[keep]).pvalue > 1e-3
