"""Responses that are begun early: whose weights they are from, and when."""

import contextlib
import functools
import os
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import structs
from skd_jax.decoding import sampling
from skd_jax.losses import divergence, token_losses
from skd_jax.models import loading
from skd_jax.parallel import sharding
from skd_jax.training import (
  ahead,
  generation,
  loop,
  rollout_stats,
  train_step,
)
from skd_jax.training.cadence import Cadence
from skd_jax.training.health import Guards
from tests.conftest import make_batch, trigram_params
from tests.training.test_generation import (
  MODEL,
  V,
  make_rollout_fn,
  make_spec,
)

STEPS, ROWS = 6, 8
START, OTHER = (trigram_params(V, seed, 1.5) for seed in (0, 1))
# So near that the share of the mixture is below its largest.
NEAR = {**START, "table": 0.8 * START["table"] + 0.2 * OTHER["table"]}
# The threshold of `make_spec` is no share.
CHANGES = {
  "mixture_by_distance": {
    "rollout.threshold": 1.0,
    "rollout.teacher_temperature": 1.0,
    "rollout.teacher_top_p": 1.0,
  }
}


class Prompts:
  """Batches 0, 1, 2, ... with a position, like a grain iterator."""

  def __init__(self):
    self.position = 0

  def __next__(self) -> structs.Batch:
    self.position += 1
    rng = np.random.default_rng(self.position)
    return make_batch(rng.integers(1, V, (ROWS, 2)).tolist())

  def get_state(self):
    return {"position": self.position}

  def set_state(self, state):
    self.position = state["position"]


@functools.cache
def pieces(method, lag):
  """(spec, rollout_fn, the functions that train)."""
  spec = make_spec(method, STEPS, **CHANGES.get(method, {}))
  student, teacher = (
    loading.LoadedModel(types.SimpleNamespace(vocab_size=V), MODEL, params)
    for params in (START, NEAR)
  )
  train = train_step.make_train_fns(
    student,
    teacher,
    token_loss=token_losses.distillation_token_loss(
      divergence.forward_kl, "uniform"
    ),
    optimizer=train_step.make_optimizer(
      lambda step: 0.1, clip_norm=1.0, weight_decay=0.0, beta1=0.9, beta2=0.9
    ),
    chunk_size=16,
    num_microbatches=1,
    mesh=sharding.make_mesh(data=-1, fsdp=1, tensor=1),
    by_distance=spec.by_distance if lag is not None else None,
    older_dtype=jnp.float32 if lag else None,
  )
  return spec, make_rollout_fn(spec), train


def generate(
  method, params, batch, step, seen, how=generation.generate_responses
):
  spec, rollout_fn, _ = pieces(method, 0)
  return how(
    spec,
    rollout_fn,
    MODEL,
    params,
    NEAR,
    batch,
    sampling.row_keys(3, step, batch.index),
    step,
    seen,
  )


begin = functools.partial(generate, how=generation.begin_responses)


def learn(train, state, batch, rollout):
  head = MODEL.head_params(NEAR)
  return train.step(state, head, batch, rollout)


def slowly(method, lag):
  """The loop as it is meant: old weights in a list, and everything waits.

  Returns:
    (the weights after each step, the tokens of each).
  """
  spec, _, train = pieces(method, None)
  state, batches = train.init(START), Prompts()
  weights, tokens, seen = [jax.device_get(state.params)], [], [np.zeros(2)]
  for step in range(STEPS):
    batch, old = next(batches), max(step - lag, 0)
    rollout, _ = generate(method, weights[old], batch, step, seen[old])
    state, _ = learn(train, state, batch, rollout)
    weights.append(jax.device_get(state.params))
    tokens.append(jax.device_get(rollout.tokens))
    share = float(spec.threshold_at(step, jnp.float32(seen[old])))
    assert not spec.by_distance or step < 2 or 0.1 < share < 0.95
    within = np.arange(rollout.tokens.shape[1]) < rollout.length[:, None]
    replaced = within & (np.asarray(rollout.source) == structs.TEACHER)
    more = np.asarray([np.sum(replaced), share * np.sum(within)])
    seen.append(np.float32(0.9 * seen[-1] + more))
  return weights, tokens


def run(workdir, method, lag, *, stop_at=None, events=None):
  """The loop of a run, as of train.py; stopped by a signal in a step.

  Returns:
    (the last state, the weights after each step, the tokens of each, totals).
  """
  _, _, train = pieces(method, lag)
  events = [] if events is None else events

  def generate_fn(state, batch, step):
    events.append(f"generate {step}")
    params, seen = train.generating(state)
    if lag:
      return begin(method, params, batch, step, seen), {}
    return generate(method, params, batch, step, seen)

  batches = ahead.Lookahead(Prompts())
  source = ahead.Source(
    generate_fn, batches, num_steps=STEPS, max_staleness=lag
  )
  weights, tokens = {}, {}
  with (
    contextlib.suppress(loop.Interrupted),
    loop.open_loop(
      train.init(START),
      batches,
      workdir=workdir,
      name="d",
      stage="d",
      seed=0,
      num_steps=STEPS,
      cadence=Cadence(1, checkpoint_every_steps=2),
      guards=Guards(),
    ) as training,
  ):
    for step, batch in training:
      if step == stop_at:
        os.kill(os.getpid(), signal.SIGINT)
      rollout, seconds = source.responses(training.state, batch, step)
      rollout, stats = rollout_stats.trim_and_count(rollout, 8)
      state, metrics = learn(train, training.state, batch, rollout)
      source.begin_next(state, step)
      events.append(f"record {step}")
      training.record(state, metrics, seconds, stats, (batch, rollout))
      weights[step] = jax.device_get(state.params)
      tokens[step] = jax.device_get(rollout.tokens)
  return training.state, weights, tokens, training.totals


METHODS = ["skd", "on_policy_kd", "mixture_by_distance"]


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_responses_are_of_the_weights_so_many_updates_ago(
  method, lag, tmp_path
):
  want_weights, want_tokens = slowly(method, lag)
  _, weights, tokens, _ = run(tmp_path, method, lag)
  for step in range(STEPS):
    np.testing.assert_array_equal(tokens[step], want_tokens[step])
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7),
      weights[step],
      want_weights[step + 1],
    )


def test_lag_changes_the_responses_of_the_third_step_on():
  # Those of the first two are from the start, and from one update.
  fresh, late = slowly("skd", 0)[1], slowly("skd", 1)[1]
  np.testing.assert_array_equal(fresh[0], late[0])
  assert any(np.any(a != b) for a, b in zip(fresh, late, strict=True))


@pytest.mark.parametrize("stop_at", [0, 2, 3, 5])
@pytest.mark.parametrize("method", METHODS)
def test_stopped_run_ends_with_the_bits_of_a_whole_one(
  method, stop_at, tmp_path
):
  state, weights, tokens, totals = run(tmp_path / "whole", method, 1)
  _, *before, _ = run(tmp_path / "cut", method, 1, stop_at=stop_at)
  again, *after, totals_again = run(tmp_path / "cut", method, 1)
  assert min(after[0], default=STEPS) == stop_at + 1
  jax.tree.map(np.testing.assert_array_equal, again, state)
  for whole, first, rest in zip((weights, tokens), before, after, strict=True):
    jax.tree.map(np.testing.assert_array_equal, first | rest, whole)
  assert totals_again.stats == totals.stats


def test_responses_are_begun_before_the_step_before_is_recorded(tmp_path):
  late, fresh = [], []
  run(tmp_path / "1", "skd", 1, events=late)
  run(tmp_path / "0", "skd", 0, events=fresh)
  assert fresh[:4] == ["generate 0", "record 0", "generate 1", "record 1"]
  assert late[:4] == ["generate 0", "generate 1", "record 0", "generate 2"]
  # Each once, and none for a step that there is not.
  assert sorted(late) == sorted(fresh)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_waited_for_where_responses_are_begun(method, monkeypatch):
  def refuse(_):
    raise AssertionError("waits")

  batch, seen = next(Prompts()), jnp.zeros(2)
  monkeypatch.setattr(jax, "block_until_ready", refuse)
  begin(method, START, batch, 0, seen)
  with pytest.raises(AssertionError, match="waits"):
    generate(method, START, batch, 0, seen)


def test_time_of_lagged_responses_is_what_was_waited(tmp_path):
  *_, totals = run(tmp_path, "skd", 1)
  assert set(totals.seconds) - {"compile"} == {"wait"}
  # Generation overlaps with training, so no seconds are its own.
  assert "generated_tokens_per_s" not in totals.rates()


def test_older_weights_are_a_copy_that_the_next_step_leaves_alone():
  _, _, train = pieces("skd", 1)
  state, batch = train.init(START), next(Prompts())
  rollout, _ = generate("skd", START, batch, 0, None)
  first, _ = learn(train, state, batch, rollout)
  kept = train.generating(first)[0]
  second, _ = learn(train, first, batch, rollout)
  jax.tree.map(np.testing.assert_array_equal, kept, START)
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), second.older.params, kept
  )
  assert moved["table"] > 0.05


def test_older_weights_are_in_the_dtype_that_generates():
  student = loading.LoadedModel(
    types.SimpleNamespace(vocab_size=V), MODEL, START
  )
  train = train_step.make_train_fns(
    student,
    None,
    token_loss=token_losses.supervised_token_loss,
    optimizer=train_step.make_optimizer(
      lambda step: 0.1, clip_norm=1.0, weight_decay=0.0, beta1=0.9, beta2=0.9
    ),
    chunk_size=16,
    num_microbatches=1,
    mesh=sharding.make_mesh(data=-1, fsdp=1, tensor=1),
    older_dtype=jnp.bfloat16,
  )
  state = jax.eval_shape(train.init, START)
  assert state.older.params["table"].dtype == jnp.bfloat16
  assert state.params["table"].dtype == jnp.float32


def test_batch_that_is_looked_at_is_the_next_and_moves_no_position():
  batches, plain = ahead.Lookahead(Prompts()), Prompts()
  for looks in (0, 1, 2, 0, 1):
    for _ in range(looks):
      found = batches.peek()
      np.testing.assert_array_equal(batches.peek().prompt, found.prompt)
      assert batches.get_state() == plain.get_state()
    np.testing.assert_array_equal(next(batches).prompt, next(plain).prompt)
    assert batches.get_state() == plain.get_state()
  batches.peek()
  batches.set_state({"position": 0})
  np.testing.assert_array_equal(next(batches).prompt, next(Prompts()).prompt)
