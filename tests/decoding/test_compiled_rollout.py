"""What the compiler made of the decode loop: no copies of what is large."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from skd_jax import models
from skd_jax.decoding import (
  acceptance,
  drafters,
  rollout,
  speculative,
  stopping,
)
from skd_jax.decoding.drafters import ModelDrafter
from skd_jax.decoding.policy import Policy
from tests import toy_models
from tests.conftest import make_batch

pytestmark = pytest.mark.slow  # Compiled as users do.

V, T, G = 61, 17, 4
PROMPTS = [[3, 4, 5]] * 10


def make_model(num_layers, width):
  config = dataclasses.replace(
    toy_models.EVEN_LLAMA,
    vocab_size=V,
    hidden_size=width,
    intermediate_size=2 * width,
    num_layers=num_layers,
    tie_embeddings=True,
  )
  params = models.init_params(config, jax.random.key(0))
  return models.create(config), params


def skd(student, teacher, batch, keys, **how):
  rule = acceptance.Rule("top_k", "sample")
  stops, threshold = stopping.make_stop_table(V, (0,)), jnp.float32(5)
  return rollout.rollout(
    student, teacher, batch, keys, stops, threshold, rule=rule, **how
  )


def lossless(student, teacher, batch, keys, **how):
  stops, drafter = stopping.make_stop_table(V, (0,)), ModelDrafter(student)
  return speculative.speculative_decode(
    drafter, teacher, batch, keys, stops, draft_cost=0.1, **how
  )


@functools.cache
def compiled_text(batch_size, decode=skd):
  (student, student_params), (teacher, teacher_params) = (
    make_model(2, 24),
    make_model(3, 40),
  )

  def generate(student_params, teacher_params, batch, keys):
    return decode(
      Policy(student_params, student),
      Policy(teacher_params, teacher),
      batch,
      keys,
      num_draft_tokens=G,
      max_new_tokens=T,
      batch_size=batch_size,
    )

  keys = jax.random.split(jax.random.key(0), len(PROMPTS))
  arguments = (student_params, teacher_params, make_batch(PROMPTS), keys)
  text = jax.jit(generate).lower(*arguments).compile().as_text()
  weights = {x.shape for x in jax.tree.leaves(arguments[:2]) if x.ndim > 1}
  return text, weights | {shape[::-1] for shape in weights}


def copied_shapes(text):
  """Shapes of the float arrays that are copied outside of the entry, so in the
  bodies of the loops.
  """
  shapes, in_entry = set(), False
  for line in text.splitlines():
    if line and not line.startswith((" ", "}")):
      in_entry = line.startswith("ENTRY")
    found = re.match(
      r"\s+(?:ROOT )?%\S+ = f32\[([\d,]+)\]\S* (?:copy|transpose)\(", line
    )
    if found and not in_entry:
      shapes.add(tuple(map(int, found[1].split(","))))
  return shapes


@pytest.mark.parametrize(
  ("batch_size", "decode"),
  [
    (None, skd),
    (7, skd),
    (None, lossless),
  ],
)
def test_the_loop_copies_neither_a_cache_nor_a_weight(batch_size, decode):
  text, weight_shapes = compiled_text(batch_size, decode)
  num_slots = len(PROMPTS[0]) + T + G
  cache_size = (batch_size or len(PROMPTS)) * 4 * num_slots * 8
  copied = copied_shapes(text)
  assert copied  # Small arrays are; the search finds copies.
  if decode is lossless:
    # The queries of the tokens that a drafter has missed, [B, n, N, R, H], are
    # more than so small a cache.
    missed = drafters._CHUNK
    copied -= {(10, missed, 4, 2, 8), (10, 4, 2, missed, 8)}
  assert max(map(math.prod, copied)) < cache_size
  assert not weight_shapes & copied


@pytest.mark.parametrize("batch_size", [None, 7])
def test_the_loop_calls_nothing_on_the_host(batch_size):
  text, _ = compiled_text(batch_size)
  calls = set(re.findall(r'custom_call_target="([^"]+)"', text))
  assert not [call for call in calls if "callback" in call]
