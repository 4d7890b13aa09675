"""The chunked loss is the plain loss, in value and gradient."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.losses import chunked, divergence, token_losses
from tests.conftest import trigram_model

pytestmark = pytest.mark.usefixtures("strict")

V, N = 23, 37
MODEL = trigram_model()
FORWARD_KL = divergence.forward_kl


def case(seed=0):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.float32(rng.normal(size=shape))

  inputs = token_losses.TokenInputs(
    tokens=jnp.asarray(rng.integers(0, V, N), jnp.int32),
    source=jnp.asarray(rng.integers(0, 2, N), jnp.int8),
    teacher_hidden=normal(N, V),
  )
  mask = jnp.asarray(rng.random(N) < 0.6)
  return normal(V, V), normal(N, V), normal(V, V), inputs, mask


def plain(token_loss, head, hidden, teacher_head, inputs, mask):
  """All logits at once."""
  metrics = token_loss(
    MODEL.head(head, hidden),
    MODEL.head(teacher_head, inputs.teacher_hidden),
    inputs,
  )
  return jnp.sum(jnp.where(mask, metrics.loss, 0.0)), metrics


def by_chunks(token_loss, chunk_size, *arrays):
  return chunked.chunked_loss(token_loss, MODEL, MODEL, chunk_size, *arrays)


# Blocks of 8 rows, on a CPU, do not divide the 23 of the head.
@pytest.mark.parametrize(
  ("platform", "head_block"), [("cpu", 8), ("cpu", 1000), ("tpu", 8)]
)
@pytest.mark.parametrize("weights", token_losses.WEIGHTS)
@pytest.mark.parametrize(
  "chunk_size",
  [
    8,
    1000,
    *(pytest.param(size, marks=pytest.mark.slow) for size in (1, N)),
  ],
)
def test_chunked_equals_plain(
  chunk_size, weights, platform, head_block, monkeypatch
):
  monkeypatch.setattr(chunked, "_HEAD_BLOCK", head_block)
  monkeypatch.setattr(chunked.sharding, "platform", lambda: platform)
  token_loss = token_losses.distillation_token_loss(FORWARD_KL, weights)
  arrays = case()
  (value, sums), gradient = jax.value_and_grad(
    lambda *a: by_chunks(token_loss, chunk_size, *a), (0, 1), has_aux=True
  )(*arrays)
  (expected, metrics), expected_gradient = jax.value_and_grad(
    lambda *a: plain(token_loss, *a), (0, 1), has_aux=True
  )(*arrays)
  mask = arrays[-1]
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for field in ("weight", "kl", "agreement"):
    np.testing.assert_allclose(
      getattr(sums, field), jnp.sum(getattr(metrics, field)[mask]), rtol=1e-5
    )
  assert int(sums.tokens) == int(jnp.sum(mask))
  np.testing.assert_allclose(
    sums.min_token_loss, jnp.min(metrics.value[mask]), rtol=1e-5
  )
  for mine, theirs in zip(gradient, expected_gradient, strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_gradient_matches_finite_differences():
  token_loss = token_losses.distillation_token_loss(FORWARD_KL, "uniform")
  head, hidden, *rest = case()

  def value(hidden):
    return by_chunks(token_loss, 8, head, hidden, *rest)[0]

  direction = jnp.float32(np.random.default_rng(9).normal(size=hidden.shape))
  step = 1e-2
  numeric = (
    value(hidden + step * direction) - value(hidden - step * direction)
  ) / (2 * step)
  analytic = jnp.sum(jax.grad(value)(hidden) * direction)
  np.testing.assert_allclose(analytic, numeric, rtol=1e-2)


def test_masked_tokens_do_not_count():
  token_loss = token_losses.distillation_token_loss(FORWARD_KL, "uniform")
  head, hidden, teacher_head, inputs, mask = case()
  poison = jnp.where(mask[:, None], hidden, 1e9)
  inputs_poison = inputs.replace(
    teacher_hidden=jnp.where(mask[:, None], inputs.teacher_hidden, -1e9)
  )
  value, gradient = jax.value_and_grad(
    lambda h: by_chunks(token_loss, 8, head, h, teacher_head, inputs, mask)[0]
  )(hidden)
  other, other_gradient = jax.value_and_grad(
    lambda h: by_chunks(
      token_loss, 8, head, h, teacher_head, inputs_poison, mask
    )[0]
  )(poison)
  np.testing.assert_array_equal(value, other)
  np.testing.assert_array_equal(gradient, other_gradient)
  assert not np.any(gradient[~mask])


def test_no_valid_token_gives_zero_and_no_nan():
  token_loss = token_losses.distillation_token_loss(FORWARD_KL, "uniform")
  *arrays, mask = case()
  value, sums = by_chunks(token_loss, 8, *arrays, jnp.zeros_like(mask))
  assert value == 0
  assert sums.means()["loss"] == 0
  assert sums.tokens == 0
  assert sums.min_token_loss == jnp.inf


def test_loss_without_a_teacher_has_no_teacher_head():
  head, hidden, _, inputs, mask = case()
  inputs = inputs.replace(teacher_hidden=None)
  value, gradient = jax.value_and_grad(
    lambda h: chunked.chunked_loss(
      token_losses.supervised_token_loss,
      MODEL,
      None,
      8,
      head,
      h,
      None,
      inputs,
      mask,
    )[0]
  )(hidden)

  def plain_sum(hidden):
    losses = token_losses.cross_entropy(MODEL.head(head, hidden), inputs.tokens)
    return jnp.sum(jnp.where(mask, losses, 0.0))

  expected, expected_gradient = jax.value_and_grad(plain_sum)(hidden)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_token_loss_may_be_any_function():
  def squared_error(student, teacher, inputs):
    del inputs
    value = jnp.mean(jnp.square(student - teacher), axis=-1)
    ones = jnp.ones_like(value)
    return token_losses.TokenMetrics(value, ones, value, 0 * value, ones)

  arrays = case()
  (value, sums), gradient = jax.value_and_grad(
    lambda *a: by_chunks(squared_error, 8, *a), (0, 1), has_aux=True
  )(*arrays)
  (expected, _), expected_gradient = jax.value_and_grad(
    lambda *a: plain(squared_error, *a), (0, 1), has_aux=True
  )(*arrays)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  assert sums.means()["agreement"] == 1
  for mine, theirs in zip(gradient, expected_gradient, strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_sums_of_two_parts_are_those_of_the_whole():
  mask = jnp.arange(N) < 20
  token_loss = token_losses.distillation_token_loss(
    FORWARD_KL, "teacher_confidence"
  )
  *arrays, _ = case()
  whole, one, other = (
    by_chunks(token_loss, 8, *arrays, m)[1]
    for m in (jnp.ones(N, bool), mask, ~mask)
  )
  joined = one + other
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), joined, whole
  )
  means = joined.means()
  np.testing.assert_allclose(
    means["loss"], whole.loss / whole.weight, rtol=1e-5
  )
  np.testing.assert_allclose(means["kl"], whole.kl / N, rtol=1e-5)
  assert means["tokens"] == N


@pytest.mark.parametrize("chunk_size", [1, 4, N, 1000])
def test_chunks_hold_every_valid_token_once_and_put_it_back(chunk_size):
  *_, mask = case()
  tokens = jnp.arange(N)
  chunks = chunked.Chunks(mask, chunk_size)
  seen, back = [], jnp.full(N, -1)
  for i in range(int(chunks.number)):
    take, valid = chunks[i]
    assert valid.shape == (min(chunk_size, N),)
    seen += take(tokens)[valid].tolist()
    back = take.put(back, take(tokens))
  assert seen == np.flatnonzero(mask).tolist()
  np.testing.assert_array_equal(back, np.where(mask, tokens, -1))
  # No more steps than the valid tokens fill.
  assert int(chunks.number) == -(-int(mask.sum()) // min(chunk_size, N))


def test_no_valid_token_makes_no_chunk():
  assert int(chunked.Chunks(jnp.zeros(N, bool), 4).number) == 0


def test_teacher_without_its_hidden_states_is_named():
  token_loss = token_losses.distillation_token_loss(FORWARD_KL)
  *arrays, inputs, mask = case()
  inputs = inputs.replace(teacher_hidden=None)
  with pytest.raises(ValueError, match=r"^teacher_hidden = None: must be"):
    by_chunks(token_loss, 8, *arrays, inputs, mask)


@pytest.mark.parametrize(
  ("platform", "vocab_size", "tensor", "expected"),
  [
    ("tpu", 256_000, 8, 2048),  # 1 GiB / (4 arrays of 4 B x 32,000) = 2,097.
    ("tpu", 256_000, 1, 256),  # 262
    ("gpu", 256_000, 1, 512),
    ("gpu", 1_000_000, 1, 256),  # No less, as large as V is.
    ("gpu", 3_000, 1, 4096),  # No more, as small as V is.
    ("cpu", 3_000, 1, 256),
  ],
)
def test_size_of_a_chunk_is_what_its_logits_may_take(
  platform, vocab_size, tensor, expected
):
  devices = np.asarray([types.SimpleNamespace(platform=platform)])
  mesh = types.SimpleNamespace(devices=devices, shape={"tensor": tensor})
  assert chunked.fitting_size(0, vocab_size, mesh) == expected
  assert chunked.fitting_size(7, vocab_size, mesh) == 7
