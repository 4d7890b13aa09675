"""The chunked loss is the plain loss, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import structs
from skd_jax.losses import chunked, divergence
from skd_jax.models import forward
from tests.conftest import make_batch, trigram_model, trigram_params

pytestmark = pytest.mark.usefixtures("strict")

V, N = 23, 37
MODEL = trigram_model(V)
FORWARD_KL = divergence.forward_kl


def case(seed=0):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.float32(rng.normal(size=shape))

  inputs = chunked.TokenInputs(
    tokens=jnp.asarray(rng.integers(0, V, N), jnp.int32),
    source=jnp.asarray(rng.integers(0, 2, N), jnp.int8),
    teacher_hidden=normal(N, V),
  )
  mask = jnp.asarray(rng.random(N) < 0.6)
  return normal(V, V), normal(N, V), normal(V, V), inputs, mask


def plain(token_loss, head, hidden, teacher_head, inputs, mask):
  """All logits at once."""
  sums = token_loss(
    MODEL.head(head, hidden),
    MODEL.head(teacher_head, inputs.teacher_hidden),
    inputs,
  )
  return jnp.sum(jnp.where(mask, sums.loss, 0.0)), sums


def by_chunks(token_loss, chunk_size, *arrays):
  return chunked.chunked_loss(token_loss, MODEL, MODEL, chunk_size, *arrays)


# Blocks of 8 rows do not divide the 23 of the head.
@pytest.mark.parametrize("head_block", [8, 1000])
@pytest.mark.parametrize("weights", chunked.WEIGHTS)
@pytest.mark.parametrize("chunk_size", [1, 8, N, 1000])
def test_chunked_equals_plain(chunk_size, weights, head_block, monkeypatch):
  monkeypatch.setattr(chunked, "_HEAD_BLOCK", head_block)
  token_loss = chunked.distillation_token_loss(FORWARD_KL, weights)
  arrays = case()
  (value, sums), gradient = jax.value_and_grad(
    lambda *a: by_chunks(token_loss, chunk_size, *a), (0, 1), has_aux=True
  )(*arrays)
  (expected, parts), expected_gradient = jax.value_and_grad(
    lambda *a: plain(token_loss, *a), (0, 1), has_aux=True
  )(*arrays)
  mask = arrays[-1]
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for field in ("weight", "tokens", "kl", "agreement"):
    np.testing.assert_allclose(
      getattr(sums, field), jnp.sum(getattr(parts, field)[mask]), rtol=1e-5
    )
  np.testing.assert_allclose(sums.least, jnp.min(parts.least[mask]), rtol=1e-5)
  for mine, theirs in zip(gradient, expected_gradient, strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_gradient_matches_finite_differences():
  token_loss = chunked.distillation_token_loss(FORWARD_KL, "uniform")
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
  token_loss = chunked.distillation_token_loss(FORWARD_KL, "uniform")
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
  token_loss = chunked.distillation_token_loss(FORWARD_KL, "uniform")
  *arrays, mask = case()
  value, sums = by_chunks(token_loss, 8, *arrays, jnp.zeros_like(mask))
  assert value == 0
  assert sums.means()["loss"] == 0


def test_weights_choose_what_counts():
  head, hidden, teacher_head, inputs, mask = case()

  def run(weights, source):
    token_loss = chunked.distillation_token_loss(FORWARD_KL, weights)
    changed = inputs.replace(source=jnp.full((N,), source, jnp.int8))
    return by_chunks(token_loss, 8, head, hidden, teacher_head, changed, mask)

  assert run("accepted_only", structs.TEACHER)[1].weight == 0
  uniform = run("uniform", structs.STUDENT)
  accepted = run("accepted_only", structs.STUDENT)
  np.testing.assert_allclose(uniform[0], accepted[0], rtol=1e-6)
  replaced = run("replaced_ce", structs.TEACHER)
  logits = MODEL.head(head, hidden)
  expected = jnp.sum(
    jnp.where(mask, chunked.cross_entropy(logits, inputs.tokens), 0.0)
  )
  np.testing.assert_allclose(replaced[0], expected, rtol=1e-5)
  np.testing.assert_allclose(
    run("replaced_ce", structs.STUDENT)[0], uniform[0], rtol=1e-6
  )


def test_tokens_count_by_the_confidence_of_the_teacher():
  head, hidden, teacher_head, inputs, mask = case()
  token_loss = chunked.distillation_token_loss(FORWARD_KL, "teacher_confidence")
  value, sums = by_chunks(
    token_loss, 8, head, hidden, teacher_head, inputs, mask
  )
  teacher = np.asarray(MODEL.head(teacher_head, inputs.teacher_hidden))
  odds = np.exp(teacher - teacher.max(axis=1, keepdims=True))
  weight = (odds / odds.sum(axis=1, keepdims=True)).max(axis=1)
  student = MODEL.head(head, hidden)
  divergences = np.asarray(FORWARD_KL(jnp.asarray(teacher), student))
  kept = np.asarray(mask)
  np.testing.assert_allclose(
    value, (weight * divergences)[kept].sum(), rtol=1e-5
  )
  np.testing.assert_allclose(sums.weight, weight[kept].sum(), rtol=1e-5)


@pytest.mark.parametrize(
  "source", [structs.STUDENT, structs.TEACHER, structs.REFERENCE]
)
def test_unverified_tokens_count_less_whoever_wrote_them(source):
  head, hidden, teacher_head, inputs, mask = case()
  inputs = inputs.replace(source=jnp.full((N,), source, jnp.int8))
  token_loss = chunked.distillation_token_loss(
    FORWARD_KL, "verified", verified_k=4, unverified_weight=0.25
  )
  value, sums = by_chunks(
    token_loss, 8, head, hidden, teacher_head, inputs, mask
  )
  teacher = np.asarray(MODEL.head(teacher_head, inputs.teacher_hidden))
  student = np.asarray(MODEL.head(head, hidden))
  own = np.take_along_axis(teacher, np.asarray(inputs.tokens)[:, None], 1)
  weight = np.where((teacher > own).sum(axis=1) < 4, 1.0, 0.25)
  assert set(weight[np.asarray(mask)].tolist()) == {1.0, 0.25}
  divergences = np.asarray(FORWARD_KL(jnp.asarray(teacher), student))
  kept = np.asarray(mask)
  np.testing.assert_allclose(
    value, (weight * divergences)[kept].sum(), rtol=1e-5
  )
  np.testing.assert_allclose(sums.weight, weight[kept].sum(), rtol=1e-6)


def test_first_response_token_and_eos_are_predicted_from_the_right_slots():
  # Prompts of different lengths; EOS is the last token of each response.
  params = trigram_params(V, seed=0)
  batch = make_batch([[3], [1, 2, 5]], references=[[7, 8, 2], [9, 2]])
  hidden = forward.response_hidden(
    MODEL, params, batch.prompt, batch.prompt_length, batch.reference
  )
  table = params["table"]
  np.testing.assert_array_equal(hidden[0, 0], table[0, 3])  # predicts 7
  np.testing.assert_array_equal(hidden[0, 1], table[3, 7])  # predicts 8
  np.testing.assert_array_equal(hidden[0, 2], table[7, 8])  # predicts EOS
  np.testing.assert_array_equal(hidden[1, 0], table[2, 5])  # predicts 9
  np.testing.assert_array_equal(hidden[1, 1], table[5, 9])  # predicts EOS


def test_unknown_weights_are_named():
  with pytest.raises(ValueError, match=r"loss.weights = 'none'"):
    chunked.distillation_token_loss(FORWARD_KL, "none")
