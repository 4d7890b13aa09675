"""What a model does on held-out data, against plain numpy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from skd_jax import structs
from skd_jax.evaluation import agreement
from tests import conftest

V = 7
EOS = 6


@pytest.fixture(scope="module")
def model():
  return conftest.trigram_model()


def _sums_fn(model, student, teacher):
  return functools.partial(
    agreement.agreement_sums,
    student,
    teacher,
    student=model,
    teacher=model,
    chunk_size=4,
  )


def _padded(batch, index):
  """The batch with other indices; rows of index -1 only pad."""
  index = jnp.asarray(index, jnp.int32)
  return dataclasses.replace(
    batch,
    index=index,
    reference_length=jnp.where(index < 0, 0, batch.reference_length),
  )


REFERENCES = [[2, 4, EOS], [3], [5, 1], [4, 4, 4]]
PROMPTS = [[1, 2], [3], [2, 5, 4], [4]]


def _batches():
  # The last row only pads: its tokens are no tokens.
  batch = conftest.make_batch(PROMPTS, 3, REFERENCES)
  return [_padded(batch, [0, 1, 2, -1])]


def _log_softmax(logits):
  shifted = logits.astype(np.float64) - logits.max()
  return shifted - np.log(np.exp(shifted).sum())


def test_model_agrees_with_itself(model):
  params = conftest.trigram_params(V, seed=1)
  scores = agreement.agreement(_sums_fn(model, params, params), _batches())
  entropy = scores.pop("teacher_entropy")
  assert 0 < entropy < np.log(V)
  assert scores.pop("student_entropy") == entropy
  assert scores == pytest.approx(
    {
      "kl": 0.0,
      "agreement": 1.0,
      "rank_correlation": 1.0,
      # The top 25 of 7 are all of them.
      "teacher_top_mass": 1.0,
      "student_top_mass": 1.0,
    },
    abs=1e-5,
  )


def test_comparison_looks_at_the_teachers_top_tokens():
  rng = np.random.default_rng(0)
  teacher, student = rng.normal(size=(2, 9, 30)).astype(np.float32)
  # Ties among the teacher's top tokens, and a student that ties all of them.
  teacher[1, :3] = teacher[1].max()
  student[2] = 0.5
  sums = agreement.compare_logits(jnp.asarray(teacher), jnp.asarray(student), 6)
  for row in range(9):
    p, q = (
      np.exp(_log_softmax(teacher[row])),
      np.exp(_log_softmax(student[row])),
    )
    top = np.argsort(-p, kind="stable")[:6]
    assert sums.teacher_top_mass[row] == pytest.approx(p[top].sum(), rel=1e-5)
    assert sums.student_top_mass[row] == pytest.approx(q[top].sum(), rel=1e-5)
    assert sums.teacher_entropy[row] == pytest.approx(
      -np.sum(p * np.log(p)), rel=1e-5
    )
    assert sums.student_entropy[row] == pytest.approx(
      -np.sum(q * np.log(q)), rel=1e-5
    )
    assert sums.kl[row] == pytest.approx(np.sum(p * np.log(p / q)), rel=1e-4)
    expected = 0.0
    if row != 2:
      expected = stats.spearmanr(teacher[row, top], student[row, top]).statistic
    assert sums.rank_correlation[row] == pytest.approx(expected, abs=1e-5)
  assert min(sums.rank_correlation) < 0 < max(sums.rank_correlation)


@pytest.mark.optimized
def test_comparison_does_not_sort_the_vocabulary():
  logits = jnp.zeros((4, 1000))
  compiled = jax.jit(agreement.compare_logits).lower(logits, logits).compile()
  # The ranks of the top 25 are sorted, a row of all logits is not.
  sorts = [x for x in compiled.as_text().splitlines() if " sort(" in x]
  assert not [x for x in sorts if "1000]" in x]


def test_no_batch_is_no_agreement(model):
  with pytest.raises(ValueError, match="batches is empty"):
    agreement.agreement(_sums_fn(model, {}, {}), [])


def test_disagreement_is_a_mean_over_the_reference_tokens(model):
  student, teacher = (conftest.trigram_params(V, seed=s) for s in (1, 2))
  of_student, of_teacher = map(conftest.trigram_logits, (student, teacher))
  kl, same = [], []
  for prompt, reference in zip(PROMPTS[:3], REFERENCES[:3], strict=True):
    for t in range(len(reference)):
      q, p = (
        _log_softmax(f(prompt + reference[:t]))
        for f in (of_teacher, of_student)
      )
      kl.append(np.sum(np.exp(q) * (q - p)))
      same.append(np.argmax(q) == np.argmax(p))
  sums_fn = _sums_fn(model, student, teacher)
  scores = agreement.agreement(sums_fn, _batches() * 2)
  assert scores["kl"] == pytest.approx(np.mean(kl), rel=1e-5)
  assert scores["agreement"] == pytest.approx(np.mean(same))


def test_annotations_are_ranks_and_probabilities_of_the_proposals(model):
  student, teacher = (conftest.trigram_params(V, seed=s) for s in (3, 4))
  of_student, of_teacher = map(conftest.trigram_logits, (student, teacher))
  prompts = [[1, 2], [5]]
  batch = conftest.make_batch(prompts, 4)
  tokens = np.array([[3, 1, 2], [4, 0, 5]], np.int32)
  drafts = np.array([[3, 4, 2], [1, 0, 6]], np.int32)
  rollout = structs.Rollout(
    tokens=jnp.asarray(tokens),
    length=jnp.full(2, 3, jnp.int32),
    source=jnp.asarray(tokens != drafts, jnp.int8),
    draft_tokens=jnp.asarray(drafts),
    stopped=jnp.zeros(2, bool),
    num_rounds=jnp.ones(2, jnp.int32),
    teacher_hidden=None,
  )
  found = jax.device_get(
    agreement.annotate(
      student, teacher, batch, rollout, student=model, teacher=model
    )
  )
  for row, prompt in enumerate(prompts):
    for t in range(3):
      # Both saw what was emitted before, not what was proposed.
      before = prompt + tokens[row, :t].tolist()
      q, p = _log_softmax(of_teacher(before)), _log_softmax(of_student(before))
      draft = drafts[row, t]
      at = row, t
      assert found["teacher_token"][at] == np.argmax(q)
      assert found["rank"][at] == np.sum(q > q[draft])
      assert found["student_prob"][at] == pytest.approx(np.exp(p[draft]), 1e-5)
      assert found["teacher_prob"][at] == pytest.approx(np.exp(q[draft]), 1e-5)
      assert found["emitted_teacher_prob"][at] == pytest.approx(
        np.exp(q[tokens[at]]), 1e-5
      )
