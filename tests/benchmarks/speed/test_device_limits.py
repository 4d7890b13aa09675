"""Generating and training, beside what a device can do."""

import jax.numpy as jnp
import pytest

from benchmarks.speed import device_limits
from benchmarks.speed import pair as pair_lib

SMALL = device_limits.Settings(
  batches=(1, 2),
  prompt_size=3,
  new_tokens=8,
  train_rows=2,
  train_length=8,
  chunk_size=8,
  repeats=1,
)


@pytest.fixture(scope="module")
def model():
  return pair_lib.random_model(pair_lib.SHAPES["tiny"], jnp.float32)


def test_what_a_decode_step_reads_is_the_weights_and_the_cache(model):
  # tiny: V = 512, D = 64, F = 192, 3 layers, 4 heads of 16 for 2 of keys; the
  # embedding is the head.
  attention = 64 * 64 + 2 * 64 * 32 + 64 * 64
  layer = attention + 3 * 64 * 192 + 2 * 64
  weights = 512 * 64 + 3 * layer + 64
  cache = 3 * 2 * (5 * 2 * 12 * 16)  # Layers, keys and values, [5, 2, 12, 16].
  assert device_limits.read_bytes(model, 5, 12) == 4 * (weights + cache)


def test_flops_of_training_are_six_a_weight_and_twelve_a_pair(model):
  weights = device_limits.read_bytes(model, 0, 0) // 4
  pairs = 1 + 2 + 3  # Of a token and one that it sees, in a row of 3.
  flops = device_limits.train_flops(model, rows=2, length=3)
  assert flops == 2 * (6 * 3 * weights + 12 * pairs * 3 * 64)


@pytest.mark.slow
def test_each_row_has_its_rate_over_the_limit(model):
  rows = list(device_limits.decode_rows(model, SMALL, copied=1e9))
  assert [row["batch"] for row in rows] == [1, 2]
  for row in rows:
    assert row["of_limit"] == pytest.approx(row["gbytes_per_s"])
  trained = device_limits.train_row(model, SMALL, multiplied=1e12)
  assert trained["tokens_per_s"] == pytest.approx(16 / trained["seconds"])
  assert trained["of_limit"] == pytest.approx(trained["tflops_per_s"])
