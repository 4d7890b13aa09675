"""Divergences by hand, against the plain formula, and at equality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.losses import divergence
from tests import reference

pytestmark = pytest.mark.usefixtures("strict")

NAMES = [
  "forward_kl",
  "reverse_kl",
  "jsd",
  "skew_forward_kl",
  "skew_reverse_kl",
  "tvd",
  "top_k_forward_kl",
]


def get(name, **changes):
  parameters = dict(beta=0.3, alpha=0.1, k=2, vocab_size=11) | changes
  return divergence.get_divergence(name, **parameters)


# Three tokens: teacher p = (1/2, 1/4, 1/4), student q = (1/4, 1/4, 1/2).
P = jnp.log(jnp.asarray([0.5, 0.25, 0.25], jnp.float32))
Q = jnp.log(jnp.asarray([0.25, 0.25, 0.5], jnp.float32))
# A teacher that is sure where the student is not: the direction shows.
SURE = jnp.log(jnp.asarray([0.98, 0.01, 0.01], jnp.float32))
LOG2 = float(np.log(2))


def test_forward_kl_by_hand():
  # 1/2 log 2 + 1/4 log 1 + 1/4 log(1/2) = 1/4 log 2
  assert float(divergence.forward_kl(P, Q)) == pytest.approx(LOG2 / 4)


def test_direction_of_the_two_kls():
  # KL(sure || p) = .98 log 1.96 + 2 x .01 log .04: finite and small.
  forward = 0.98 * np.log(1.96) + 0.02 * np.log(0.04)
  # KL(p || sure) = .5 log(.5/.98) + .5 log 25: the student's spread is costly.
  reverse = 0.5 * np.log(0.5 / 0.98) + 0.5 * np.log(25)
  assert float(divergence.forward_kl(SURE, P)) == pytest.approx(
    forward, rel=1e-5
  )
  assert float(divergence.reverse_kl(SURE, P)) == pytest.approx(
    reverse, rel=1e-5
  )


def test_tvd_by_hand():
  assert float(divergence.tvd(P, Q)) == pytest.approx(0.25)


def test_jsd_by_hand():
  # m = (3/8, 1/4, 3/8); both sides give 1/2 log(4/3) + 1/4 log(2/3).
  value = 0.5 * np.log(4 / 3) + 0.25 * np.log(2 / 3)
  assert float(divergence.jsd(P, Q)) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_matches_the_plain_formula(name):
  rng = np.random.default_rng(0)
  teacher, student = rng.normal(size=(2, 40, 11)) * 3
  values = get(name)(jnp.float32(teacher), jnp.float32(student))
  expected = [
    reference.divergence(name, p, q, beta=0.3, alpha=0.1, k=2)
    for p, q in zip(teacher, student, strict=True)
  ]
  np.testing.assert_allclose(values, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_student_that_is_the_teacher_has_none(name):
  logits = jnp.float32(np.random.default_rng(1).normal(size=(5, 11)) * 4)
  values, gradient = jax.value_and_grad(
    lambda student: jnp.sum(get(name)(logits, student))
  )(logits)
  np.testing.assert_allclose(values, 0, atol=1e-6)
  if name != "tvd":  # It has a kink there.
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_top_k_with_its_tail_is_never_negative():
  # Without the tail bucket this pair gives .4 log(.4/.9) < 0.
  teacher = jnp.log(jnp.asarray([0.4, 0.3, 0.3], jnp.float32))
  student = jnp.log(jnp.asarray([0.9, 0.05, 0.05], jnp.float32))
  assert float(get("top_k_forward_kl", k=1)(teacher, student)) > 0


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("forwardkl", {}, "^divergence = 'forwardkl': must be one of"),
    ("jsd", {"beta": 0.0}, r"^beta = 0\.0: must be inside \(0, 1\)"),
    ("skew_forward_kl", {"alpha": 1.0}, r"^alpha = 1\.0"),
    ("top_k_forward_kl", {"k": 11}, r"^k = 11: must be in \[1, 10\]"),
  ],
)
def test_bad_settings_are_named(name, change, message):
  with pytest.raises(ValueError, match=message):
    get(name, **change)


@pytest.mark.parametrize(
  ("function", "value", "message"),
  [
    (divergence.jsd, 2.0, r"^beta = 2\.0: must be inside \(0, 1\)"),
    (divergence.skew_forward_kl, 0.0, r"^alpha = 0\.0"),
    (divergence.skew_reverse_kl, 1.0, r"^alpha = 1\.0"),
    (divergence.top_k_forward_kl, 3, r"^k = 3: must be in \[1, 2\]"),
    (divergence.top_k_forward_kl, 0, "^k = 0"),
  ],
)
def test_a_divergence_refuses_what_would_not_be_a_number(
  function, value, message
):
  with pytest.raises(ValueError, match=message):
    function(P, P, value)
