"""Attention by chunks is attention, and holds no score matrix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.models import attention

B, N, R, H = 2, 2, 3, 4


def make_inputs(num_queries, num_slots, first=(0, 0)):
  """Random queries, keys and values; the position of each row's first query."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  positions = np.asarray(first)[:, None] + np.arange(num_queries)
  return (
    normal(B, num_queries, N * R, H),
    normal(B, N, num_slots, H),
    normal(B, N, num_slots, H),
    jnp.asarray(positions, jnp.int32),
  )


def by_loops(query, key, value, positions, window, cap, bias=None):
  """The formula, one query and head at a time."""
  batch, num_queries, num_heads, size = query.shape
  mixed = np.zeros((batch, num_queries, num_heads, size))
  for b, i, head in np.ndindex(batch, num_queries, num_heads):
    last = int(positions[b, i]) + 1
    seen = slice(0 if window is None else max(0, last - window), last)
    scores = key[b, head // R, seen] @ query[b, i, head]
    if cap is not None:
      scores = cap * np.tanh(scores / cap)
    if bias is not None:
      full = np.broadcast_to(
        bias, (batch, num_heads, num_queries, key.shape[2])
      )
      scores = scores + full[b, head, i, seen]
    weights = np.exp(scores - scores.max())
    mixed[b, i, head] = weights / weights.sum() @ value[b, head // R, seen]
  return mixed.reshape(batch, num_queries, -1)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_attention_is_its_formula_by_any_chunk(window, cap, chunk_size):
  # The rows begin at slots of their own, as over a cache.
  inputs = make_inputs(10, 14, first=(0, 4))
  attend = attention.attend
  if chunk_size is not None:
    attend = functools.partial(
      attention.attend_in_chunks, chunk_size=chunk_size
    )
  np.testing.assert_allclose(
    attend(*inputs, window=window, cap=cap),
    by_loops(*map(np.asarray, inputs), window, cap),
    rtol=1e-4,
    atol=1e-6,
  )


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize(
  "shape", [(1, N * R, 10, 14), (B, 1, 1, 14), (B, N * R, 10, 14)]
)
def test_bias_is_added_to_the_scores_by_any_chunk(shape, chunk_size):
  inputs = make_inputs(10, 14, first=(0, 4))
  bias = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
  attend = attention.attend
  if chunk_size is not None:
    attend = functools.partial(
      attention.attend_in_chunks, chunk_size=chunk_size
    )
  np.testing.assert_allclose(
    attend(*inputs, window=None, cap=None, bias=bias),
    by_loops(*map(np.asarray, inputs), None, None, np.asarray(bias)),
    rtol=1e-4,
    atol=1e-6,
  )


@pytest.mark.parametrize("chunk_size", [1, 5, 10, 20])
def test_chunks_of_any_size_are_the_whole(chunk_size):
  inputs, settings = (
    make_inputs(10, 14, first=(0, 4)),
    {"window": 3, "cap": 2.0},
  )
  np.testing.assert_allclose(
    attention.attend_in_chunks(*inputs, **settings, chunk_size=chunk_size),
    attention.attend(*inputs, **settings),
    rtol=1e-5,
    atol=1e-6,
  )


def test_gradient_does_not_depend_on_the_chunk():
  *arrays, positions = make_inputs(10, 10)

  def loss(attend, *arrays):
    mixed = attend(*arrays, positions, window=4, cap=2.0)
    return jnp.sum(jnp.sin(mixed))

  whole, chunked = (
    jax.grad(functools.partial(loss, attend), argnums=(0, 1, 2))(*arrays)
    for attend in (
      attention.attend,
      functools.partial(attention.attend_in_chunks, chunk_size=4),
    )
  )
  for one, other in zip(whole, chunked, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_memory_of_a_long_sequence_grows_with_its_length_alone():
  def temporaries(length):
    arrays = [
      jax.ShapeDtypeStruct(shape, jnp.float32)
      for shape in ((1, length, 2, 8), (1, 1, length, 8), (1, 1, length, 8))
    ]

    def loss(query, key, value):
      positions = jnp.arange(length, dtype=jnp.int32)[None]
      mixed = attention.attend(
        query, key, value, positions, window=None, cap=None
      )
      return jnp.sum(mixed * mixed)

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arrays)
    return compiled.compile().memory_analysis().temp_size_in_bytes

  short, long = temporaries(2048), temporaries(8192)
  assert long < 4 * short
  assert long < 8192 * 8192  # Not a quarter of one score matrix.
