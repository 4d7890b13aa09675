"""Tokens are drawn as temperature and top-p describe."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from skd_jax.decoding import sampling
from tests import reference

pytestmark = pytest.mark.usefixtures("strict")


def random_logits(rows, vocab_size, scale=3.0, seed=0):
  logits = np.random.default_rng(seed).normal(size=(rows, vocab_size)) * scale
  return jnp.asarray(logits, jnp.float32)


def test_least_temperature_leaves_the_probabilities_normalised():
  logits = jnp.asarray(np.resize([0, 0, 67.1875], (2, 130)), jnp.float32)
  how = sampling.Sampling(1e-6)
  log_probs = jax.jit(sampling.warp, static_argnums=1)(logits, how)
  largest = np.asarray(logits) > 0
  np.testing.assert_allclose(
    np.exp(log_probs), largest / largest.sum(1, keepdims=True), atol=1e-6
  )


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_warp_matches_a_sort(temperature, top_p):
  logits = random_logits(20, 301)
  how = sampling.Sampling(temperature, top_p)
  warped = np.exp(sampling.warp(logits, how))
  expected = np.stack(
    [reference.sampling_distribution(row, how) for row in logits]
  )
  np.testing.assert_array_equal(warped > 0, expected > 0)
  np.testing.assert_allclose(warped, expected, atol=1e-6)


# As a CPU finds the floor of the nucleus, a TPU and a GPU.
FLOORS = (
  sampling.floor_by_halving,
  sampling.floor_by_digits,
  functools.partial(sampling.floor_by_digits, digit_bits=4),
)


def nucleus(probs, top_p, find_floor=sampling.nucleus_floor):
  """The tokens inside the nucleus, bool [B, V]."""
  rows, vocab_size = probs.shape
  padding = -vocab_size % 128
  blocks = jnp.pad(probs, ((0, 0), (0, padding))).reshape(rows, -1, 128)
  floor = find_floor(blocks, jnp.full((rows, 1, 1), top_p, jnp.float32))
  return probs >= floor[..., 0]


@pytest.mark.parametrize("find_floor", FLOORS)
def test_nucleus_keeps_every_token_tied_at_its_edge(find_floor):
  probs = jnp.asarray([[0.4, 0.2, 0.2, 0.2]], jnp.float32)
  inside = nucleus(probs, 0.5, find_floor)
  np.testing.assert_array_equal(inside, [[True, True, True, True]])


@pytest.mark.parametrize("find_floor", FLOORS)
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("scale", [0.01, 2.0, 6.0])
def test_nucleus_of_a_large_vocabulary_is_that_of_a_sort(
  scale, top_p, find_floor
):
  """Flat distributions have a nucleus wider than the blocks searched first."""
  vocab_size = 5003
  logits = scale * np.random.default_rng(0).normal(size=(3, vocab_size))
  logits[0, 1000:3000] = logits[0].max()  # Two thousand tokens tied at the top.
  probs = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))
  inside = nucleus(jnp.asarray(probs), top_p, find_floor)
  for row in range(3):
    expected = reference.nucleus(probs[row].astype(np.float64), top_p)
    # Rounding of the mass may move the edge by one token.
    assert np.sum(np.asarray(inside[row]) != expected) <= 1
  assert np.sum(inside[0]) >= 2000


@pytest.mark.parametrize("find_floor", FLOORS)
@pytest.mark.parametrize("largest", [1.0, 0.3, 1e-30])
def test_nucleus_of_the_least_mass_is_the_largest(largest, find_floor):
  """Whatever the bits of the largest weight are."""
  probs = jnp.asarray([[0.1, 0.5, 1.0]], jnp.float32) * largest
  inside = nucleus(probs, 1e-38 * largest, find_floor)
  np.testing.assert_array_equal(inside, [[False, False, True]])


@pytest.mark.optimized
@pytest.mark.parametrize("find_floor", FLOORS)
def test_nucleus_of_a_large_vocabulary_is_found_without_a_sort(find_floor):
  if find_floor is sampling.floor_by_halving and jax.default_backend() != "cpu":
    pytest.skip("halving is for CPUs; others search by digits")
  compiled = (
    jax.jit(find_floor)
    .lower(jnp.zeros((2, 400, 128)), jnp.ones((2, 1, 1)))
    .compile()
  )
  assert " sort(" not in compiled.as_text()


@pytest.mark.parametrize("vocab_size", [5, 128, 300, 5003])
@pytest.mark.parametrize(
  "how",
  [
    sampling.GREEDY,
    sampling.Sampling(0.7),
    sampling.Sampling(1.0, 0.5),
    sampling.Sampling(2.0, 0.95),
  ],
)
def test_draw_is_that_of_the_warped_distribution(how, vocab_size):
  logits = random_logits(64, vocab_size, seed=vocab_size)
  uniform = jax.random.uniform(jax.random.key(0), (64,))
  tokens, log_probs = sampling.draw(logits, how, uniform)
  warped = sampling.warp(logits, how)
  np.testing.assert_array_equal(tokens, sampling.draw_token(warped, uniform))
  expected = jnp.take_along_axis(warped, tokens[:, None], axis=1)[:, 0]
  np.testing.assert_allclose(log_probs, expected, atol=2e-5)


def test_nucleus_is_never_empty_or_everything_by_rounding():
  logits = random_logits(50, 4096, scale=0.01)
  warped = sampling.warp(logits, sampling.Sampling(top_p=1e-6))
  np.testing.assert_array_equal(jnp.argmax(warped, -1), jnp.argmax(logits, -1))
  assert int(jnp.sum(warped > -jnp.inf)) == 50


def test_greedy_takes_the_largest_logit_whatever_the_uniform():
  logits = random_logits(10, 300)
  log_probs = sampling.warp(logits, sampling.GREEDY)
  for uniform in (0.0, 0.5, 1 - 2**-24):
    token = sampling.draw_token(log_probs, jnp.full(10, uniform, jnp.float32))
    np.testing.assert_array_equal(token, jnp.argmax(logits, -1))


@pytest.mark.parametrize("vocab_size", [1, 5, 127, 128, 129, 1000])
def test_draw_inverts_the_cumulative_distribution(vocab_size):
  log_probs = jax.nn.log_softmax(random_logits(64, vocab_size))
  uniform = jax.random.uniform(jax.random.key(0), (64,))
  tokens = sampling.draw_token(log_probs, uniform)
  expected = [
    reference.draw(np.exp(np.asarray(row, np.float64)), float(u))
    for row, u in zip(log_probs, uniform, strict=True)
  ]
  np.testing.assert_array_equal(tokens, expected)


def test_draw_never_takes_a_token_without_probability():
  # All mass on the tokens 130 and 200, and uniforms up to the last float.
  logits = jnp.full((3, 300), -jnp.inf).at[:, jnp.asarray([130, 200])].set(0.0)
  uniform = jnp.asarray([0.0, 0.5, 1 - 2**-24], jnp.float32)
  tokens = sampling.draw_token(logits, uniform)
  np.testing.assert_array_equal(tokens, [130, 200, 200])


@pytest.mark.parametrize("vocab_size", [1, 5, 128, 300])
def test_draw_of_what_is_no_number_stays_in_the_vocabulary(vocab_size):
  with jax.debug_nans(False):
    log_probs = jnp.full((1, vocab_size), jnp.nan)
    token = sampling.draw_token(log_probs, jnp.zeros(1, jnp.float32))
    fused, _ = sampling.draw(
      log_probs, sampling.Sampling(1.0, 0.9), jnp.zeros(1, jnp.float32)
    )
  assert int(token[0]) == int(fused[0]) == vocab_size - 1


def test_draws_follow_the_distribution():
  logits = random_logits(1, 40, scale=1.0)
  num_draws = 20_000
  keys = jax.random.split(jax.random.key(1), num_draws)
  uniform = sampling.draw_uniform(
    keys, sampling.STUDENT_DRAW, jnp.zeros(num_draws, jnp.int32)
  )
  log_probs = jnp.broadcast_to(jax.nn.log_softmax(logits), (num_draws, 40))
  counts = np.bincount(sampling.draw_token(log_probs, uniform), minlength=40)
  expected = reference.softmax(logits[0]) * num_draws
  assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_a_draw_depends_on_row_role_and_position_only():
  keys = jax.random.split(jax.random.key(2), 3)
  positions = jnp.arange(3, dtype=jnp.int32)
  table = sampling.draw_uniform(
    keys, sampling.ACCEPT_DRAW, jnp.broadcast_to(positions, (3, 3))
  )
  for row in range(3):
    for position in range(3):
      alone = sampling.draw_uniform(
        keys[row : row + 1],
        sampling.ACCEPT_DRAW,
        positions[position : position + 1],
      )
      assert alone[0] == table[row, position]
  other = sampling.draw_uniform(keys, sampling.TEACHER_DRAW, positions)
  assert len(np.unique(np.concatenate([table.ravel(), other]))) == 12


def test_least_temperature_draws_as_greedy_does():
  logits = 1e4 * random_logits(5, 50)
  warped = sampling.warp(logits, sampling.Sampling(1e-6))
  np.testing.assert_array_equal(
    np.exp(warped), np.exp(sampling.warp(logits, sampling.GREEDY))
  )


def test_copies_of_an_example_in_one_batch_have_keys_of_their_own():
  index = jnp.array([7, 3, 7, 5, 7])
  keys = jax.random.key_data(sampling.row_keys(1, 2, index))
  assert len({tuple(key) for key in np.asarray(keys).tolist()}) == 5
  # Only they: the first copy, and what is there once, have the key of before.
  alone = jax.random.key_data(sampling.row_keys(1, 2, index[jnp.array([1, 0])]))
  np.testing.assert_array_equal(keys[jnp.array([1, 0])], alone)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("temperature", -1.0),
    ("temperature", float("nan")),
    ("temperature", 1e-38),
    ("top_p", 0.0),
    ("top_p", 1.1),
  ],
)
def test_bad_settings_are_named(field, value):
  with pytest.raises(ValueError, match=f"{field} = "):
    sampling.Sampling(**{field: value})
