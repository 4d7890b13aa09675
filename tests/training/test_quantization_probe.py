"""What a compact teacher has lost, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.decoding import sampling
from skd_jax.models import loading, quantization
from skd_jax.training import quantization_probe
from tests import reference
from tests.training.test_probe import (
  BATCH,
  EOS,
  MODEL,
  PROMPTS,
  SMALL,
  STOPS,
  STUDENT,
  TEACHER,
  T,
  make_keys,
  make_spec,
  next_logits,
  one_device,
)

COMPACT = loading.LoadedModel(
  SMALL, MODEL, quantization.quantize(TEACHER.params, "int4")
)


def measure(compact, **changes):
  return quantization_probe.measure(
    make_spec(**changes),
    STUDENT,
    compact,
    TEACHER.params,
    STOPS,
    BATCH,
    make_keys(BATCH),
    mesh=one_device(),
    dtype=jnp.float32,
  )


def slow(threshold):
  """The numbers of COMPACT, token by token; the rule is top_k."""
  student, compact, full = map(next_logits, (STUDENT, COMPACT, TEACHER))
  kls, same, changed = [], [], []
  for prompt, key in zip(PROMPTS, make_keys(BATCH), strict=True):
    answer, _, _ = reference.skd(
      student,
      compact,
      prompt,
      key,
      accept="never",
      threshold=0,
      replace="sample",
      eos_id=EOS,
      max_new_tokens=T,
    )
    for t in range(len(answer)):
      prefix = [*prompt, *answer[:t]]
      p, q = full(prefix), compact(prefix)
      kls.append(reference.kl(reference.softmax(p), reference.softmax(q)))
      same.append(np.argmax(p) == np.argmax(q))
      uniform = sampling.draw_uniform(
        key[None], sampling.STUDENT_DRAW, jnp.asarray([t])
      )
      log_probs = jax.nn.log_softmax(jnp.asarray(student(prefix)))[None]
      token = int(sampling.draw_token(log_probs, uniform)[0])
      ranks = [int(np.sum(x > x[token])) for x in (p, q)]
      changed.append((ranks[0] < threshold) != (ranks[1] < threshold))
  return len(kls), np.mean(kls), np.mean(same), np.mean(changed)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [8.0])
def test_numbers_are_those_of_the_slow_version(threshold):
  lost = measure(COMPACT, **{"rollout.threshold": threshold})
  tokens, kl, agreement, changed = slow(threshold)
  assert lost.tokens == tokens
  assert 0 < changed < 1  # Else nothing is compared.
  np.testing.assert_allclose(
    [lost.kl, lost.agreement, lost.changed],
    [kl, agreement, changed],
    rtol=1e-3,
    atol=1e-5,
  )


@pytest.mark.slow
def test_full_teacher_has_lost_nothing():
  lost = measure(TEACHER)
  assert lost.tokens > 4
  assert (lost.kl, lost.agreement, lost.changed) == (
    pytest.approx(0, abs=1e-6),
    1,
    0,
  )
