"""Speculative decoding gives the teacher's responses in fewer passes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from skd_jax import structs
from skd_jax.decoding import draft_stats, rollout, sampling, stopping
from skd_jax.decoding.draft_lengths import FULL_DRAFTS
from skd_jax.decoding.drafters import ModelDrafter, PromptLookup
from skd_jax.decoding.policy import Policy
from skd_jax.decoding.speculative import speculative_decode
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
  **adaptation,
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
    **adaptation,
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
      draft_cost=[0.0, 0.2][seed % 2],
      round_cost=[0.0, 0.1][seed % 2],
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


def test_drafter_that_does_not_pay_is_soon_switched_off():
  worst = {**TEACHER, "table": -TEACHER["table"]}
  teacher = Policy(TEACHER, MODEL, sampling.GREEDY)

  def judged(prompts=PROMPTS, **adaptation):
    drafter = make_drafter("student", worst)
    result = run(
      drafter,
      teacher,
      *inputs(prompts),
      batch_size=None,
      **{**FULL_DRAFTS, "slowest_acceptance": None, **adaptation},
    )
    np.testing.assert_array_equal(result.num_rounds, T)
    return sum(count(result).judged)

  # Every token is drafted and rejected.
  assert judged() == T * ROWS
  # From the third rejection on, 1 + a < 1 + c: a = 1 / 4.
  assert judged(PROMPTS[:1], draft_cost=0.3) == 3
  assert judged(PROMPTS[:1], draft_cost=0.1, round_cost=0.2) == 3
  # Rows that are judged together know it after one round.
  assert judged(draft_cost=0.3) == ROWS
  assert judged(draft_cost=1.1) == judged(round_cost=3.1) == 0
  # What is known from before is not tried out.
  assert judged(draft_cost=0.3, expected_acceptance=0.1) == 0


def test_slowest_row_decides_where_no_prompt_waits_for_a_slot():
  # 1 2 1 2 ... and 3 4 3 4 ...: in the second the drafter is always wrong.
  table = jnp.zeros((V, V, V)).at[:, [1, 2, 3, 4], [2, 1, 4, 3]].set(9.0)
  drafter = {**TEACHER, "table": table.at[:, 3:5].multiply(-1)}
  result = run(
    make_drafter("student", drafter),
    Policy({**TEACHER, "table": table}, MODEL, sampling.GREEDY),
    *inputs([[1], [2], [1], [3]]),
    batch_size=None,
    max_new_tokens=32,
    draft_cost=0.2,
    round_cost=0.2,
  )
  assert np.all(np.asarray(result.num_rounds)[:3] < 20)
  # By what is accepted of the others it would draft to its end.
  slow = jax.tree.map(lambda x: x[3:], result)
  assert sum(count(slow).judged) <= 16


def count_calls(policy, calls):
  """The policy, each of whose calls adds the number of tokens to `calls`."""
  model = policy.model

  def apply(params, tokens, positions, cache):
    jax.debug.callback(lambda: calls.append(tokens.shape[1]))
    return model.apply(params, tokens, positions, cache)

  return dataclasses.replace(
    policy, model=dataclasses.replace(model, apply=apply)
  )


@pytest.mark.parametrize(
  "num_rows", [1, pytest.param(4, marks=pytest.mark.slow)]
)
def test_useless_drafter_costs_less_than_a_twentieth(num_rows):
  num_tokens, draft_cost, round_cost = 64, 0.2, 0.2
  worst = {**TEACHER, "table": -TEACHER["table"]}
  of_drafter, of_teacher = [], []
  drafter = count_calls(Policy(worst, MODEL, sampling.GREEDY), of_drafter)
  teacher = count_calls(Policy(TEACHER, MODEL, sampling.GREEDY), of_teacher)
  result = jax.jit(
    functools.partial(
      speculative_decode,
      num_draft_tokens=G,
      max_new_tokens=num_tokens,
      draft_cost=draft_cost,
      round_cost=round_cost,
    )
  )(ModelDrafter(drafter), teacher, *inputs([[3, 1]] * num_rows))
  np.testing.assert_array_equal(result.length, num_tokens)
  jax.effects_barrier()
  of_drafter, of_teacher = of_drafter[1:], of_teacher[1:]  # Not the prompts.
  assert set(of_teacher) == {1, G + 1}
  assert len(of_teacher) == num_tokens  # Every draft is rejected.
  rounds = of_teacher.count(G + 1)
  # At first, and when it is tried again.
  assert 2 <= rounds <= 4
  spent = len(of_drafter) * draft_cost + rounds * round_cost
  assert num_tokens / (num_tokens + spent) >= 0.95


def sum_model():
  """A language model that reads all: logits = table[sum of the tokens]."""

  def apply(params, tokens, positions, cache):
    rows = jnp.arange(tokens.shape[0])[:, None]
    cache = jnp.zeros(tokens.shape, jnp.int32) if cache is None else cache
    cache = cache.at[rows, positions].set(tokens)
    seen = jnp.arange(cache.shape[1])[None, None, :] <= positions[:, :, None]
    total = jnp.sum(jnp.where(seen, cache[:, None, :], 0), axis=2)
    hidden = params["table"][total % V]
    late = positions >= params["good_from"]
    return jnp.where(late[..., None], hidden, -hidden), cache

  return dataclasses.replace(
    MODEL, apply=apply, init_cache=lambda rows, n: jnp.full((rows, n), -1)
  )


@pytest.mark.slow
def test_drafter_that_becomes_good_is_found_and_has_read_all():
  model, num_tokens = sum_model(), 64
  table = TEACHER["table"][0]
  params = {**TEACHER, "table": table, "good_from": jnp.int32(0)}
  # Until then it proposes what the teacher holds for the least likely.
  late = {**params, "good_from": jnp.int32(12)}
  arguments = Policy(params, model, sampling.GREEDY), *inputs(PROMPTS[:3])
  decode = functools.partial(
    speculative_decode,
    num_draft_tokens=G,
    max_new_tokens=num_tokens,
    draft_cost=0.1,
    round_cost=0.2,
  )
  drafter = ModelDrafter(Policy(late, model, sampling.GREEDY))
  found = jax.jit(decode)(drafter, *arguments)
  alone = rollout.decode(
    *arguments, max_new_tokens=num_tokens, source=structs.TEACHER
  )
  np.testing.assert_array_equal(found.tokens, alone.tokens)
  source = np.asarray(found.source)
  # It was switched off, and tried again after 16 rounds.
  assert np.all(source[:, 8:15] == structs.TEACHER)
  # From then on all is accepted, as nothing that it missed is left unread.
  late = source[:, 24:]
  assert np.mean(late == structs.STUDENT) == pytest.approx(
    G / (G + 1), abs=0.05
  )


def test_drafter_known_to_be_useless_reads_no_prompt():
  of_drafter = []
  drafter = count_calls(Policy(STUDENT, MODEL, sampling.GREEDY), of_drafter)
  arguments = Policy(TEACHER, MODEL, sampling.GREEDY), *inputs(stops=(EOS,))

  def decode(expected_acceptance):
    of_drafter.clear()
    result = run(
      ModelDrafter(drafter),
      *arguments,
      draft_cost=0.5,
      expected_acceptance=expected_acceptance,
    )
    jax.effects_barrier()
    assert as_lists(result) == as_lists(run_alone(*arguments))

  decode(0.1)
  assert not of_drafter
  decode(0.9)
  assert of_drafter


@pytest.mark.parametrize(
  ("prompt_size", "batch_size", "trial"),
  [
    (5, None, 16),
    # 32 * (0.1 * (1 + 40 / 4) + 0.2): what it reads costs more.
    (40, None, 42),
    pytest.param(5, 1, 16, marks=pytest.mark.slow),
  ],
)
def test_drafter_reads_the_prompt_when_it_is_tried(
  prompt_size, batch_size, trial
):
  model, num_tokens = sum_model(), 64
  params = {
    **TEACHER,
    "table": TEACHER["table"][0],
    "good_from": jnp.int32(0),
  }
  policy = Policy(params, model, sampling.GREEDY)
  prompts = [[1, 2, 3, 4, 5] * (prompt_size // 5), [3, 4]]
  arguments = policy, *inputs(prompts, size=prompt_size)
  found = speculative_decode(
    ModelDrafter(policy),
    *arguments,
    num_draft_tokens=G,
    max_new_tokens=num_tokens,
    batch_size=batch_size,
    draft_cost=0.1,
    round_cost=0.2,
    expected_acceptance=0.1,
  )
  alone = rollout.decode(
    *arguments, max_new_tokens=num_tokens, source=structs.TEACHER
  )
  np.testing.assert_array_equal(found.tokens, alone.tokens)
  drafted = np.asarray(found.source) == structs.STUDENT
  assert np.flatnonzero(drafted[0])[0] == trial
  # From then on all is accepted: it has read the prompt, and what it missed.
  assert np.mean(drafted[:, trial + 8 :]) == pytest.approx(0.75, abs=0.1)


@pytest.mark.slow
def test_lookup_waits_for_enough_rows_that_it_can_serve():
  # Of four rows one repeats itself: 3 accepted tokens are 3 / 4 a row.
  prompts = [[1, 2, 1, 2, 1], [3, 4, 5], [5, 4, 3], [2, 6, 4]]
  teacher = Policy(TEACHER, MODEL, sampling.GREEDY)

  def judged(round_cost):
    result = run(
      PromptLookup(),
      teacher,
      *inputs(prompts),
      batch_size=None,
      max_new_tokens=1,
      round_cost=round_cost,
    )
    return sum(count(result).judged)

  assert judged(0.7) == 1
  assert judged(0.8) == 0


@pytest.mark.slow
def test_lookup_changes_no_draw_of_the_teacher():
  arguments = Policy(TEACHER, MODEL, HOW), *inputs(stops=(EOS,))
  helped, alone = run(PromptLookup(), *arguments), run_alone(*arguments)
  assert as_lists(helped) == as_lists(alone)
  # Though some tokens were drafted, and some of these accepted.
  counted = count(helped)
  assert 0 < sum(counted.accepted) < sum(counted.judged)
  assert counted.rounds < counted.emitted == np.sum(alone.length)


@pytest.mark.parametrize(
  "drafter", ["student", pytest.param("lookup", marks=pytest.mark.slow)]
)
def test_response_does_not_depend_on_the_rows_beside_it(drafter):
  def first_rows(others):
    result = run(
      make_drafter(drafter, how=HOW),
      Policy(TEACHER, MODEL, HOW),
      *inputs([*PROMPTS[-5:], *others]),
      draft_cost=0.1,
      round_cost=0.1,
    )
    return [x[:5] for x in (result.tokens, result.source, result.num_rounds)]

  found = first_rows(PROMPTS[:5])
  jax.tree.map(np.testing.assert_array_equal, found, first_rows([[4, 4]] * 5))
  assert 0 < np.mean(found[1]) < 1  # Some tokens are drafts.


@pytest.mark.parametrize(
  ("drafter", "num_rows"),
  [
    ("student", 5_000),
    *(pytest.param(x, 30_000, marks=pytest.mark.slow) for x in DRAFTERS),
  ],
)
def test_sampled_responses_follow_the_distribution_of_the_teacher(
  drafter, num_rows
):
  """Chi-square against the probabilities of all responses of 3 tokens."""
  num_tokens = 3
  prompt = [3, 2, 5, 3, 2]  # The lookup proposes 5, as the teacher would.
  result = run(
    make_drafter(drafter, how=sampling.Sampling(1.2, 0.9)),
    Policy(TEACHER, MODEL, HOW),
    *inputs([prompt] * num_rows, seed=5),
    num_draft_tokens=2,
    max_new_tokens=num_tokens,
    batch_size=None,
    draft_cost=0.15,
    round_cost=0.1,
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
