"""The loss from a cached teacher: its value, its gradient, and its error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.losses import cached, chunked, divergence, token_losses
from tests import reference
from tests.conftest import trigram_model

pytestmark = pytest.mark.usefixtures("strict")

V, N, K = 11, 40, 3
BETA, ALPHA = 0.3, 0.1


def get(name):
  return divergence.get_divergence(
    name, beta=BETA, alpha=ALPHA, k=1, vocab_size=V
  )


def draw(seed=0):
  """Logits of a teacher and a student, float64 [N, V]."""
  return np.random.default_rng(seed).normal(size=(2, N, V)) * 3


def make_inputs(teacher, k):
  return token_losses.TokenInputs(
    tokens=jnp.zeros(len(teacher), jnp.int32),
    source=jnp.zeros(len(teacher), jnp.int8),
    teacher_hidden=None,
    teacher_top=cached.top_of_logits(jnp.float32(teacher), k),
  )


def values(name, teacher, student, k):
  """Returns the loss of each token, float32 [N]."""
  loss = cached.cached_token_loss(get(name))
  return loss(jnp.float32(student), None, make_inputs(teacher, k)).loss


def expected(name, teacher, student, k):
  return np.array(
    [
      reference.cached_divergence(name, p, q, k, beta=BETA, alpha=ALPHA)
      for p, q in zip(teacher, student, strict=True)
    ]
  )


@pytest.mark.parametrize("k", [1, K, V])
@pytest.mark.parametrize("name", cached.DIVERGENCES)
def test_matches_the_plain_formula(name, k):
  teacher, student = draw()
  np.testing.assert_allclose(
    values(name, teacher, student, k),
    expected(name, teacher, student, k),
    rtol=2e-4,
    atol=1e-6,
  )


@pytest.mark.parametrize("k", [K, V])
@pytest.mark.parametrize("name", cached.DIVERGENCES)
def test_gradient_is_that_of_the_plain_formula(name, k):
  teacher, student = draw(1)
  teacher, student = teacher[:4], student[:4]
  gradient = jax.grad(
    lambda student: jnp.sum(values(name, teacher, student, k))
  )(jnp.float32(student))
  step = 1e-5
  for v in range(V):
    change = step * np.eye(V)[v]
    slope = (
      expected(name, teacher, student + change, k)
      - expected(name, teacher, student - change, k)
    ) / (2 * step)
    np.testing.assert_allclose(gradient[:, v], slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", cached.DIVERGENCES)
def test_nothing_is_lost_where_all_tokens_are_cached(name):
  teacher, student = map(jnp.float32, draw(2))
  full, full_gradient = jax.value_and_grad(
    lambda student: jnp.sum(get(name)(teacher, student))
  )(student)
  mine, gradient = jax.value_and_grad(
    lambda student: jnp.sum(values(name, teacher, student, V))
  )(student)
  np.testing.assert_allclose(mine, full, rtol=1e-5)
  np.testing.assert_allclose(gradient, full_gradient, rtol=1e-4, atol=1e-6)


def error_bound(name, teacher, student, k):
  """The most that the bucket can hide; see losses/cached.py."""
  p, q = reference.softmax(teacher), reference.softmax(student)
  tail = np.argsort(-p, kind="stable")[k:]
  in_p, in_q = p[tail].sum(), q[tail].sum()
  middle = BETA * in_p + (1 - BETA) * in_q
  share = BETA * in_p / middle
  coin = -share * np.log(share) - (1 - share) * np.log1p(-share)
  return {
    "forward_kl": in_p * reference.kl(p[tail] / in_p, q[tail] / in_q),
    "tvd": min(in_p, in_q),
    "skew_reverse_kl": (1 - ALPHA) / ALPHA * in_p,
    "skew_forward_kl": in_p * np.log1p((1 - ALPHA) * in_q / (ALPHA * in_p)),
    "jsd": middle * coin,
  }[name]


@pytest.mark.parametrize("name", cached.DIVERGENCES)
def test_error_is_of_one_sign_and_bounded_by_the_tail(name):
  for teacher, student in zip(*draw(3), strict=True):
    full = reference.divergence(name, teacher, student, BETA, ALPHA)
    for k in range(1, V):
      lost = full - reference.cached_divergence(
        name, teacher, student, k, beta=BETA, alpha=ALPHA
      )
      bound = error_bound(name, teacher, student, k)
      assert -1e-12 <= lost <= bound + 1e-12
      if name == "forward_kl":
        assert lost == pytest.approx(bound, abs=1e-12)


def test_tail_that_is_next_to_nothing_gives_no_nan():
  teacher = np.array([[200.0, 0.0, 0.0, -200.0]])
  value, gradient = jax.value_and_grad(
    lambda student: jnp.sum(values("forward_kl", teacher, student, 1))
  )(jnp.zeros((1, 4)))
  assert float(value) == pytest.approx(np.log(4))
  np.testing.assert_allclose(gradient, [[-0.75, 0.25, 0.25, 0.25]], rtol=1e-5)


def test_metrics_are_of_the_top_token_and_of_the_merged_distributions():
  # The bucket weighs more than any token; it is no token to agree on.
  teacher = np.log([[0.3, 0.25, 0.25, 0.2], [0.3, 0.25, 0.25, 0.2]])
  student = np.log([[0.4, 0.2, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4]])
  loss = cached.cached_token_loss(get("tvd"))
  found = loss(jnp.float32(student), None, make_inputs(teacher, 1))
  np.testing.assert_array_equal(found.agreement, [1, 0])
  np.testing.assert_array_equal(found.weight, [1, 1])
  np.testing.assert_allclose(
    found.kl, expected("forward_kl", teacher, student, 1), rtol=1e-4
  )


def test_goes_through_the_chunked_product_with_the_head():
  model, rng = trigram_model(), np.random.default_rng(4)
  head = jnp.float32(rng.normal(size=(V, V)))
  hidden = jnp.float32(rng.normal(size=(N, V)))
  mask = jnp.asarray(rng.random(N) < 0.6)
  inputs = make_inputs(draw(5)[0], K)
  loss = cached.cached_token_loss(get("forward_kl"))

  def by_chunks(head, hidden):
    return chunked.chunked_loss(
      loss, model, None, 8, head, hidden, None, inputs, mask
    )[0]

  def plain(head, hidden):
    found = loss(model.head(head, hidden), None, inputs)
    return jnp.sum(jnp.where(mask, found.loss, 0.0))

  for mine, theirs in zip(
    *(jax.grad(f, (0, 1))(head, hidden) for f in (by_chunks, plain)),
    strict=True,
  ):
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    by_chunks(head, hidden), plain(head, hidden), rtol=1e-5
  )


def test_loss_without_the_cached_teacher_is_refused():
  inputs = token_losses.TokenInputs(
    jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int8), None
  )
  with pytest.raises(ValueError, match=r"^teacher_top = None: must be given"):
    cached.cached_token_loss()(jnp.zeros((1, V)), None, inputs)
