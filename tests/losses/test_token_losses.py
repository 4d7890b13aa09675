"""The loss of each token and its weight, against plain formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import structs
from skd_jax.losses import divergence, token_losses
from tests import reference

pytestmark = pytest.mark.usefixtures("strict")

V, C = 23, 37
FORWARD_KL = divergence.forward_kl


def case(source=None, seed=0):
  """Logits of both models for C tokens, and the TokenInputs."""
  rng = np.random.default_rng(seed)
  student, teacher = rng.normal(size=(2, C, V)).astype(np.float32)
  tokens, sources = rng.integers(0, V, C), rng.integers(0, 2, C)
  if source is not None:
    sources[:] = source
  inputs = token_losses.TokenInputs(
    tokens=jnp.asarray(tokens, jnp.int32),
    source=jnp.asarray(sources, jnp.int8),
    teacher_hidden=None,
  )
  return jnp.asarray(student), jnp.asarray(teacher), inputs


def metrics_of(weights, source=None, **settings):
  student, teacher, inputs = case(source)
  token_loss = token_losses.distillation_token_loss(
    FORWARD_KL, weights, **settings
  )
  return token_loss(student, teacher, inputs)


def plain_divergences():
  student, teacher, _ = case()
  return [
    reference.divergence("forward_kl", p, q)
    for p, q in zip(teacher, student, strict=True)
  ]


@pytest.mark.parametrize("weights", token_losses.WEIGHTS)
def test_loss_is_weight_times_value_of_each_token(weights):
  metrics = metrics_of(weights)
  for array in vars(metrics).values():
    assert (array.shape, array.dtype) == ((C,), jnp.float32)
  np.testing.assert_array_equal(metrics.loss, metrics.weight * metrics.value)
  assert float(metrics.value.min()) >= 0
  np.testing.assert_allclose(metrics.kl, plain_divergences(), rtol=1e-4)


def test_divergence_of_every_token_counts_once_by_default():
  metrics = metrics_of("uniform")
  np.testing.assert_array_equal(metrics.weight, 1)
  np.testing.assert_allclose(metrics.value, plain_divergences(), rtol=1e-4)
  student, teacher, inputs = case()
  default = token_losses.distillation_token_loss()(student, teacher, inputs)
  np.testing.assert_array_equal(default.loss, metrics.loss)


def test_agreement_is_of_the_most_probable_tokens():
  student, teacher, _ = case()
  same = np.argmax(student, -1) == np.argmax(teacher, -1)
  np.testing.assert_array_equal(metrics_of("uniform").agreement, same)


def test_weights_choose_what_counts():
  for source, weight in (
    (structs.STUDENT, 1),
    (structs.TEACHER, 0),
    (structs.REFERENCE, 0),
  ):
    metrics = metrics_of("accepted_only", source)
    np.testing.assert_array_equal(metrics.weight, weight)
  np.testing.assert_array_equal(
    metrics_of("accepted_only", structs.STUDENT).loss,
    metrics_of("uniform", structs.STUDENT).loss,
  )


@pytest.mark.parametrize(
  "corrections",
  [
    token_losses.correction_cross_entropy,
    token_losses.correction_cross_entropy_top_1,
  ],
)
def test_corrections_have_a_loss_of_their_own(corrections):
  student, teacher, inputs = case()
  target = np.asarray(inputs.tokens)
  if corrections is token_losses.correction_cross_entropy_top_1:
    target = np.argmax(teacher, axis=-1)
  hard = -reference.log_softmax(student)[np.arange(C), target]
  for source, expected in (
    (structs.STUDENT, plain_divergences()),
    (structs.REFERENCE, plain_divergences()),
    (structs.TEACHER, hard),
  ):
    metrics = metrics_of("uniform", source, corrections=corrections)
    np.testing.assert_allclose(metrics.loss, expected, rtol=1e-4)


def test_tokens_count_by_the_confidence_of_the_teacher():
  _, teacher, _ = case()
  weight = reference.softmax(teacher).max(axis=1)
  metrics = metrics_of("teacher_confidence")
  np.testing.assert_allclose(metrics.weight, weight, rtol=1e-5)
  np.testing.assert_allclose(
    metrics.loss, weight * plain_divergences(), rtol=1e-4
  )


@pytest.mark.parametrize(
  "source", [structs.STUDENT, structs.TEACHER, structs.REFERENCE]
)
def test_unverified_tokens_count_less_whoever_generated_them(source):
  metrics = metrics_of("verified", source, verified_k=4, unverified_weight=0.25)
  _, teacher, inputs = case()
  own = np.take_along_axis(teacher, np.asarray(inputs.tokens)[:, None], 1)
  weight = np.where((teacher > own).sum(axis=1) < 4, 1.0, 0.25)
  assert set(weight.tolist()) == {1.0, 0.25}
  np.testing.assert_array_equal(metrics.weight, weight)
  np.testing.assert_allclose(
    metrics.loss, weight * plain_divergences(), rtol=1e-4
  )


def test_supervised_loss_is_cross_entropy_without_a_teacher():
  student, _, inputs = case()
  metrics = token_losses.supervised_token_loss(student, None, inputs)
  tokens = np.asarray(inputs.tokens)
  expected = -reference.log_softmax(student)[np.arange(C), tokens]
  np.testing.assert_allclose(metrics.loss, expected, rtol=1e-5)
  np.testing.assert_array_equal(metrics.value, metrics.loss)
  np.testing.assert_array_equal(metrics.weight, 1)
  np.testing.assert_array_equal(metrics.kl, 0)
  np.testing.assert_array_equal(
    metrics.agreement, np.argmax(student, -1) == tokens
  )


def test_unknown_weights_are_named():
  with pytest.raises(
    ValueError, match=r"^weights = 'none': must be one of \['uniform', "
  ):
    token_losses.distillation_token_loss(FORWARD_KL, "none")
