"""What is compiled for eight devices: what moves between them, and when.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest \\
    tests/parallel/test_mesh_programs.py

Without eight devices all of it is skipped; check.sh sets the flag.
"""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from benchmarks.tpu import hlo
from skd_jax import models
from skd_jax.decoding import sampling
from skd_jax.models import loading
from skd_jax.parallel import sharding
from tests.parallel.mesh_pieces import (
  FEW,
  ROWS,
  G,
  make_mesh,
  make_pieces,
  needs_eight_devices,
)
from tests.toy_models import EVEN_LLAMA

pytestmark = needs_eight_devices
# Fast tests take the first.
FEW_COMPILED = [FEW[0], pytest.param(FEW[1], marks=pytest.mark.slow)]


@functools.cache
def compiled_texts(shape):
  """The programs of the rollout and of the train step.

  And the shapes of the weights of both models, and of what a device has of the
  student's where it has them whole along fsdp.
  """
  mesh = make_mesh(shape)
  config = dataclasses.replace(
    EVEN_LLAMA, hidden_size=128, intermediate_size=256, vocab_size=1024
  )
  with jax.set_mesh(mesh):
    pieces = make_pieces(mesh, config, teacher_width=192)
    params, batch = pieces.params, pieces.batch
    keys = sampling.row_keys(0, 0, batch.index)
    threshold = jnp.float32(8.0)
    rollout = pieces.rollout_fn.lower(*params, batch, keys, threshold).compile()
    state = pieces.train.init(pieces.student.params)
    step = pieces.train.step_with.lower(
      state, None, pieces.teacher_head, batch, pieces.generate()
    ).compile()
  weights = {x.shape for x in jax.tree.leaves(params) if x.ndim > 1}
  placed = loading.Placement(mesh, sharding.FROZEN).shardings(config)
  parts = jax.tree.map(
    lambda x, where: where.shard_shape(x.shape), params[0], placed
  )
  parts = jax.tree.leaves(parts, is_leaf=lambda x: isinstance(x, tuple))
  gathered = sorted(part for part in parts if len(part) > 1)
  return rollout.as_text(), step.as_text(), weights, gathered


def in_loops(text: str, operation: str) -> set[tuple[int, ...]]:
  """Shapes of the results of an operation outside of the entry."""
  shapes, in_entry = set(), False
  for line in text.splitlines():
    if line and not line.startswith((" ", "}")):
      in_entry = line.startswith("ENTRY")
    found = re.match(rf"\s+(?:ROOT )?%\S+ = (.*?) {operation}\(", line)
    if found and not in_entry:
      for dims in re.findall(r"\[([\d,]*)\]", found[1]):
        shapes.add(tuple(map(int, filter(None, dims.split(",")))))
  return shapes


@pytest.mark.optimized
@pytest.mark.parametrize("shape", FEW_COMPILED)
def test_the_decode_loop_gathers_no_more_than_what_is_drawn(shape):
  text, _, weights, _ = compiled_texts(shape)
  gathered = in_loops(text, "all-gather")
  whole = weights | {shape[::-1] for shape in weights}
  assert not gathered & whole
  data, fsdp, _ = shape
  # Tokens of a draft, and keys of two numbers; no mask of [B, S], no cache.
  drawn = (ROWS // (data * fsdp)) * G * 2
  assert all(math.prod(found) <= drawn for found in gathered)


def gathers_before_the_loop(text):
  """The large arrays that are gathered outside of every loop."""
  return sorted(
    shape
    for found in hlo.collectives(text)
    if found.kind == "all-gather" and not found.loop_depth
    for shape in found.shapes
    if math.prod(shape) > 64 * ROWS
  )


@pytest.mark.optimized
def test_rollout_gathers_the_weights_of_the_student_once():
  text, _, _, parts = compiled_texts((2, 2, 2))
  assert len(parts) == 2 * 7 + 2
  assert gathers_before_the_loop(text) == parts


@pytest.mark.slow
def test_without_fsdp_the_rollout_gathers_no_weights():
  assert not gathers_before_the_loop(compiled_texts((1, 1, 8))[0])


@pytest.mark.optimized
def test_the_train_step_gathers_weights_and_no_activations():
  _, text, _, parts = compiled_texts((2, 2, 2))
  assert set(gathers_before_the_loop(text)) == set(parts)
  moved = [
    math.prod(shape)
    for found in hlo.collectives(text)
    if found.loop_depth and found.kind not in ("all-reduce", "reduce-scatter")
    for shape in found.shapes
  ]
  width = EVEN_LLAMA.num_heads * 16
  assert max(moved) < width  # Not even the activations of one token.


@pytest.mark.optimized
@pytest.mark.parametrize("shape", FEW_COMPILED)
def test_compiled_programs_call_nothing_on_the_host(shape):
  for text in compiled_texts(shape)[:2]:
    calls = set(re.findall(r'custom_call_target="([^"]+)"', text))
    assert not [call for call in calls if "callback" in call]


@pytest.mark.optimized
def test_the_train_step_donates_its_state():
  _, text, _, _ = compiled_texts((2, 2, 2))
  header = text.split("\n", 1)[0]
  num_weights = len(jax.tree.leaves(models.param_shapes(EVEN_LLAMA)))
  # Weights and both moments, and two counters of the optimizer and the step.
  assert header.count("may-alias") + header.count("must-alias") >= (
    3 * num_weights
  )
