"""The geometric bridge spends its budget, and no more."""

import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.decoding import bridge, sampling
from tests import reference

pytestmark = pytest.mark.usefixtures("strict")

B, V = 40, 9


def make_pair(seed=0):
  """Log-probabilities of a student with a nucleus, and of a teacher."""
  rng = np.random.default_rng(seed)
  logits = 2 * rng.normal(size=(2, B, V)).astype(np.float32)
  student = sampling.warp(jnp.asarray(logits[0]), sampling.Sampling(1.0, 0.9))
  teacher = sampling.warp(jnp.asarray(logits[1]), sampling.Sampling(0.7))
  return student, teacher


@pytest.mark.parametrize("eps", [0.0, 0.001, 0.1, 1.0, 100.0])
def test_bridge_equals_the_root_that_scipy_finds(eps):
  student, teacher = make_pair()
  found = np.exp(bridge.bridge_log_probs(student, teacher, jnp.float32(eps)))
  p, q = (np.exp(np.asarray(x, np.float64)) for x in (student, teacher))
  for b in range(B):
    np.testing.assert_allclose(
      found[b], reference.bridge(p[b], q[b], eps), atol=2e-4
    )


def test_budget_is_spent_where_the_teacher_is_further_away():
  student, teacher = make_pair()
  eps = jnp.linspace(0.01, 3.0, B)
  found = bridge.bridge_log_probs(student, teacher, eps)
  p, b = (np.exp(np.asarray(x, np.float64)) for x in (student, found))
  q = np.where(p > 0, np.exp(np.asarray(teacher, np.float64)), 0)
  q /= q.sum(-1, keepdims=True)
  spent = np.array([reference.kl(b[i], p[i]) for i in range(B)])
  most = np.array([reference.kl(q[i], p[i]) for i in range(B)])
  np.testing.assert_allclose(spent, np.minimum(eps, most), rtol=1e-2, atol=1e-4)
  assert 0 < np.sum(most < eps) < B


def test_bridge_without_a_budget_is_the_student_to_the_last_bit():
  student, teacher = make_pair()
  found = bridge.bridge_log_probs(student, teacher, jnp.float32(0))
  np.testing.assert_array_equal(found, student)


def test_bridge_of_two_equal_models_is_the_student():
  student, _ = make_pair()
  found = bridge.bridge_log_probs(student, student, jnp.float32(0.5))
  np.testing.assert_allclose(np.exp(found), np.exp(student), atol=1e-6)
