"""The draft length that is measured to be the fastest."""

import dataclasses
import types

import jax.numpy as jnp
import pytest

from skd_jax import builders
from skd_jax import config as config_lib
from skd_jax.training import draft_length


@pytest.mark.parametrize(
  ("max_new_tokens", "tried"), [(8, [1, 2, 4, 8]), (7, [1, 2, 4])]
)
def test_speed_is_that_of_the_best_try_after_compiling(
  monkeypatch, max_new_tokens, tried
):
  clock = [0.0]
  monkeypatch.setattr(
    draft_length, "time", types.SimpleNamespace(perf_counter=lambda: clock[0])
  )
  monkeypatch.setattr(draft_length.jax, "block_until_ready", lambda x: x)
  built = []

  def make_rollout_fn(spec):
    built.append(spec)
    seconds = iter([60.0, 3.0, 2.0 / spec.num_draft_tokens])

    def rollout_fn(*inputs):
      assert inputs[:-1] == ("student", "teacher", "batch", "keys")
      assert float(inputs[-1]) == 25.0
      clock[0] += next(seconds)
      return types.SimpleNamespace(length=jnp.asarray([3, 5]))

    return rollout_fn

  spec = builders.generation_spec(
    config_lib.default_config(),
    max_new_tokens=max_new_tokens,
    num_draft_tokens=0,
  )
  speeds = draft_length.measure_draft_lengths(
    spec, make_rollout_fn, "student", "teacher", "batch", "keys"
  )
  # 8 tokens were emitted each time.
  assert speeds == {n: pytest.approx(4.0 * n) for n in tried}
  # Nothing but the draft length differs.
  assert built == [dataclasses.replace(spec, num_draft_tokens=n) for n in tried]


def test_fastest_is_taken():
  found = draft_length.fastest({1: 5.0, 2: 7.0, 4: 6.0})
  assert found == {"num_draft_tokens": 2}
