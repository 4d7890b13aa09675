"""Eight devices compute what one does, however they are arranged.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest \\
    tests/parallel/test_meshes.py

Without eight devices all of it is skipped; check.sh sets the flag.
"""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.tpu import hlo
from skd_jax import builders, methods, models, structs
from skd_jax import config as config_lib
from skd_jax.decoding import sampling, stopping
from skd_jax.evaluation import agreement
from skd_jax.models import loading, lora
from skd_jax.parallel import sharding
from skd_jax.training import generation, probe, train_step
from tests.conftest import make_batch
from tests.toy_models import (
  EVEN_ENCODER_FAMILIES,
  EVEN_FAMILIES,
  EVEN_LLAMA,
  noisy_params,
)

pytestmark = pytest.mark.skipif(
  len(jax.devices()) < 8,
  reason="needs XLA_FLAGS=--xla_force_host_platform_device_count=8",
)

V, T, EOS, ROWS = 64, 6, 3, 16
SHAPES = [
  (8, 1, 1),
  (1, 8, 1),
  (1, 1, 8),
  (4, 2, 1),
  (2, 4, 1),
  (4, 1, 2),
  (2, 1, 4),
  (1, 4, 2),
  (1, 2, 4),
  (2, 2, 2),
]
FEW = [(2, 2, 2), (1, 1, 8)]

# Some of each: fast tests take the first.
CASES = [
  pytest.param(
    family,
    shape,
    id=f"{family}-{'x'.join(map(str, shape))}",
    marks=[] if (family, shape) == ("gemma2", FEW[0]) else [pytest.mark.slow],
  )
  for family in EVEN_FAMILIES
  for shape in SHAPES
]


def make_mesh(shape):
  data, fsdp, tensor = shape
  size = data * fsdp * tensor
  return sharding.make_mesh(
    data=data, fsdp=fsdp, tensor=tensor, devices=jax.devices()[:size]
  )


def load(config, seed, mesh, rules):
  """A confident model, placed on a mesh."""
  placement = loading.Placement(mesh, rules)
  params = jax.device_put(
    noisy_params(config, seed, scale=0.3), placement.shardings(config)
  )
  return loading.LoadedModel(config, models.create(config), params)


def load_adapted(config, mesh, rank):
  """A confident model that is trained by adapters."""
  base = load(config, 0, mesh, sharding.FROZEN)
  params = models.add_adapters(
    config,
    base.params,
    rank=rank,
    alpha=2.0 * rank,
    targets=lora.TARGETS,
    seed=0,
  )
  return dataclasses.replace(base, params=params)


def make_config(method="skd", **changes):
  config = methods.apply_method(config_lib.default_config(), method)
  return methods.change(
    config,
    {
      "rollout.threshold": 8.0,
      "rollout.student_temperature": 1.0,
      "rollout.student_top_p": 0.9,
      "rollout.teacher_top_p": 0.9,
      "distill.num_steps": 10,
      "distill.learning_rate": 1e-3,
      "distill.num_microbatches": 2,
      "loss.chunk_size": 8,
      **changes,
    },
  )


def make_prompts(ending=()):
  rng = np.random.default_rng(7)
  prompts = [
    [*rng.integers(4, V, rng.integers(1, 5)).tolist(), *ending]
    for _ in range(ROWS)
  ]
  batch = jax.device_get(make_batch(prompts, references=[[5, 6, 3]] * ROWS))
  limits = np.asarray([1 + i % T for i in range(ROWS)], np.int32)
  return dataclasses.replace(batch, max_new_tokens=limits)


@dataclasses.dataclass(frozen=True)
class Pieces:
  """What a step of distillation needs, on a mesh."""

  student: loading.LoadedModel
  teacher: loading.LoadedModel
  spec: generation.GenerationSpec
  rollout_fn: generation.RolloutFn
  train: train_step.TrainFns
  batch: structs.Batch

  @property
  def params(self):
    return self.student.params, self.teacher.params

  @property
  def teacher_head(self):
    if not self.spec.uses_teacher:
      return None
    return self.teacher.model.head_params(self.teacher.params)

  def generate(self, student_params=None):
    """The responses of the first step."""
    keys = sampling.row_keys(0, 0, self.batch.index)
    return generation.generate_responses(
      self.spec,
      self.rollout_fn,
      self.teacher.model,
      student_params or self.student.params,
      self.teacher.params,
      self.batch,
      keys,
      0,
    )[0]


def make_pieces(mesh, model_config, teacher_width, rank=0, **changes):
  config = make_config(**changes)
  if rank:
    student = load_adapted(model_config, mesh, rank)
  else:
    student = load(model_config, 0, mesh, sharding.TRAINED)
  wide = dataclasses.replace(model_config, hidden_size=teacher_width)
  teacher = load(wide, 1, mesh, sharding.FROZEN)
  spec = builders.generation_spec(config, max_new_tokens=T, num_draft_tokens=3)
  vocab_size = model_config.vocab_size
  # What a decoder behind an encoder starts from.
  ending = [7] * getattr(model_config, "decoder_prompt_size", 0)
  return Pieces(
    student=student,
    teacher=teacher,
    spec=spec,
    rollout_fn=generation.make_rollout_fn(
      spec,
      student,
      teacher,
      stopping.make_stop_table(vocab_size, (EOS,)),
      mesh=mesh,
      dtype=jnp.float32,
    ),
    train=builders.train_fns(
      config,
      "distill",
      student,
      teacher if spec.uses_teacher else None,
      builders.token_loss(config, vocab_size),
      mesh,
    ),
    batch=sharding.place_rows(make_prompts(ending), mesh, ROWS),
  )


@dataclasses.dataclass(frozen=True)
class Result:
  rollout: structs.Rollout
  metrics: dict
  params: structs.Params
  moments: object
  agreement: agreement.AgreementSums


def run(family, shape, **changes) -> Result:
  """One rollout and one train step on a mesh."""
  mesh = make_mesh(shape)
  with jax.set_mesh(mesh):
    pieces = make_pieces(mesh, EVEN_FAMILIES[family], 24, **changes)
    rollout = pieces.generate()
    state, metrics = pieces.train.step(
      pieces.train.init(pieces.student.params),
      pieces.teacher_head,
      pieces.batch,
      rollout,
    )
    sums = agreement.agreement_sums(
      *pieces.params,
      pieces.batch,
      student=pieces.student.model,
      teacher=pieces.teacher.model,
      chunk_size=8,
    )
    found = rollout, metrics, state.params, state.opt_state, sums
    return Result(*jax.device_get(found))


@functools.cache
def on_one_device(family, **changes):
  return run(family, (1, 1, 1), **changes)


def assert_same(got: Result, want: Result):
  for name in ("tokens", "length", "source", "draft_tokens", "stopped"):
    np.testing.assert_array_equal(
      getattr(got.rollout, name), getattr(want.rollout, name), err_msg=name
    )
  close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)
  jax.tree.map(close, got.rollout.teacher_hidden, want.rollout.teacher_hidden)
  for name, value in want.metrics.items():
    close(got.metrics[name], value, err_msg=name)
  jax.tree.map(close, got.params, want.params)
  # Moments are of gradients, which Adam's first step hides but for their signs.
  for ours, theirs in zip(
    *map(jax.tree.leaves, (got.moments, want.moments)), strict=True
  ):
    scale = np.max(np.abs(theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * scale)
  jax.tree.map(close, got.agreement, want.agreement)


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_mesh_generates_and_learns_what_one_device_does(family, shape):
  want = on_one_device(family)
  replaced = want.rollout.source == 1
  assert 0 < replaced.sum() < want.rollout.length.sum()
  assert_same(run(family, shape), want)


@pytest.mark.parametrize(
  "method",
  [
    pytest.param(name, marks=pytest.mark.slow)
    for name in (
      "imit_kd",
      "supervised_kd",
      "on_policy_kd",
      "seq_kd",
      "teacher_kd",
    )
  ],
)
def test_mesh_does_what_one_device_does_whoever_generates(method):
  # Where a gradient is next to nothing, Adam's first step is its rounding.
  slowly = {"method": method, "distill.learning_rate": 3e-4}
  want = on_one_device("llama", **slowly)
  sources = {
    "on_policy_kd": {structs.STUDENT},
    "imit_kd": {structs.STUDENT, structs.REFERENCE},
    "supervised_kd": {structs.REFERENCE},
    "teacher_kd": {structs.TEACHER},
    "seq_kd": {structs.TEACHER},
  }
  width = want.rollout.tokens.shape[1]
  emitted = np.arange(width) < want.rollout.length[:, None]
  assert set(want.rollout.source[emitted].tolist()) == sources[method]
  assert (want.rollout.teacher_hidden is None) == (method == "seq_kd")
  assert_same(run("llama", (2, 2, 2), **slowly), want)


@pytest.mark.parametrize("shape", SHAPES)
def test_references_are_placed_as_their_rows(shape):
  mesh = make_mesh(shape)
  with jax.set_mesh(mesh):
    batch = sharding.place_rows(make_prompts(), mesh, ROWS)
    rollout = generation.reference_rollout(batch)
  for x in jax.tree.leaves(rollout):
    assert x.sharding.is_equivalent_to(sharding.rows(mesh), x.ndim)


@pytest.mark.slow
@pytest.mark.parametrize("shape", FEW)
def test_each_group_refills_its_slots_from_its_own_rows(shape):
  assert_same(
    run("llama", shape, **{"rollout.batch_size": 8}), on_one_device("llama")
  )


@pytest.mark.parametrize("shape", FEW)
def test_weights_are_initialized_and_read_where_they_are_placed(
  shape, tmp_path
):
  config = dataclasses.replace(EVEN_LLAMA, num_layers=1, tie_embeddings=True)

  def initialize(shape):
    placement = loading.Placement(make_mesh(shape), sharding.TRAINED)
    return placement, models.init_model(
      config, seed=0, dtype=jnp.float32, placement=placement
    )

  _, alone = initialize((1, 1, 1))
  placement, made = initialize(shape)
  models.save_model(tmp_path / "saved", alone)
  read = models.load_model(
    tmp_path / "saved",
    dtype=jnp.float32,
    param_dtype=jnp.float32,
    placement=placement,
  )
  # The same draws, but for the last bit of what is made of them.
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
  jax.tree.map(close, made.params, alone.params)
  jax.tree.map(np.testing.assert_array_equal, read.params, alone.params)
  for model in (made, read):
    found = jax.tree.map(lambda x: x.sharding, model.params)
    assert found == placement.shardings(model.config)
  part = made.params["embedding"].addressable_shards[0].data
  assert part.size == made.params["embedding"].size // math.prod(shape[1:])


@functools.cache
def two_steps(model_config, shape, rank=0):
  """The responses of both steps, and what is trained after them."""
  mesh = make_mesh(shape)
  with jax.set_mesh(mesh):
    pieces = make_pieces(
      mesh, model_config, 24, rank=rank, **{"distill.learning_rate": 0.01}
    )
    state, rollouts = pieces.train.init(pieces.student.params), []
    for _ in range(2):
      rollouts.append(pieces.generate(pieces.train.params(state)))
      state, _ = pieces.train.step(
        state, pieces.teacher_head, pieces.batch, rollouts[-1]
      )
    return jax.device_get((rollouts, state.params))


def assert_same_two_steps(model_config, shape, rank=0):
  """Returns what one device has trained."""
  rollouts, trained = two_steps(model_config, shape, rank)
  want_rollouts, want = two_steps(model_config, (1, 1, 1), rank)
  for got, expected in zip(rollouts, want_rollouts, strict=True):
    np.testing.assert_array_equal(got.tokens, expected.tokens)
    np.testing.assert_array_equal(got.source, expected.source)
  close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-3)
  jax.tree.map(close, trained, want)
  return want


@pytest.mark.slow
@pytest.mark.parametrize("shape", FEW)
@pytest.mark.parametrize("family", EVEN_ENCODER_FAMILIES)
def test_two_steps_with_an_encoder_are_those_of_one_device(family, shape):
  config = EVEN_ENCODER_FAMILIES[family]
  want = assert_same_two_steps(config, shape)
  start = noisy_params(config, 0, scale=0.3)
  for layers in ("layers", "encoder"):
    moved = jax.tree.map(
      lambda a, b: np.abs(a - b).max(), want[layers], start[layers]
    )
    assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("shape", [FEW[0], (1, 4, 2)])
def test_two_steps_with_adapters_are_those_of_one_device(shape):
  config = EVEN_FAMILIES["gemma2"]
  want = assert_same_two_steps(config, shape, rank=2)
  b = [x for x in jax.tree.leaves(want) if x.shape[0] == 2]
  assert all(np.abs(x).max() > 5e-3 for x in b)


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
@pytest.mark.parametrize(
  "shape", [FEW[0], pytest.param(FEW[1], marks=pytest.mark.slow)]
)
def test_the_decode_loop_gathers_neither_weights_nor_caches(shape):
  text, _, weights, _ = compiled_texts(shape)
  gathered = in_loops(text, "all-gather")
  whole = weights | {shape[::-1] for shape in weights}
  assert not gathered & whole
  data, fsdp, _ = shape
  num_slots = 4 + T + 3
  cache = (ROWS // (data * fsdp)) * EVEN_LLAMA.num_kv_heads * num_slots * 8
  assert all(math.prod(found) < cache for found in gathered)


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
  # Without fsdp they are placed as the rollout reads them.
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
@pytest.mark.parametrize("shape", FEW)
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


@pytest.mark.slow
@pytest.mark.parametrize("shape", FEW)
def test_probe_finds_on_a_mesh_what_it_finds_on_one_device(shape):
  def find(shape):
    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
      pieces = make_pieces(mesh, EVEN_LLAMA, 24)
      found = probe.probe_pair(
        pieces.spec,
        pieces.student,
        pieces.teacher,
        stopping.make_stop_table(V, (EOS,)),
        pieces.batch,
        sampling.row_keys(0, 0, pieces.batch.index),
        mesh=mesh,
        dtype=jnp.float32,
      )
    return dataclasses.asdict(found)

  got, want = find(shape), find((1, 1, 1))
  assert got.pop("rule") == want.pop("rule")
  assert 0 < want["replaced"] < 1
  assert got == pytest.approx(want, rel=1e-4)
