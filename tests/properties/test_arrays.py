"""Logits of any value and shapes of size 1: numbers are right, or no numbers.

Shapes are drawn from short lists, as each is compiled.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_jax import structs
from skd_jax.decoding import acceptance, sampling, stopping
from skd_jax.decoding import rollout as rollout_lib
from skd_jax.decoding.policy import Policy
from skd_jax.losses import chunked, divergence, token_losses
from tests import reference
from tests.conftest import (
  make_batch,
  trigram_logits,
  trigram_model,
  trigram_params,
)
from tests.losses.test_divergence import NAMES

NUMBERS = st.floats(-300, 300, width=32)
ODD = st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38])
UNIFORM = st.floats(0, 1, exclude_max=True, width=32)


def _arrays(values, *shape):
  size = int(np.prod(shape))
  return st.lists(values, min_size=size, max_size=size).map(
    lambda flat: np.asarray(flat, np.float32).reshape(shape)
  )


@functools.partial(jax.jit, static_argnames="how")
def _draw(logits, uniform, how):
  log_probs = sampling.warp(logits, how)
  return log_probs, sampling.draw_token(log_probs, uniform)


@given(
  st.sampled_from([1, 130]),
  st.sampled_from(
    [
      sampling.GREEDY,
      sampling.Sampling(),
      sampling.Sampling(1e-6),
      sampling.Sampling(0.7, 0.5),
    ]
  ),
  st.data(),
)
def test_token_is_one_of_those_with_probability(vocab_size, how, data):
  values = data.draw(st.sampled_from([NUMBERS, NUMBERS | ODD]))
  few = data.draw(_arrays(values, 2, min(vocab_size, 3)))
  logits = np.resize(few, (2, vocab_size))
  uniform = data.draw(_arrays(UNIFORM, 2))
  log_probs, tokens = map(np.asarray, _draw(logits, uniform, how))
  assert np.all((tokens >= 0) & (tokens < vocab_size))
  for row in range(2):
    if np.any(np.isnan(log_probs[row])):
      # Not of numbers alone, unless they leave float32.
      assert not np.all(np.abs(logits[row]) <= 300)
      continue
    # At the least temperature, a logit is rounded to a hundredth.
    assert np.exp(log_probs[row]).sum() == pytest.approx(1, abs=0.02)
    assert log_probs[row, tokens[row]] > -np.inf
    if not np.all(np.isneginf(logits[row])):
      assert not np.isneginf(logits[row, tokens[row]])


G, V = 3, 5
THRESHOLDS = {"top_k": 2.0, "released_top_k": 2.0}


@functools.partial(jax.jit, static_argnames="accept")
def _accepts(student, teacher, tokens, uniform, accept):
  warped = sampling.warp(student, sampling.Sampling())
  inputs = acceptance.VerificationInputs(
    tokens=tokens,
    teacher_logits=teacher,
    student_log_prob=jnp.take_along_axis(warped, tokens[..., None], -1)[..., 0],
    teacher_log_probs=sampling.warp(teacher, sampling.Sampling(0.8, 0.9)),
    uniform=uniform,
    student_logits=lambda: student,
    draw_again=lambda: tokens,
  )
  threshold = jnp.float32(THRESHOLDS.get(accept, 0.3))
  return acceptance.RULES[accept].accept(inputs, threshold)


@given(
  st.sampled_from(sorted(acceptance.RULES)),
  _arrays(NUMBERS, 2, 2, G, V),
  _arrays(NUMBERS | ODD, 2, 1, G, V),
  _arrays(UNIFORM, 2, G),
  _arrays(st.integers(0, V - 1), 2, G),
)
def test_odd_logits_of_a_row_change_no_other_row(
  accept, logits, odd, uniform, tokens
):
  tokens = tokens.astype(np.int32)
  before = _accepts(*logits, tokens, uniform, accept)
  hurt = np.concatenate([logits[:, :1], odd], axis=1)
  after = _accepts(*hurt, tokens, uniform, accept)
  assert after.dtype == bool
  assert after.shape == (2, G)
  np.testing.assert_array_equal(before[0], after[0])


@functools.cache
def _divergence(name, vocab_size):
  parameters = {"beta": 0.3, "alpha": 0.1, "k": 1, "vocab_size": vocab_size}
  return jax.jit(divergence.get_divergence(name, **parameters))


@given(st.sampled_from(NAMES), st.sampled_from([1, 5]), st.data())
def test_divergence_that_is_a_number_is_the_right_one(name, vocab_size, data):
  if name == "top_k_forward_kl":
    vocab_size = 5
  infinite = st.sampled_from([np.nan, np.inf, -np.inf])
  values = data.draw(st.sampled_from([NUMBERS, NUMBERS | infinite]))
  teacher, student = data.draw(_arrays(values, 2, vocab_size))
  found = float(_divergence(name, vocab_size)(teacher, student))
  if not np.isfinite(found):
    assert not np.all(np.isfinite([teacher, student]))
    return
  with np.errstate(all="ignore"):
    expected = reference.divergence(
      name, teacher, student, beta=0.3, alpha=0.1, k=1
    )
  assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


TOKENS = 6
LOSSES = {
  "supervised": token_losses.supervised_token_loss,
  **{
    weights: token_losses.distillation_token_loss(weights=weights)
    for weights in token_losses.WEIGHTS
  },
}


@functools.partial(jax.jit, static_argnames="name")
def _loss(hidden, inputs, mask, name):
  """The loss of hidden states that are the logits of two tokens."""
  model, head = trigram_model(), jnp.eye(2)
  loss, sums = chunked.chunked_loss(
    LOSSES[name], model, model, 4, head, hidden, head, inputs, mask
  )
  return loss, sums.means()


@given(
  st.sampled_from(sorted(LOSSES)),
  _arrays(NUMBERS, 2, TOKENS, 2),
  _arrays(st.booleans(), TOKENS),
  st.booleans(),
)
def test_masked_odd_logits_change_no_loss_and_others_are_seen(
  name, logits, mask, is_of_teacher
):
  mask = mask.astype(bool)
  inputs = token_losses.TokenInputs(
    tokens=jnp.zeros(TOKENS, jnp.int32),
    source=jnp.full(TOKENS, structs.STUDENT, jnp.int8),
    teacher_hidden=logits[1],
  )
  expected, _ = _loss(logits[0], inputs, mask, name)
  assert np.isfinite(expected)

  def with_nan(where):
    poison = np.where(where[:, None], np.float32(np.nan), logits)
    hidden, teacher = (
      (logits[0], poison[1]) if is_of_teacher else (poison[0], logits[1])
    )
    changed = inputs.replace(teacher_hidden=teacher)
    return _loss(hidden, changed, mask, name)

  loss, means = with_nan(~mask)
  assert loss == expected
  assert np.isfinite(means["loss"])
  if mask.any() and not (name == "supervised" and is_of_teacher):
    loss, means = with_nan(mask)
    assert np.isnan(loss)
    assert np.isnan(means["loss"])


@functools.partial(
  jax.jit, static_argnames=("num_draft_tokens", "max_new_tokens", "vocab_size")
)
def _rollout(
  params, batch, keys, *, num_draft_tokens, max_new_tokens, vocab_size
):
  student, teacher = (
    Policy(p, trigram_model(), sampling.Sampling()) for p in params
  )
  return rollout_lib.rollout(
    student,
    teacher,
    batch,
    keys,
    stopping.make_stop_table(vocab_size, (0,)),
    jnp.float32(1),
    rule=acceptance.Rule("top_k"),
    num_draft_tokens=num_draft_tokens,
    max_new_tokens=max_new_tokens,
  )


@given(
  st.sampled_from([(1, 1, 1), (4, 2, 5)]),  # V, T and G; G > T as well.
  st.integers(0, 2**31 - 2),
  st.data(),
)
def test_smallest_rollouts_are_those_of_the_reference(sizes, seed, data):
  vocab_size, max_new_tokens, num_draft_tokens = sizes
  ids = st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=2)
  prompts = data.draw(st.lists(ids, min_size=2, max_size=2))
  params = tuple(trigram_params(vocab_size, seed=n) for n in range(2))
  keys = jax.random.split(jax.random.key(seed), 2)
  batch = make_batch(prompts, prompt_size=2)
  if vocab_size == 1:  # Where make_batch poisons with 1.
    batch = batch.replace(prompt=jnp.zeros((2, 2), jnp.int32))
  found = _rollout(
    params,
    batch,
    keys,
    num_draft_tokens=num_draft_tokens,
    max_new_tokens=max_new_tokens,
    vocab_size=vocab_size,
  )
  for row, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
    tokens, sources, _ = reference.skd(
      *map(trigram_logits, params),
      prompt,
      key,
      accept="top_k",
      replace="sample",
      threshold=1,
      eos_id=0,
      max_new_tokens=max_new_tokens,
    )
    length = int(found.length[row])
    assert np.asarray(found.tokens[row, :length]).tolist() == tokens
    assert np.asarray(found.source[row, :length]).tolist() == sources
