"""Eight devices compute what one does, however they are arranged.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest \\
    tests/parallel/test_meshes.py

Without eight devices all of it is skipped; check.sh sets the flag.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.tpu import hlo
from skd_jax import config as config_lib
from skd_jax import methods, models, structs, train
from skd_jax.decoding import sampling, stopping
from skd_jax.evaluation import agreement
from skd_jax.experiment import Run
from skd_jax.models import loading
from skd_jax.parallel import sharding
from skd_jax.training import train_step
from tests import tiny_run
from tests.conftest import make_batch

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

LLAMA = models.ModelConfig(
  vocab_size=V,
  hidden_size=16,
  intermediate_size=32,
  num_layers=2,
  num_heads=8,
  num_kv_heads=4,
  head_dim=8,
)
GEMMA = dataclasses.replace(
  LLAMA,
  model_type="gemma",
  activation="gelu_tanh",
  tie_embeddings=True,
  unit_offset_norm=True,
  scale_embeddings=True,
  num_kv_heads=1,
)
FAMILIES = {
  "llama": LLAMA,
  "qwen2": dataclasses.replace(
    LLAMA, model_type="qwen2", attention_bias=True, tie_embeddings=True
  ),
  # Its vocabulary divides by no axis: embedding and head stay whole.
  "qwen3": dataclasses.replace(
    LLAMA, model_type="qwen3", qk_norm=True, vocab_size=67
  ),
  "gemma": GEMMA,
  "gemma2": dataclasses.replace(
    GEMMA,
    model_type="gemma2",
    num_kv_heads=4,
    sandwich_norm=True,
    attention_soft_cap=3.0,
    final_soft_cap=2.0,
    layer_windows=(4, None),
  ),
  "gemma3": dataclasses.replace(
    GEMMA,
    model_type="gemma3_text",
    num_kv_heads=4,
    sandwich_norm=True,
    qk_norm=True,
    layer_windows=(4, None),
    local_rope=models.RopeConfig(),
  ),
}
# Some of each: fast tests take the first.
CASES = [
  pytest.param(
    family,
    shape,
    id=f"{family}-{'x'.join(map(str, shape))}",
    marks=[]
    if (family == "llama" and shape in FEW)
    or (family, shape) in (("gemma2", (1, 2, 4)), ("qwen3", (1, 2, 4)))
    else [pytest.mark.slow],
  )
  for family in FAMILIES
  for shape in SHAPES
]


def make_mesh(shape):
  data, fsdp, tensor = shape
  size = data * fsdp * tensor
  return sharding.make_mesh(
    data=data, fsdp=fsdp, tensor=tensor, devices=jax.devices()[:size]
  )


def host_params(config, seed):
  """Weights of a confident model, in numpy."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: (
      (0.3 * rng.normal(size=x.shape)).astype(np.float32)
      + np.float32(x.ndim == 1 and not config.unit_offset_norm)
    ),
    models.param_shapes(config),
  )


def load(config, seed, mesh, rules):
  placement = loading.Placement(mesh, rules)
  params = jax.device_put(
    host_params(config, seed), placement.shardings(config)
  )
  return loading.LoadedModel(config, models.create(config), params)


def make_run(mesh, vocab_size=V, method="skd", **changes):
  config = methods.apply(config_lib.default_config(), method)
  config = methods.change(
    config,
    {
      "rollout.threshold": 8.0,
      "rollout.student_temperature": 1.0,
      "rollout.student_top_p": 0.9,
      "rollout.teacher_top_p": 0.9,
      "rollout.num_draft_tokens": 3,
      "distill.num_steps": 10,
      "distill.learning_rate": 1e-3,
      "distill.num_microbatches": 2,
      "loss.chunk_size": 8,
      **changes,
    },
  )
  task = types.SimpleNamespace(
    max_new_tokens=T,
    stop_table=stopping.make_stop_table(vocab_size, (EOS,)),
    vocab_size=vocab_size,
  )
  return Run(config, pathlib.Path(), task, jnp.float32, mesh)


def make_prompts():
  rng = np.random.default_rng(7)
  prompts = [
    rng.integers(4, V, rng.integers(1, 5)).tolist() for _ in range(ROWS)
  ]
  batch = jax.device_get(make_batch(prompts, references=[[5, 6, 3]] * ROWS))
  limits = np.asarray([1 + i % T for i in range(ROWS)], np.int32)
  return dataclasses.replace(batch, max_new_tokens=limits)


def make_pieces(run, config, teacher_width):
  """Rollout and train step of a run, and the prompts of a step."""
  student = load(config, 0, run.mesh, sharding.TRAINED)
  wide = dataclasses.replace(config, hidden_size=teacher_width)
  teacher = load(wide, 1, run.mesh, sharding.FROZEN)
  batch = sharding.place_rows(make_prompts(), run.mesh, ROWS)
  return train.prepare_distillation(run, student, teacher), batch


def write(shared, batch):
  """The training data of the first step."""
  keys = sampling.row_keys(0, 0, batch.index)
  params = shared.start.params, shared.teacher.params
  return shared.write(*params, batch, keys, 0)[0]


@dataclasses.dataclass(frozen=True)
class Result:
  written: object
  metrics: dict
  params: object
  moments: object
  agreement: object


def learn(family, shape, **changes) -> Result:
  """One rollout and one step of training on a mesh."""
  mesh, config = make_mesh(shape), FAMILIES[family]
  run = make_run(mesh, config.vocab_size, **changes)
  with jax.set_mesh(mesh):
    shared, batch = make_pieces(run, config, teacher_width=24)
    student, teacher = shared.start, shared.teacher
    written = write(shared, batch)
    state, metrics = shared.learn(
      shared.begin(student.params), shared.teacher_head, batch, written
    )
    agree = agreement.make_agreement_fn(student.model, teacher.model, 8)
    sums = agree(student.params, teacher.params, batch)
    found = written, metrics, state.params, state.opt_state, sums
    return Result(*jax.device_get(found))


@functools.cache
def on_one_device(family, **changes):
  return learn(family, (1, 1, 1), **changes)


def assert_same(got: Result, want: Result):
  for name in ("tokens", "length", "source", "draft_tokens", "stopped"):
    np.testing.assert_array_equal(
      getattr(got.written, name), getattr(want.written, name), err_msg=name
    )
  close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)
  jax.tree.map(close, got.written.teacher_hidden, want.written.teacher_hidden)
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


@pytest.fixture
def quick_compilation(request, tmp_path_factory):
  """What is not slow is compiled without optimizing."""
  with contextlib.ExitStack() as stack:
    if not request.node.get_closest_marker("slow"):
      stack.enter_context(tiny_run.quick_compilation(tmp_path_factory))
    yield


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("family", "shape"), CASES)
def test_mesh_writes_and_learns_what_one_device_does(family, shape):
  want = on_one_device(family)
  replaced = want.written.source == 1
  assert 0 < replaced.sum() < want.written.length.sum()
  assert_same(learn(family, shape), want)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
  "method",
  [
    "imit_kd",
    pytest.param("supervised_kd", marks=pytest.mark.slow),
    pytest.param("on_policy_kd", marks=pytest.mark.slow),
    pytest.param("seq_kd", marks=pytest.mark.slow),
  ],
)
def test_mesh_does_what_one_device_does_whoever_writes(method):
  # Where a gradient is next to nothing, Adam's first step is its rounding.
  slowly = {"method": method, "distill.learning_rate": 3e-4}
  want = on_one_device("llama", **slowly)
  sources = {
    "on_policy_kd": {structs.STUDENT},
    "imit_kd": {structs.STUDENT, structs.REFERENCE},
    "supervised_kd": {structs.REFERENCE},
    "seq_kd": {structs.TEACHER},
  }
  width = want.written.tokens.shape[1]
  emitted = np.arange(width) < want.written.length[:, None]
  assert set(want.written.source[emitted].tolist()) == sources[method]
  assert (want.written.teacher_hidden is None) == (method == "seq_kd")
  assert_same(learn("llama", (2, 2, 2), **slowly), want)


@pytest.mark.parametrize("shape", SHAPES)
def test_references_lie_where_their_rows_do(shape):
  mesh = make_mesh(shape)
  with jax.set_mesh(mesh):
    batch = sharding.place_rows(make_prompts(), mesh, ROWS)
    written = jax.jit(train_step.reference_rollout)(batch)
  for x in jax.tree.leaves(written):
    assert x.sharding.is_equivalent_to(sharding.rows(mesh), x.ndim)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
  "shape",
  [FEW[0], pytest.param(FEW[1], marks=pytest.mark.slow)],
)
def test_each_group_refills_its_slots_from_its_own_rows(shape):
  assert_same(
    learn("llama", shape, **{"rollout.batch_size": 8}), on_one_device("llama")
  )


@pytest.mark.parametrize("shape", FEW)
def test_weights_are_born_and_read_where_they_lie(shape, tmp_path):
  sizes = config_lib.default_config().student
  sizes.update(
    hidden_size=16, intermediate_size=32, num_layers=1, num_heads=8, head_dim=8
  )

  def born(shape):
    placement = loading.Placement(make_mesh(shape), sharding.TRAINED)
    return placement, loading.from_scratch(
      sizes, V, 32, seed=0, dtype=jnp.float32, placement=placement
    )

  _, alone = born((1, 1, 1))
  placement, made = born(shape)
  models.save(tmp_path / "saved", alone.config, alone.params)
  dtypes = {"dtype": jnp.float32, "param_dtype": jnp.float32}
  read = loading.load(tmp_path / "saved", V, placement=placement, **dtypes)
  # The same draws, but for the last bit of what is made of them.
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
  jax.tree.map(close, made.params, alone.params)
  jax.tree.map(np.testing.assert_array_equal, read.params, alone.params)
  for model in (made, read):
    lie = jax.tree.map(lambda x: x.sharding, model.params)
    assert lie == placement.shardings(model.config)
  cut = made.params["embedding"].addressable_shards[0].data
  assert cut.size == made.params["embedding"].size // math.prod(shape[1:])


@functools.cache
def compiled_texts(shape):
  """The programs of the rollout and of the step of training.

  And the shapes of the weights of both models, and of what a device has of the
  student's where it has them whole along fsdp.
  """
  mesh = make_mesh(shape)
  run = make_run(mesh)
  config = dataclasses.replace(
    LLAMA, hidden_size=128, intermediate_size=256, vocab_size=1024
  )
  with jax.set_mesh(mesh):
    shared, batch = make_pieces(run, config, teacher_width=192)
    params = shared.start.params, shared.teacher.params
    keys = sampling.row_keys(0, 0, batch.index)
    threshold = jnp.float32(8.0)
    rollout = shared.policy.lower(*params, batch, keys, threshold).compile()
    state = shared.begin(shared.start.params)
    written = write(shared, batch)
    step = shared.learn.lower(state, shared.teacher_head, batch, written)
    step = step.compile()
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


@pytest.mark.parametrize("shape", FEW)
def test_the_decode_loop_gathers_neither_weights_nor_caches(shape):
  text, _, weights, _ = compiled_texts(shape)
  gathered = in_loops(text, "all-gather")
  whole = weights | {shape[::-1] for shape in weights}
  assert not gathered & whole
  data, fsdp, _ = shape
  num_slots = 4 + T + 3
  cache = (ROWS // (data * fsdp)) * LLAMA.num_kv_heads * num_slots * 8
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


def test_rollout_gathers_the_weights_of_the_student_once():
  text, _, _, parts = compiled_texts((2, 2, 2))
  assert len(parts) == 2 * 7 + 2
  assert gathers_before_the_loop(text) == parts
  # Without fsdp they lie as the rollout reads them.
  assert not gathers_before_the_loop(compiled_texts((1, 1, 8))[0])


def test_the_step_of_training_gathers_weights_and_no_activations():
  _, text, _, parts = compiled_texts((2, 2, 2))
  assert set(gathers_before_the_loop(text)) == set(parts)
  moved = [
    math.prod(shape)
    for found in hlo.collectives(text)
    if found.loop_depth and found.kind not in ("all-reduce", "reduce-scatter")
    for shape in found.shapes
  ]
  width = LLAMA.num_heads * 16
  assert max(moved) < width  # Not even the activations of one token.


@pytest.mark.parametrize("shape", FEW)
def test_compiled_programs_call_nothing_on_the_host(shape):
  for text in compiled_texts(shape)[:2]:
    calls = set(re.findall(r'custom_call_target="([^"]+)"', text))
    assert not [call for call in calls if "callback" in call]


def test_the_step_of_training_donates_its_state():
  _, text, _, _ = compiled_texts((2, 2, 2))
  header = text.split("\n", 1)[0]
  num_weights = len(jax.tree.leaves(models.param_shapes(LLAMA)))
  # Weights and both moments, and two counters of the optimizer and the step.
  assert header.count("may-alias") + header.count("must-alias") >= (
    3 * num_weights
  )
