"""Compiling is timed apart from what a step does."""

import time

import jax
import pytest

from skd_jax.training import timing


def test_compiling_is_a_part_of_its_own():
  square = jax.jit(lambda x: x * x + 3)
  first, second = {}, {}
  for seconds in (first, second):
    with timing.timed(seconds, "train"):
      square(2.0).block_until_ready()
      time.sleep(0.02)
  assert first["compile"] > 0
  assert first["train"] >= 0.02
  assert set(second) == {"train"}


def test_seconds_add_up_over_the_blocks():
  seconds = {"train": 1.0}
  with timing.timed(seconds, "train"):
    time.sleep(0.01)
  assert 1.01 <= seconds["train"] < 1.5


def test_nothing_listens_after_a_block_that_failed():
  seconds = {}
  with pytest.raises(KeyError), timing.timed(seconds, "train"):
    raise KeyError
  jax.jit(lambda x: x - 41)(2.0).block_until_ready()
  assert not seconds
