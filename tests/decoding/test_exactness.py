"""Speculative decoding loses nothing: a thousand sentences, every drafter."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from skd_jax import models, structs
from skd_jax.decoding import rollout, sampling, speculative, stopping
from skd_jax.decoding.drafters import ModelDrafter, PromptLookup
from skd_jax.decoding.policy import Policy
from tests import conftest, reference, toy_models

pytestmark = pytest.mark.slow

DRAFTERS = ("student", "early_exit", "lookup")
EOS = 0
# A drafter is switched off and on again with these.
COSTS = {"draft_cost": 0.15, "round_cost": 0.1}


def make_teacher(**changes):
  config = dataclasses.replace(toy_models.LLAMA, **changes)
  params = toy_models.noisy_params(config)
  return models.LoadedModel(config, models.create(config), params)


def make_drafter(name, teacher, how):
  """Returns the lookup; some layers of the teacher; or a noisy copy of it."""
  if name == "lookup":
    return PromptLookup()
  if name == "early_exit":
    student = models.prune_layers(teacher, [0])
  else:
    noise = toy_models.noisy_params(teacher.config, seed=1, scale=0.02)
    params = jax.tree.map(
      lambda x, y: x + y if x.ndim > 1 else x, teacher.params, noise
    )
    student = dataclasses.replace(teacher, params=params)
  return ModelDrafter(Policy(student.params, student.model, how))


@pytest.mark.parametrize("name", DRAFTERS)
def test_a_thousand_greedy_sentences_are_the_teachers_own(name):
  teacher = make_teacher()
  rng = np.random.default_rng(0)
  prompts = [
    rng.integers(1, teacher.config.vocab_size, rng.integers(1, 13)).tolist()
    for _ in range(1000)
  ]
  arguments = (
    Policy(teacher.params, teacher.model, sampling.GREEDY),
    conftest.make_batch(prompts),
    jax.random.split(jax.random.key(0), len(prompts)),
    stopping.make_stop_table(teacher.config.vocab_size, (EOS,)),
  )
  options = {"max_new_tokens": 24, "batch_size": 100}
  alone = jax.jit(
    functools.partial(rollout.decode, source=structs.TEACHER, **options)
  )(*arguments)
  drafted = jax.jit(
    functools.partial(
      speculative.speculative_decode, num_draft_tokens=4, **options
    )
  )
  drafter = make_drafter(name, teacher, sampling.GREEDY)
  for costs in ({"draft_cost": 0.0, "round_cost": 0.0}, COSTS):
    found = drafted(drafter, *arguments, **costs)
    np.testing.assert_array_equal(found.tokens, alone.tokens)
    np.testing.assert_array_equal(found.length, alone.length)
    np.testing.assert_array_equal(found.stopped, alone.stopped)
    accepted = np.sum(np.asarray(found.source) == structs.STUDENT)
    assert costs == COSTS or accepted > 100
  assert len(set(np.asarray(alone.length).tolist())) > 5


@pytest.mark.parametrize("name", DRAFTERS)
def test_sampled_tokens_follow_the_teacher(name):
  """Chi-square against the probabilities of all responses of 3 tokens."""
  num_rows, num_tokens, vocab_size = 20_000, 3, 5
  how = sampling.Sampling(0.8, 0.9)
  teacher = make_teacher(vocab_size=vocab_size)
  prompt = [3, 2, 4, 3, 2]
  batch = conftest.make_batch([prompt] * num_rows)
  found = jax.jit(
    functools.partial(
      speculative.speculative_decode,
      num_draft_tokens=2,
      max_new_tokens=num_tokens,
      **COSTS,
    )
  )(
    make_drafter(name, teacher, sampling.Sampling(1.2, 0.95)),
    Policy(teacher.params, teacher.model, how),
    batch,
    sampling.row_keys(3, 0, batch.index),
    stopping.make_stop_table(vocab_size, ()),
  )

  @jax.jit
  def last_logits(ids):
    model, params = teacher.model, teacher.params
    hidden, _ = model.apply(params, ids, jnp.arange(ids.shape[1])[None], None)
    return model.head(model.head_params(params), hidden)[0, -1]

  exact = reference.response_distribution(
    lambda tokens: None,
    lambda tokens: np.asarray(last_logits(jnp.asarray([tokens]))),
    prompt,
    next_distribution=lambda student, logits: reference.sampling_distribution(
      logits, how
    ),
    num_tokens=num_tokens,
  )
  place = vocab_size ** np.arange(num_tokens)
  counts = np.bincount(
    np.asarray(found.tokens) @ place, minlength=vocab_size**num_tokens
  )
  expected = np.zeros(vocab_size**num_tokens)
  for response, mass in exact.items():
    expected[np.asarray(response) @ place] = num_rows * mass
  assert counts[expected == 0].sum() == 0
  common = expected >= 5
  observed = np.append(counts[common], counts[~common].sum())
  wanted = np.append(expected[common], expected[~common].sum())
  keep = wanted > 0
  wanted *= observed.sum() / wanted.sum()
  assert stats.chisquare(observed[keep], wanted[keep]).pvalue > 1e-3
  assert np.mean(np.asarray(found.source) == structs.STUDENT) > 0.05
