"""What the teacher emits, by its plain distribution."""

import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.decoding import acceptance, replacement, sampling
from tests import reference

pytestmark = pytest.mark.usefixtures("strict")

B, V = 30, 11
STUDENT = sampling.Sampling(1.3, 0.95)
TEACHER = sampling.Sampling(0.8, 0.9)


def make_logits(seed=0):
  """Logits of the student and of the teacher, float32 [B, V]."""
  rng = np.random.default_rng(seed)
  return 1.5 * rng.normal(size=(2, B, V)).astype(np.float32)


@pytest.mark.parametrize("replace", ["sample", "argmax", "residual"])
def test_teacher_generates_from_its_sampling_distribution_or_its_best(replace):
  _, teacher = make_logits()
  how = replacement.generation_sampling(
    acceptance.Rule("lossless", replace), TEACHER
  )
  found = sampling.warp(jnp.asarray(teacher), how)
  kind = "argmax" if replace == "argmax" else "sample"
  for b in range(B):
    q = reference.sampling_distribution(teacher[b], TEACHER)
    expected = reference.replacement_distribution(kind, teacher[b], None, q)
    np.testing.assert_allclose(np.exp(found[b]), expected, atol=1e-6)


def test_residual_is_what_the_target_has_more_than_the_student():
  student, teacher = make_logits()
  found = replacement.residual_log_probs(
    sampling.warp(jnp.asarray(teacher), TEACHER),
    sampling.warp(jnp.asarray(student), STUDENT),
  )
  for b in range(B):
    p = reference.sampling_distribution(student[b], STUDENT)
    q = reference.sampling_distribution(teacher[b], TEACHER)
    residual = np.exp(np.asarray(found[b], np.float64))
    np.testing.assert_allclose(
      residual / residual.sum(),
      reference.replacement_distribution("residual", teacher[b], p, q),
      atol=1e-6,
    )


def test_residual_of_equal_distributions_is_the_target():
  same = sampling.warp(jnp.asarray(make_logits()[0]), TEACHER)
  np.testing.assert_array_equal(
    replacement.residual_log_probs(same, same), same
  )
