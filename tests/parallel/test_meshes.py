"""Eight devices compute what one does, however they are arranged.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest \\
    tests/parallel/test_meshes.py

Without eight devices all of it is skipped; check.sh sets the flag.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models, structs
from skd_jax.decoding import sampling, stopping
from skd_jax.evaluation import agreement
from skd_jax.models import (
  attention,
  fused_attention,
  loading,
  narrow_heads,
  splash,
)
from skd_jax.models import config as config_lib
from skd_jax.parallel import sharding
from skd_jax.training import generation, probe
from tests.models.test_cached_attention import run_the_kernels_without_a_tpu
from tests.parallel.mesh_pieces import (
  EOS,
  FEW,
  ROWS,
  V,
  make_mesh,
  make_pieces,
  make_prompts,
  needs_eight_devices,
)
from tests.toy_models import (
  EVEN_ENCODER_FAMILIES,
  EVEN_FAMILIES,
  EVEN_LLAMA,
  noisy_params,
)

pytestmark = needs_eight_devices

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


def assert_same(got: Result, want: Result, params_atol=1e-5):
  for name in ("tokens", "length", "source", "draft_tokens", "stopped"):
    np.testing.assert_array_equal(
      getattr(got.rollout, name), getattr(want.rollout, name), err_msg=name
    )
  close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)
  jax.tree.map(close, got.rollout.teacher_hidden, want.rollout.teacher_hidden)
  for name, value in want.metrics.items():
    close(got.metrics[name], value, err_msg=name)
  jax.tree.map(
    functools.partial(close, atol=params_atol), got.params, want.params
  )
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
  # A router has gradients near 0, and rounding decides where Adam's first step,
  # of up to 1e-3, takes these.
  has_experts = EVEN_FAMILIES[family].num_experts > 0
  assert_same(run(family, shape), want, 1e-4 if has_experts else 1e-5)


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


@pytest.mark.slow
@pytest.mark.parametrize(
  ("compact", "shape"), [("int8", FEW[0]), ("int4", FEW[1])]
)
def test_compact_teacher_judges_alike_on_a_mesh(compact, shape):
  want = on_one_device("llama", compact=compact)
  full = on_one_device("llama")
  assert np.any(want.rollout.tokens != full.rollout.tokens)
  assert_same(run("llama", shape, compact=compact), want)


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


@pytest.mark.parametrize(
  "shape", [FEW[0], pytest.param(FEW[1], marks=pytest.mark.slow)]
)
def test_padded_vocabulary_is_divided_and_changes_nothing(shape, monkeypatch):
  num_tokens = EVEN_FAMILIES["qwen3"].vocab_size
  want = on_one_device("qwen3")
  monkeypatch.setattr(config_lib, "_LARGE_VOCAB", 1)
  got = run("qwen3", shape)
  assert got.params["embedding"].shape[0] == 1024
  of_pads = got.params["embedding"][num_tokens:]
  np.testing.assert_array_equal(of_pads, np.zeros_like(of_pads))
  cut = functools.partial(
    jax.tree.map, lambda x: x[:num_tokens] if np.ndim(x) > 1 else x
  )
  assert_same(
    dataclasses.replace(got, params=cut(got.params), moments=cut(got.moments)),
    want,
  )


@pytest.mark.parametrize("shape", FEW)
def test_padded_vocabulary_is_read_by_the_devices_that_hold_it(
  shape, tmp_path, monkeypatch
):
  config = dataclasses.replace(EVEN_FAMILIES["qwen3"], num_layers=1)
  whole = noisy_params(config)
  models.save(tmp_path / "m", config, whole)
  monkeypatch.setattr(config_lib, "_LARGE_VOCAB", 1)
  placement = loading.Placement(make_mesh(shape), sharding.TRAINED)
  read = models.load_model(
    tmp_path / "m", dtype=jnp.float32, placement=placement
  )
  jax.tree.map(np.testing.assert_array_equal, read.params, noisy_params(config))
  embedding = read.params["embedding"]
  assert embedding.sharding == placement.shardings(config)["embedding"]
  part = embedding.addressable_shards[0].data
  assert part.size == embedding.size // math.prod(shape[1:])


# Where that of the pieces is none.
_THRESHOLDS = {"mixture_by_distance": {"rollout.threshold": 1.0}}


@functools.cache
def two_steps(model_config, shape, rank=0, learning_rate=0.01, method="skd"):
  """The responses of both steps, and what is trained after them."""
  mesh = make_mesh(shape)
  with jax.set_mesh(mesh):
    pieces = make_pieces(
      mesh,
      model_config,
      24,
      rank=rank,
      method=method,
      **{"distill.learning_rate": learning_rate, **_THRESHOLDS.get(method, {})},
    )
    state, rollouts = pieces.train.init(pieces.student.params), []
    for _ in range(2):
      rollouts.append(
        pieces.generate(pieces.train.params(state), state.distance)
      )
      state, _ = pieces.train.step(
        state, pieces.teacher_head, pieces.batch, rollouts[-1]
      )
    return jax.device_get((rollouts, state.params))


def assert_same_two_steps(model_config, shape, **how):
  """Returns what one device has trained."""
  rollouts, trained = two_steps(model_config, shape, **how)
  want_rollouts, want = two_steps(model_config, (1, 1, 1), **how)
  for got, expected in zip(rollouts, want_rollouts, strict=True):
    np.testing.assert_array_equal(got.tokens, expected.tokens)
    np.testing.assert_array_equal(got.source, expected.source)
  close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-3)
  jax.tree.map(close, trained, want)
  return want


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_two_steps_with_experts_are_those_of_one_device(family):
  config = EVEN_FAMILIES[family]
  want = assert_same_two_steps(config, FEW[0], learning_rate=1e-3)
  before = noisy_params(config, scale=0.3)
  router, start = (
    tree["layers"]["1"]["mlp"]["router"]["kernel"] for tree in (want, before)
  )
  assert np.abs(router - start).max() > 1e-3  # Two steps of at most 1e-3 each.


@pytest.mark.slow
@pytest.mark.parametrize("shape", FEW)
def test_two_steps_with_block_sparse_attention_are_those_of_one_device(shape):
  config = EVEN_FAMILIES["phi3small"]
  want = assert_same_two_steps(config, shape, learning_rate=1e-3)
  start = noisy_params(config, scale=0.3)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), want, start)
  assert min(jax.tree.leaves(moved)) > 5e-4


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


@pytest.mark.slow
@pytest.mark.parametrize("shape", FEW[:1])
def test_two_steps_by_distance_are_those_of_one_device(shape):
  assert_same_two_steps(EVEN_LLAMA, shape, method="mixture_by_distance")


@functools.cache
def lagged_steps(shape, rank):
  """The responses of three steps with a lag, and the state after them."""
  mesh = make_mesh(shape)
  with jax.set_mesh(mesh):
    pieces = make_pieces(
      mesh,
      EVEN_LLAMA,
      24,
      rank=rank,
      older_dtype=jnp.float32,
      method="mixture_by_distance",
      **{"distill.learning_rate": 0.03, "rollout.threshold": 0.3},
    )
    state, rollouts = pieces.train.init(pieces.student.params), []
    for _ in range(3):
      rollouts.append(pieces.generate(*pieces.train.generating(state)))
      state, _ = pieces.train.step(
        state, pieces.teacher_head, pieces.batch, rollouts[-1]
      )
    for ours, newest in zip(
      *map(jax.tree.leaves, (state.older.params, state.params)), strict=True
    ):
      assert ours.sharding == newest.sharding
    return jax.device_get((rollouts, state))


@pytest.mark.parametrize("rank", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_steps_with_older_weights_are_those_of_one_device(rank):
  rollouts, state = lagged_steps(FEW[0], rank)
  want_rollouts, want = lagged_steps((1, 1, 1), rank)
  for got, expected in zip(rollouts, want_rollouts, strict=True):
    np.testing.assert_array_equal(got.tokens, expected.tokens)
  # The second step is from the weights, and by the share, of the first.
  np.testing.assert_array_equal(rollouts[0].tokens, rollouts[1].tokens)
  assert np.any(rollouts[2].tokens != rollouts[1].tokens)
  # Of a step of up to 0.03 in each weight.
  close = functools.partial(np.testing.assert_allclose, atol=1e-3, rtol=1e-3)
  jax.tree.map(close, state.older, want.older)
  np.testing.assert_allclose(state.distance, want.distance, rtol=1e-4)


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


@pytest.mark.parametrize(
  ("heads", "groups", "shape"),
  [
    (8, 4, (1, 1, 8)),  # Two devices share a group.
    (8, 1, (2, 1, 4)),
    (8, 4, (2, 2, 2)),
    (6, 2, (2, 1, 4)),  # Heads do not divide: rows do.
    (12, 4, (1, 1, 3)),  # Groups would be torn.
  ],
)
def test_each_device_gives_a_kernel_the_keys_of_its_queries(
  heads, groups, shape, monkeypatch
):
  rng = np.random.default_rng(0)
  arrays = [
    jnp.asarray(rng.normal(size=(12, *dims, 8)), jnp.float32)
    for dims in ((5, heads), (groups, 5), (groups, 5))
  ]
  starts = jnp.asarray(rng.integers(0, 2, (12, 5)), jnp.int32)

  def by_scores(query, key, value, starts, *, window, cap):
    slots = jnp.broadcast_to(jnp.arange(5), query.shape[:2])
    mixed = attention.attend(
      query, key, value, slots, starts, window=window, cap=cap
    )
    return mixed.reshape(query.shape)

  def total(attend, *arrays):
    mixed = attend(*arrays, starts, window=3, cap=None).reshape(12, 5, -1)
    return jnp.sum(jnp.sin(mixed)), mixed

  def results(attend):
    function = functools.partial(total, attend)
    return jax.jit(
      jax.value_and_grad(function, argnums=(0, 1, 2), has_aux=True)
    )(*arrays)

  want = results(by_scores)
  monkeypatch.setattr(splash, "attend", by_scores)
  with jax.set_mesh(make_mesh(shape)):
    got = results(functools.partial(fused_attention.attend_fused, "splash"))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    got,
    want,
  )


@pytest.mark.parametrize(
  ("groups", "shape"),
  [(4, (2, 1, 4)), (1, (1, 2, 4))],
  ids=["groups divide", "all have the one group"],
)
def test_each_device_writes_and_reads_its_part_of_a_long_cache(
  groups, shape, monkeypatch
):
  run_the_kernels_without_a_tpu(monkeypatch)
  rng = np.random.default_rng(0)
  query, key, value, *cache = (
    jnp.asarray(rng.normal(size=(4, *dims, 8)), jnp.float32)
    for dims in ((2, 8), *[(groups, 2)] * 2, *[(groups, 24)] * 2)
  )
  cache = dict(zip("kv", cache, strict=True))
  positions = jnp.asarray([[0], [7], [15], [22]]) + jnp.arange(2)
  arrays = query, key, value, cache, positions
  want = attention.attend_to_cache(*arrays, window=None, cap=None)
  attend = functools.partial(
    fused_attention.attend_to_cache, window=None, cap=None
  )
  with jax.set_mesh(make_mesh(shape)):
    got = jax.jit(attend)(*arrays)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    got,
    want,
  )


@pytest.mark.parametrize(
  ("groups", "heads", "shape"),
  [
    pytest.param(4, 8, (2, 1, 2), id="two groups on each"),
    pytest.param(3, 9, (1, 1, 2), id="heads that do not divide, their rows do"),
    pytest.param(2, 14, (1, 1, 4), id="all groups on each"),
  ],
)
def test_groups_that_share_lanes_are_read_on_each_device(
  groups, heads, shape, monkeypatch
):
  run_the_kernels_without_a_tpu(monkeypatch)
  rng = np.random.default_rng(0)
  query, key, value, *old = (
    jnp.asarray(rng.normal(size=(4, *dims, 64)), jnp.float32)
    for dims in ((2, heads), *[(groups, 2)] * 2, *[(groups, 24)] * 2)
  )
  positions = jnp.asarray([[0], [7], [15], [22]]) + jnp.arange(2)

  def attend(old):
    empty = jnp.zeros(narrow_heads.cache_shape(4, groups, 24, 64))
    cache = attention.write_cache(dict.fromkeys("kv", empty), *old, None)
    return attention.attend_to_cache(
      query, key, value, cache, positions, window=None, cap=None
    )[0]

  want = attend(old)
  monkeypatch.setattr(sharding, "platform", lambda: "tpu")
  monkeypatch.setattr(fused_attention, "LONG_CACHE", 1)
  with jax.set_mesh(make_mesh(shape)):
    got = jax.jit(attend)(old)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
