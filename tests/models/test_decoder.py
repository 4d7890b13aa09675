"""The decoder: what the cache, the windows and the scales do to the logits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from skd_jax.models import layers
from tests.toy_models import GEMMA, GPT2, LLAMA, OLMO, PHI, noisy_params


def tokens_of(config, shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(0, config.vocab_size, shape), jnp.int32)


# Models and programs are made once for the whole file, and compiled with little
# optimisation: these tests spend their time in the compiler.
create = functools.lru_cache(models.create)
FAST_COMPILE = {"xla_backend_optimization_level": 0}


@functools.lru_cache
def jitted(model):
  """Tokens to logits in one program."""

  def logits_of(params, tokens, positions, cache):
    hidden, cache = model.apply(params, tokens, positions, cache)
    return model.head(model.head_params(params), hidden), cache

  return jax.jit(logits_of, compiler_options=FAST_COMPILE)


def plain_logits(model, params, tokens):
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  logits, cache = jitted(model)(params, tokens, positions, None)
  assert cache is None
  return logits


def cached_logits(model, params, tokens, lengths, steps, given=True):
  """Prefills right-padded rows, then feeds `steps` tokens at a time.

  The positions of the prompts are `given`, or not; the cache is not empty.

  Returns a list with, for each row, the logits of its tokens [m, V].
  """
  rows, total = tokens.shape
  lengths = np.asarray(lengths)
  width = lengths.max()
  prompt = jnp.where(np.arange(width) < lengths[:, None], tokens[:, :width], 5)
  positions = jnp.broadcast_to(jnp.arange(width), prompt.shape)
  cache = jax.tree.map(lambda x: x + 9, model.init_cache(rows, total))
  logits, cache = jitted(model)(
    params, prompt, positions if given else None, cache
  )
  out = [[logits[b, : lengths[b]]] for b in range(rows)]
  for n in steps:
    positions = jnp.asarray(lengths[:, None] + np.arange(n), jnp.int32)
    step = jnp.take_along_axis(tokens, positions, axis=1)
    logits, cache = jitted(model)(params, step, positions, cache)
    for b in range(rows):
      out[b].append(logits[b])
    lengths = lengths + n
  return [np.concatenate(row) for row in out]


@pytest.mark.parametrize("given", [True, False], ids=["positions", "prompt"])
@pytest.mark.parametrize("config", [LLAMA, GEMMA], ids=["llama", "gemma"])
def test_cache_gives_the_logits_of_the_whole_sequence(config, given):
  model, params = create(config), noisy_params(config)
  tokens = tokens_of(config, (3, 16))
  want = np.asarray(plain_logits(model, params, tokens))
  got = cached_logits(model, params, tokens, [3, 5, 1], [1, 5, 1], given)
  for b, row in enumerate(got):
    np.testing.assert_allclose(row, want[b, : len(row)], atol=2e-5)


def test_stale_slots_leave_no_trace():
  model, params = create(GEMMA), noisy_params(GEMMA)
  run = jitted(model)
  tokens = tokens_of(GEMMA, (2, 9))
  at = jnp.broadcast_to(jnp.arange(4), (2, 4))
  _, cache = run(params, tokens[:, :4], at, model.init_cache(2, 9))
  want, _ = run(params, tokens[:, 4:8], at + 4, cache)
  # A rejected draft: four other tokens were written to slots 5..8.
  _, drafted = run(params, tokens[:, :4] + 1, at + 5, cache)
  got, _ = run(params, tokens[:, 4:8], at + 4, drafted)
  np.testing.assert_array_equal(got, want)


def test_token_past_the_cache_overwrites_nothing():
  model, params = create(LLAMA), noisy_params(LLAMA)
  tokens = tokens_of(LLAMA, (1, 6))
  positions = jnp.arange(6)[None]
  run = jitted(model)
  _, cache = run(params, tokens, positions, model.init_cache(1, 6))
  _, after = run(params, tokens, positions + 6, cache)
  jax.tree.map(np.testing.assert_array_equal, after, cache)


def test_token_outside_every_window_is_not_seen():
  config = dataclasses.replace(LLAMA, num_layers=1, layer_windows=(4,))
  model, params = create(config), noisy_params(config)
  tokens = tokens_of(config, (1, 9))
  changed = tokens.at[0, 2].set((tokens[0, 2] + 1) % config.vocab_size)
  a, b = (plain_logits(model, params, t)[0] for t in (tokens, changed))
  differs = np.abs(np.asarray(a - b)).max(axis=-1) > 1e-6
  # Query p sees p-3..p: token 2 reaches the queries 2, 3, 4 and 5.
  np.testing.assert_array_equal(np.flatnonzero(differs), [2, 3, 4, 5])


def test_rows_do_not_see_each_other():
  model, params = create(GEMMA), noisy_params(GEMMA)
  tokens = tokens_of(GEMMA, (3, 16))
  others = tokens_of(GEMMA, (3, 16), seed=1).at[1].set(tokens[1])
  want = plain_logits(model, params, tokens)[1]
  got = plain_logits(model, params, others)[1]
  np.testing.assert_array_equal(got, want)


def test_logits_stay_below_the_final_cap():
  params = noisy_params(GEMMA)
  tokens = tokens_of(GEMMA, (3, 16))
  capped = plain_logits(create(GEMMA), params, tokens)
  free_config = dataclasses.replace(GEMMA, final_soft_cap=None)
  free = plain_logits(create(free_config), params, tokens)
  assert np.abs(free).max() > 2.0
  np.testing.assert_allclose(capped, 2 * np.tanh(free / 2), atol=1e-5)


def test_bfloat16_compute_keeps_cache_narrow_and_logits_wide():
  config = dataclasses.replace(GEMMA, num_layers=1, layer_windows=(4,))
  params, tokens = noisy_params(config), tokens_of(config, (2, 6))
  positions = jnp.broadcast_to(jnp.arange(6), (2, 6))
  narrow, wide = create(config, dtype=jnp.bfloat16), create(config)
  logits, cache = jitted(narrow)(
    params, tokens, positions, narrow.init_cache(2, 6)
  )
  assert {x.dtype for x in jax.tree.leaves(cache)} == {jnp.dtype("bfloat16")}
  assert logits.dtype == jnp.float32
  want = plain_logits(wide, params, tokens)
  np.testing.assert_allclose(logits, want, atol=0.1)


@pytest.mark.slow
def test_gradients_reach_every_weight():
  for config in (LLAMA, GEMMA, OLMO, GPT2):
    model, params = create(config), noisy_params(config)
    tokens = tokens_of(config, (2, 6))

    def loss(params, model=model, tokens=tokens):
      positions = jnp.broadcast_to(jnp.arange(6), (2, 6))
      hidden, _ = model.apply(params, tokens, positions, None)
      logits = model.head(model.head_params(params), hidden)
      return jnp.mean(jax.nn.log_softmax(logits)[..., 3])

    gradient = jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)
    grads = gradient(params)
    for path, grad in jax.tree.leaves_with_path(grads):
      # Softmax ignores a constant of all keys, so this one is rightly zero.
      if "key" in str(path) and "bias" in str(path) and not config.qk_norm:
        continue
      assert np.isfinite(grad).all(), path
      assert np.abs(grad).max() > 0, path


def test_initial_weights_have_the_stated_scales():
  config = dataclasses.replace(LLAMA, hidden_size=128, num_layers=2)
  init = jax.jit(
    lambda key: models.init_params(config, key), compiler_options=FAST_COMPILE
  )
  params = init(jax.random.key(0))
  block = params["layers"]["1"]
  assert np.std(params["embedding"]) == pytest.approx(0.02, rel=0.1)
  assert np.std(block["mlp"]["up"]["kernel"]) == pytest.approx(0.02, rel=0.1)
  assert np.std(block["mlp"]["down"]["kernel"]) == pytest.approx(0.01, rel=0.1)
  tokens = tokens_of(config, (2, 8))
  logits = plain_logits(create(config), params, tokens)
  loss = -jnp.mean(jax.nn.log_softmax(logits)[..., 0])
  assert loss == pytest.approx(np.log(config.vocab_size), abs=0.3)
  other = init(jax.random.key(1))
  assert np.abs(other["embedding"] - params["embedding"]).max() > 0.01


def test_param_shapes_are_those_of_the_weights():
  config = dataclasses.replace(GEMMA, num_layers=1, layer_windows=())
  init = jax.jit(
    lambda key: models.init_params(config, key, param_dtype=jnp.bfloat16),
    compiler_options=FAST_COMPILE,
  )
  params = init(jax.random.key(0))
  shapes = models.param_shapes(config, param_dtype=jnp.bfloat16)
  for array, shape in zip(
    jax.tree.leaves(params), jax.tree.leaves(shapes), strict=True
  ):
    assert (array.shape, array.dtype) == (shape.shape, shape.dtype)
  assert "lm_head" not in params  # The head of GEMMA is the embedding.


def test_create_allocates_nothing_large():
  huge = dataclasses.replace(
    LLAMA, vocab_size=10**9, hidden_size=2**16, intermediate_size=2**20
  )
  before = sum(x.nbytes for x in jax.live_arrays())
  model = models.create(huge)
  assert sum(x.nbytes for x in jax.live_arrays()) - before < 10**6
  hidden = jax.ShapeDtypeStruct((2, 2**16), jnp.float32)
  head = jax.eval_shape(model.head_params, models.param_shapes(huge))
  assert jax.eval_shape(model.head, head, hidden).shape == (2, 10**9)


def test_promotion_of_dtypes_is_never_silent():
  model = create(GEMMA, dtype=jnp.bfloat16)
  tokens = tokens_of(GEMMA, (2, 6))
  positions = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32), (2, 6))
  with jax.numpy_dtype_promotion("strict"):
    jax.eval_shape(
      model.apply, models.param_shapes(GEMMA), tokens, positions, None
    )


def test_rotation_keeps_relative_positions_only():
  rope = models.RopeConfig()
  x = jax.random.normal(jax.random.key(0), (1, 1, 1, 10))
  y = jax.random.normal(jax.random.key(1), (1, 1, 1, 10))

  @jax.jit
  def product(p, q):
    def rotate(v, at):
      tables = layers.rope_tables(rope, 10, jnp.full((1, 1), at))
      return layers.apply_rope(v, tables)

    return jnp.sum(rotate(x, p) * rotate(y, q))

  np.testing.assert_allclose(product(3, 1), product(12, 10), atol=1e-4)
  assert abs(product(3, 1) - product(3, 2)) > 1e-2


def test_first_dimensions_alone_are_rotated_where_the_rest_is_not():
  rope = models.RopeConfig(partial_rotary_factor=0.6)
  x = jax.random.normal(jax.random.key(0), (1, 2, 3, 10))

  def rotated(rope, x):
    tables = layers.rope_tables(rope, x.shape[-1], jnp.arange(2)[None])
    return layers.apply_rope(x, tables)

  got = rotated(rope, x)
  np.testing.assert_array_equal(got[..., 6:], x[..., 6:])
  want = rotated(models.RopeConfig(), x[..., :6])
  np.testing.assert_array_equal(got[..., :6], want)


@pytest.mark.parametrize("config", [GPT2, PHI], ids=["gpt2", "phi3"])
def test_more_tokens_than_the_model_has_positions_are_refused(config):
  model = create(config)
  tokens = jax.ShapeDtypeStruct((1, 33), jnp.int32)
  with pytest.raises(ValueError, match="tokens has 33 columns: must have at"):
    jax.eval_shape(
      model.apply, models.param_shapes(config), tokens, tokens, None
    )


def test_draft_past_the_learned_positions_leaves_the_rest_as_it_is():
  model, params = create(GPT2), noisy_params(GPT2)
  tokens = tokens_of(GPT2, (1, 32))
  want = plain_logits(model, params, tokens)[0, 30]
  run = jitted(model)
  cache = model.init_cache(1, 36)  # Four more than there are positions.
  at = jnp.arange(30)[None]
  _, cache = run(params, tokens[:, :30], at, cache)
  positions = 30 + jnp.arange(4)[None]
  _, cache = run(params, tokens[:, :4], positions, cache)
  got, _ = run(params, tokens[:, 30:31], positions[:, :1], cache)
  np.testing.assert_allclose(got[0, 0], want, atol=2e-5)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"rope": models.RopeConfig(partial_rotary_factor=0.5)},
      r"partial_rotary_factor = 0\.5: must rotate an even part",
    ),
    (
      {"rope": dataclasses.replace(PHI.rope, partial_rotary_factor=1.0)},
      "short_factor has 6 numbers: must have one for each rotated pair, 5",
    ),
    ({"num_kv_heads": 4}, "num_heads = 6: must be a multiple"),
    ({"head_dim": 7}, "head_dim = 7: must be even"),
    ({"vocab_size": 0}, "vocab_size = 0: must be at least 1"),
    ({"activation": "tanh"}, "activation = 'tanh': must be one of"),
    ({"layer_windows": (4,)}, "layer_windows has 1 entries"),
  ],
)
def test_impossible_shape_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(LLAMA, **change)
