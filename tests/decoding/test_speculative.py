"""Speculative decoding gives the teacher's responses in fewer passes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from scipy import stats

from skd_jax import structs
from skd_jax.decoding import draft_stats, rollout, sampling, stopping
from skd_jax.decoding.drafters import ModelDrafter, PromptLookup
from skd_jax.decoding.policy import Policy
from skd_jax.decoding.speculative import (
  measured_draft_cost,
  speculative_decode,
)
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
# The last ones are texts of two tokens, which repeat themselves.
PROMPTS = [[3], [1, 2, 5], [4, 4], [2, 6, 1, 3, 5], [5, 1]]
PROMPTS += [[2], [1, 2, 1], [1, 2, 1, 2, 1], [2, 2, 1, 2], [1, 1, 2, 1, 1]]
ROWS, T, G = len(PROMPTS), 12, 3
HOW = sampling.Sampling(0.9, 0.95)
DRAFTERS = ("student", "lookup")


def make_drafter(name, params=STUDENT, how=sampling.GREEDY):
  if name == "lookup":
    return PromptLookup()
  return ModelDrafter(Policy(params, MODEL, how))


@functools.partial(
  jax.jit, static_argnames=("num_draft_tokens", "max_new_tokens", "batch_size")
)
def run(
  drafter,
  teacher,
  batch,
  keys,
  stop_table,
  *,
  num_draft_tokens=G,
  max_new_tokens=T,
  batch_size=4,
  draft_cost=0.0,
):
  return speculative_decode(
    drafter,
    teacher,
    batch,
    keys,
    stop_table,
    num_draft_tokens=num_draft_tokens,
    max_new_tokens=max_new_tokens,
    batch_size=batch_size,
    draft_cost=draft_cost,
  )


@jax.jit
def run_alone(teacher, batch, keys, stop_table):
  return rollout.decode(
    teacher,
    batch,
    keys,
    stop_table,
    max_new_tokens=T,
    source=structs.TEACHER,
  )


def inputs(prompts=PROMPTS, stops=(), seed=0, size=5):
  """Batch, row keys and stop table."""
  return (
    make_batch(prompts, size),
    jax.random.split(jax.random.key(seed), len(prompts)),
    stopping.make_stop_table(V, stops),
  )


def count(result):
  return draft_stats.count(jax.device_get(result), G)


def as_lists(result):
  return [
    row[:n].tolist()
    for row, n in zip(
      np.asarray(result.tokens), np.asarray(result.length), strict=True
    )
  ]


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize(
  ("num_draft_tokens", "batch_size"),
  [
    (G, 4),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in [(1, None), (2, None), (5, None), (1, 2), (2, 2)]
    ),
  ],
)
def test_greedy_teacher_generates_what_it_generates_alone(
  num_draft_tokens, batch_size, drafter
):
  saved = 0
  for seed in range(20):
    teacher = Policy(trigram_params(V, seed + 1), MODEL, sampling.GREEDY)
    arguments = teacher, *inputs(stops=(EOS,))
    alone = run_alone(*arguments)
    helped = run(
      make_drafter(drafter),
      *arguments,
      num_draft_tokens=num_draft_tokens,
      batch_size=batch_size,
      draft_cost=[0.0, 0.3][seed % 2],
    )
    assert as_lists(helped) == as_lists(alone)
    np.testing.assert_array_equal(helped.stopped, alone.stopped)
    saved += np.sum(helped.length) - np.sum(helped.num_rounds)
  assert saved > 0


def test_student_that_is_the_teacher_saves_all_passes_but_one_a_block():
  result = run(
    make_drafter("student", TEACHER),
    Policy(TEACHER, MODEL, sampling.GREEDY),
    *inputs(),
    draft_cost=0.9,  # As nothing is rejected, drafts stay long.
  )
  # 4 tokens a pass: 3 drafts and one of the teacher's.
  np.testing.assert_array_equal(result.num_rounds, 3)
  np.testing.assert_array_equal(result.source, [[0, 0, 0, 1] * 3] * ROWS)


def test_drafter_that_does_not_pay_is_switched_off():
  worst = {**TEACHER, "table": -TEACHER["table"]}
  teacher = Policy(TEACHER, MODEL, sampling.GREEDY)

  def judged(draft_cost):
    drafter = make_drafter("student", worst)
    result = run(drafter, teacher, *inputs(), draft_cost=draft_cost)
    np.testing.assert_array_equal(result.num_rounds, T)
    return sum(count(result).judged)

  # Every token is drafted and rejected.
  assert judged(0.0) == T * ROWS
  # From the third rejection on, 1 + a < 1 + c: a = 1 / 4.
  assert judged(0.3) == 3 * ROWS
  assert judged(1.1) == 0


def test_lookup_changes_no_draw_of_the_teacher():
  arguments = Policy(TEACHER, MODEL, HOW), *inputs(stops=(EOS,))
  helped, alone = run(PromptLookup(), *arguments), run_alone(*arguments)
  assert as_lists(helped) == as_lists(alone)
  # Though some tokens were drafted, and some of these accepted.
  counted = count(helped)
  assert 0 < sum(counted.accepted) < sum(counted.judged)
  assert counted.rounds < counted.emitted == np.sum(alone.length)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_response_does_not_depend_on_the_rows_beside_it(drafter):
  def first_rows(others):
    result = run(
      make_drafter(drafter, how=HOW),
      Policy(TEACHER, MODEL, HOW),
      *inputs([*PROMPTS[-5:], *others]),
      draft_cost=0.2,
    )
    return [x[:5] for x in (result.tokens, result.source, result.num_rounds)]

  found = first_rows(PROMPTS[:5])
  jax.tree.map(np.testing.assert_array_equal, found, first_rows([[4, 4]] * 5))
  assert 0 < np.mean(found[1]) < 1  # Some tokens are drafts.


def test_cost_of_a_draft_is_what_a_round_takes_longer():
  assert measured_draft_cost(2.0, 5.0, 3) == pytest.approx(0.5)
  assert measured_draft_cost(2.0, 1.9, 3) == 0


@pytest.mark.parametrize(
  "drafter", ["student", pytest.param("lookup", marks=pytest.mark.slow)]
)
def test_sampled_responses_follow_the_distribution_of_the_teacher(drafter):
  """Chi-square against the probabilities of all responses of 3 tokens."""
  num_rows, num_tokens = 30_000, 3
  prompt = [3, 2, 5, 3, 2]  # The lookup proposes 5, as the teacher would.
  result = run(
    make_drafter(drafter, how=sampling.Sampling(1.2, 0.9)),
    Policy(TEACHER, MODEL, HOW),
    *inputs([prompt] * num_rows, seed=5),
    num_draft_tokens=2,
    max_new_tokens=num_tokens,
    batch_size=None,
    draft_cost=0.25,
  )
  exact = reference.response_distribution(
    trigram_logits(STUDENT),
    trigram_logits(TEACHER),
    prompt,
    next_distribution=lambda student, teacher: reference.sampling_distribution(
      teacher, HOW
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
  # Drafts took part.
  assert np.mean(np.asarray(result.source) == structs.STUDENT) > 0.05


def test_a_drafter_reads_at_positions_that_follow_each_other():
  # What writes a cache promises the compiler sorted slots. The prompts of one
  # token have no token before the last.
  seen = []

  def apply(params, tokens, positions, cache):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), positions)
    return MODEL.apply(params, tokens, positions, cache)

  watched = dataclasses.replace(MODEL, apply=apply)
  batch, keys, stop_table = inputs([[3], [2], [1, 2]], size=2)
  result = speculative_decode(
    ModelDrafter(Policy(STUDENT, watched, sampling.GREEDY)),
    Policy(TEACHER, MODEL, sampling.GREEDY),
    batch,
    keys,
    stop_table,
    num_draft_tokens=G,
    max_new_tokens=3,
  )
  jax.block_until_ready(result)
  jax.effects_barrier()
  pairs = [positions for positions in seen if positions.shape[1] == 2]
  assert pairs
  assert all((np.diff(positions) == 1).all() for positions in pairs)
