"""A round is judged as the plain loop over its tokens judges it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.decoding import acceptance, sampling, stopping, verification
from skd_jax.decoding import rollout as rollout_lib
from skd_jax.decoding.policy import Policy
from skd_jax.structs import Proposal
from tests import reference
from tests.conftest import make_batch, trigram_model, trigram_params

pytestmark = pytest.mark.usefixtures("strict")

B, G, V = 40, 3, 7
STUDENT = sampling.Sampling(1.3, 0.95)
TEACHER = sampling.Sampling(0.8, 0.9)
MODEL = trigram_model()
THRESHOLDS = {
  "top_k": 4,
  "top_p": 0.9,
  "prob_floor": 0.05,
  "mixture": 0.4,
  "lossless": 0,
  "always": 0,
  "never": 0,
  "random": 0.3,
  "released_top_k": 3,
  "bridge": 0.2,
  "divergence": 0.1,
}


def policy(how, seed=0):
  """Its head is the identity, so that hidden states are logits."""
  return Policy(trigram_params(V, seed=seed, scale=1.5), MODEL, how)


@functools.partial(jax.jit, static_argnames="rule")
def judge(proposal, teacher_logits, keys, length, threshold, rule):
  return verification.judge(
    policy(STUDENT),
    policy(TEACHER, seed=1),
    teacher_logits,
    proposal,
    keys,
    length,
    threshold,
    rule,
  )


def make_round(num_logits, seed=0):
  """Logits of both models, row keys and lengths, and what was drafted."""
  rng = np.random.default_rng(seed)
  student = 1.5 * rng.normal(size=(B, G, V)).astype(np.float32)
  teacher = 1.5 * rng.normal(size=(B, num_logits, V)).astype(np.float32)
  # Rows that agree, so that whole drafts are accepted as well.
  teacher[::2, :G] = student[::2]
  keys = jax.random.split(jax.random.key(seed), B)
  length = rng.integers(0, 5, B).astype(np.int32)
  tokens, log_probs = np.zeros((B, G), np.int32), np.zeros((B, G), np.float32)
  for b, g in np.ndindex(B, G):
    p = reference.sampling_distribution(student[b, g], STUDENT)
    u = reference.uniform(keys[b], sampling.STUDENT_DRAW, length[b] + g)
    tokens[b, g] = reference.draw(p, u)
    log_probs[b, g] = np.log(p[tokens[b, g]])
  proposal = Proposal(*map(jnp.asarray, (tokens, log_probs, student)))
  return student, teacher, keys, length, proposal


@pytest.mark.parametrize(
  "num_logits", [G, pytest.param(G + 1, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  ("accept", "replace"),
  [(a, r) for a in THRESHOLDS for r in acceptance.RULES[a].replace],
)
def test_verdict_equals_the_reference(accept, replace, num_logits):
  student, teacher, keys, length, proposal = make_round(num_logits)
  threshold = THRESHOLDS[accept]
  verdict = judge(
    proposal,
    jnp.asarray(teacher),
    keys,
    jnp.asarray(length),
    jnp.float32(threshold),
    acceptance.Rule(accept, replace),
  )
  assert verdict.teacher_hidden is None
  assert verdict.tokens.shape == verdict.source.shape == (B, num_logits)
  for b in range(B):
    expected = reference.judge(
      student[b],
      teacher[b],
      keys[b],
      int(length[b]),
      accept=accept,
      replace=replace,
      threshold=threshold,
      student_sampling=STUDENT,
      teacher_sampling=TEACHER,
    )
    count = int(verdict.num_tokens[b])
    found = verdict.tokens, verdict.source, verdict.draft_tokens
    assert tuple(x[b, :count].tolist() for x in found) == expected


@pytest.mark.parametrize("num_logits", [G, G + 1])
def test_rounds_of_the_reference_are_of_every_length(num_logits):
  # What the test above compares is not all of one kind.
  _, teacher, keys, length, proposal = make_round(num_logits)
  arguments = proposal, jnp.asarray(teacher), keys, jnp.asarray(length)
  verdict = judge(*arguments, jnp.float32(4), acceptance.Rule("top_k"))
  assert set(verdict.num_tokens.tolist()) == set(range(1, num_logits + 1))
  ends = np.asarray(verdict.source)[np.arange(B), verdict.num_tokens - 1]
  # With n = G + 1 every round ends with a token of the teacher's.
  assert ends.min() == num_logits - G
  assert ends.max() == 1


def test_rule_that_is_a_function_decides():
  def accept_even(inputs, threshold):
    return (inputs.tokens % 2 == 0) & (inputs.uniform < threshold)

  _, teacher, keys, length, proposal = make_round(G)
  arguments = proposal, jnp.asarray(teacher), keys, jnp.asarray(length)
  rule = acceptance.Rule(accept_even)
  verdict = judge(*arguments, jnp.float32(1), rule)
  for b in range(B):
    is_odd = [*np.flatnonzero(proposal.tokens[b] % 2), G]
    first = int(is_odd[0])
    assert verdict.num_tokens[b] == min(first + 1, G)
    assert verdict.source[b, :first].tolist() == [0] * first
    if first < G:
      assert verdict.source[b, first] == 1
  nothing = judge(*arguments, jnp.float32(0), rule)
  assert nothing.num_tokens.tolist() == [1] * B


def test_rollout_takes_a_rule_that_is_a_function():
  def as_top_k(inputs, threshold):
    rank = acceptance.token_rank(inputs.teacher_logits, inputs.tokens)
    return rank.astype(jnp.float32) < threshold

  batch = make_batch([[3], [1, 2, 5], [4, 4]])

  def run(accept):
    return jax.jit(
      lambda: rollout_lib.rollout(
        policy(STUDENT),
        policy(TEACHER, seed=1),
        batch,
        jax.random.split(jax.random.key(0), 3),
        stopping.make_stop_table(V, (0,)),
        jnp.float32(2),
        rule=acceptance.Rule(accept),
        num_draft_tokens=G,
        max_new_tokens=9,
      )
    )()

  jax.tree.map(np.testing.assert_array_equal, run(as_top_k), run("top_k"))
