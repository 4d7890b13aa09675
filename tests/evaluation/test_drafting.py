"""How much a teacher would accept, against plain numpy and against use."""

import functools

import jax
import numpy as np
import pytest

from skd_jax.decoding import draft_stats, sampling, speculative, stopping
from skd_jax.decoding.drafters import ModelDrafter
from skd_jax.decoding.policy import Policy
from skd_jax.evaluation import answering, drafting
from tests import conftest, reference

V = 7
EOS = 6
T = 5
MODEL = conftest.trigram_model()
STUDENT = conftest.trigram_params(V, seed=1, scale=1.5)
TEACHER = conftest.trigram_params(V, seed=2, scale=1.5)
HOW = sampling.Sampling(0.7, 0.8)
PROMPTS = [[1, 2], [3], [2, 5, 4], [4], [5, 5], [0, 1]]


def make_batch(prompts=PROMPTS, num_padding=1):
  """The last rows only pad."""
  batch = conftest.make_batch(prompts, 3)
  index = np.arange(len(prompts))
  index[len(prompts) - num_padding :] = -1
  return batch.__class__(**{**vars(batch), "index": jax.numpy.asarray(index)})


def answer(batch, how=HOW):
  answers = answering.answer(
    TEACHER,
    batch,
    stop_table=stopping.make_stop_table(V, (EOS,)),
    model=MODEL,
    sampling=how,
    max_new_tokens=T,
  )
  return drafting.to_read(batch, answers)


def acceptance(batches, how=HOW, student=STUDENT):
  return drafting.acceptance(
    functools.partial(
      drafting.acceptance_sums,
      student,
      TEACHER,
      student=MODEL,
      teacher=MODEL,
      sampling=how,
      chunk_size=4,
    ),
    batches,
  )


def expected(batch, how):
  """Sums min(p, q) at each token of the answers, one by one."""
  p, q = map(conftest.trigram_logits, (STUDENT, TEACHER))
  betas = []
  for row, prompt in enumerate(PROMPTS):
    tokens = batch.reference[row, : batch.reference_length[row]].tolist()
    for t in range(len(tokens)):
      distributions = [
        reference.sampling_distribution(f(prompt + tokens[:t]), how)
        for f in (p, q)
      ]
      betas.append(np.sum(np.minimum(*distributions)))
  return np.mean(betas)


@pytest.mark.parametrize("how", [HOW, sampling.Sampling(), sampling.GREEDY])
def test_acceptance_is_the_mass_that_both_share(how):
  answered = answer(make_batch(), how)
  found = acceptance([answered, answered], how)
  assert found == pytest.approx(expected(answered, how), rel=1e-5)
  assert 0 < found < 1
  # What only pads has no tokens.
  assert answered.reference_length[-1] == 0
  assert np.all(np.asarray(answered.reference_length[:-1]) > 0)


def test_teacher_accepts_all_of_its_own():
  assert acceptance([answer(make_batch())], student=TEACHER) == pytest.approx(1)


def test_answers_are_drawn_as_served_and_the_same_each_time():
  batch = make_batch(num_padding=0)
  drawn = answer(batch)
  np.testing.assert_array_equal(drawn.reference, answer(batch).reference)
  greedy = answer(batch, sampling.GREEDY)
  assert np.any(np.asarray(drawn.reference) != np.asarray(greedy.reference))
  of_teacher = conftest.trigram_logits(TEACHER)
  first = [int(np.argmax(of_teacher(prompt))) for prompt in PROMPTS]
  assert np.asarray(greedy.reference[:, 0]).tolist() == first


def test_no_batch_is_no_acceptance():
  with pytest.raises(ValueError, match="batches is empty"):
    acceptance([])


@pytest.mark.slow
def test_acceptance_is_what_speculative_decoding_accepts():
  batch = make_batch(PROMPTS * 300, num_padding=0)
  decode = functools.partial(
    speculative.speculative_decode, num_draft_tokens=2, max_new_tokens=T
  )
  rollout = jax.jit(decode)(
    ModelDrafter(Policy(STUDENT, MODEL, HOW)),
    Policy(TEACHER, MODEL, HOW),
    batch,
    sampling.row_keys(1, 0, batch.index),
    stopping.make_stop_table(V, (EOS,)),
  )
  measured = draft_stats.count(jax.device_get(rollout), 2).acceptance
  assert acceptance([answer(batch)]) == pytest.approx(measured, abs=0.03)
