"""Large configs, compiled from shapes: small ones here, all of them for TPUs.

  pytest tests/benchmarks/test_tpu_plan.py -m '' -n 0

needs eight devices, and libtpu

Without eight devices, or without libtpu, what needs them is skipped.
"""

import importlib.util
import json
import math
import re

import jax
import pytest

from benchmarks import (
  chips,
  footprint,
  harness,
  hlo,
  plans,
  published_shapes,
  roofline,
  shipped,
)
from configs import wmt
from tests import tiny_run

needs_devices = pytest.mark.skipif(
  len(jax.devices()) < 8,
  reason="needs XLA_FLAGS=--xla_force_host_platform_device_count=8",
)
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu: pip install -e .[tpu-plan]",
)
IDS = [f"{s.variant}-{s.topology}" for s in shipped.SHIPPED]


@pytest.fixture(scope="module")
def quick_compilation(tmp_path_factory):
  with tiny_run.quick_compilation(tmp_path_factory):
    yield


def small_plan(variant, **mesh):
  config = wmt.get_config(variant)
  config.mesh.update(mesh)
  devices = jax.devices()[: config.mesh.fsdp * config.mesh.tensor]
  return plans.make_small_plan(config, devices)


@needs_devices
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
  ("variant", "mesh"),
  [
    ("gemma", {}),
    pytest.param("gemma2", {"fsdp": 2, "tensor": 4}, marks=pytest.mark.slow),
    pytest.param("qwen", {}, marks=pytest.mark.slow),
    pytest.param("qwen3", {}, marks=pytest.mark.slow),
    pytest.param("llama", {}, marks=pytest.mark.slow),
  ],
)
def test_small_models_of_each_config_are_proven(variant, mesh):
  row = footprint.compile_plan(small_plan(variant, **mesh))
  assert not shipped.failures(row | {"config": variant, "slice": "cpu"})
  assert row["gathered"] == []
  assert row["donated"]
  assert row["peak_gib"] > row["teacher_gib"] + 3 * row["student_gib"] > 0
  assert row["rollout_all_reduce_in_loop_mib"] > 0


@needs_devices
def test_what_the_decode_loop_may_not_gather_is_found():
  plan = small_plan("gemma")
  teacher, student = plan.teacher.config, plan.student.config
  vocab, width = student.vocab_size, student.hidden_size
  assert vocab == 2048
  rows, slots = plan.num_rows, 16 + 16 + plan.num_draft_tokens
  cache = (rows, 1, slots, 16)
  assert teacher.num_kv_heads == 16

  def one(*shape, kind="all-gather", depth=2):
    return hlo.Collective(kind, (shape,), 0, depth, "dot")

  fine = [
    one(vocab, width, depth=0),  # Once, before the loop.
    one(rows, 5, width, kind="all-reduce"),
    one(vocab, width, kind="all-reduce"),
    one(rows, 3, vocab),
  ]
  assert footprint.gathered_in_loop(plan, fine) == []
  bad = [
    one(vocab, width),
    one(rows, slots, 16, kind="all-to-all"),
    one(teacher.hidden_size, 16 * 16 // 8, depth=1),
  ]
  assert math.prod(cache) == rows * slots * 16
  assert footprint.gathered_in_loop(plan, [*fine, *bad]) == [
    f"a weight: all-gather [{vocab}, {width}] for dot",
    f"a cache: all-to-all [{rows}, {slots}, 16] for dot",
    "a weight: all-gather [256, 32] for dot",
  ]


def test_a_failure_is_one_line_that_says_what():
  row = {
    "config": "x",
    "slice": "v5e:2x4",
    "fits": False,
    "note": "why",
    "gathered": [],
    "donated": False,
    "host_calls": [],
  }
  assert shipped.failures(row) == [
    "x on v5e:2x4: does not fit: why",
    "x on v5e:2x4: the training state is not donated",
  ]
  fine = {"fits": True, "gathered": [], "donated": True, "host_calls": []}
  assert not shipped.failures(row | fine)


@pytest.fixture
def memory_of_a_batch(monkeypatch):
  """A slice that has room for a batch of 24, in place of the compiler."""

  def make_row(name, config, topology, replacement_rate):
    del replacement_rate
    fit = config.distill
    assert fit.batch_size == 4 * fit.num_microbatches or fit.batch_size < 4
    row = {"config": name, "slice": topology, "batch": fit.batch_size}
    return row | {"fits": fit.batch_size <= 24}

  monkeypatch.setattr(shipped, "make_row", make_row)


@pytest.mark.usefixtures("memory_of_a_batch")
@pytest.mark.parametrize(
  ("batch", "tried", "said"),
  [
    (8, [8, 16, 32], "the largest batch that fits is 16"),
    (64, [64, 32, 16], "the largest batch that fits is 16"),
    (24, [24, 48], "the largest batch that fits is 24"),
  ],
)
def test_search_ends_at_the_largest_batch(batch, tried, said):
  config = wmt.get_config("gemma")
  config.distill.update(batch_size=batch, num_microbatches=batch // 4)
  found = shipped.search("gemma", config, "v5e:2x4", 0.1)
  assert [row["batch"] for row in found] == tried
  assert shipped.largest(found) == f"gemma on v5e:2x4: {said}"


@pytest.mark.usefixtures("memory_of_a_batch")
def test_search_says_where_no_batch_fits():
  config = wmt.get_config("gemma")
  config.distill.update(batch_size=64, num_microbatches=16)
  config.mesh.update(fsdp=32, tensor=1)
  found = shipped.search("gemma", config, "v5e:4x8", 0.1)
  assert [row["batch"] for row in found] == [64, 32]
  assert "no batch fits" in shipped.largest(found)


def test_estimate_of_the_batch_leaves_the_weights_as_they_are():
  parts = ("teacher", "student", "start", "optimizer", "code")
  row = {f"{part}_gib": 1.0 for part in parts} | {"batch": 8, "peak_gib": 6.0}
  # One GiB for 8 rows: 15 - 5 is room for 80 rows, in powers of two for 64.
  assert shipped.batch_estimate(row | {"hbm_gib": 15.0}) == 64
  assert shipped.batch_estimate(row | {"hbm_gib": 5.5}) == 4
  assert shipped.batch_estimate(row | {"hbm_gib": 4.0}) == 0


def test_mesh_that_does_not_fit_the_devices_is_an_error():
  config = wmt.get_config("gemma")
  with pytest.raises(ValueError, match=r"mesh.tensor = 8.*number of devices"):
    plans.make_plan(config, jax.devices()[:1])


def stated(large):
  """(GiB per chip, seconds a step) of a slice by the docstring of a config."""
  text = getattr(wmt, large.variant).__doc__
  found = re.findall(
    r"^ *(v\w+:[\dx]+) .*?([\d.]+) GiB per chip, ([\d.]+) s a step$", text, re.M
  )
  for topology, gib, seconds in found:
    if topology == large.topology:
      return float(gib), float(seconds)
  return None


@pytest.mark.parametrize("large", shipped.SHIPPED, ids=IDS)
def test_docstring_states_memory_and_seconds_of_the_slice(large):
  gib, seconds = stated(large)
  chip, shape = chips.parse_topology(large.topology)
  assert 0 < gib < chip.hbm_bytes / chips.GIB
  # The seconds are arithmetic, and need no compiler.
  config = large.config()
  teacher, student = published_shapes.load_pair(
    config.teacher.checkpoint, config.student.checkpoint
  )
  fsdp, tensor = config.mesh.fsdp, config.mesh.tensor
  data = math.prod(shape) // (fsdp * tensor)
  machine = roofline.Machine(chip, data, fsdp, tensor)
  work = plans.step_work(config, student, teacher, replacement_rate=0.1)
  step = roofline.summary(machine.step(work))["step_s"]
  assert seconds == pytest.approx(step, abs=0.006)


@pytest.mark.parametrize("large", shipped.SHIPPED, ids=IDS)
def test_docstring_states_what_the_compiler_has_found(large):
  path = harness.RESULTS / "tpu_plan.tpu-compiler.json"
  rows = json.loads(path.read_text("utf-8"))["rows"]
  (row,) = [
    row
    for row in rows
    if (row["config"], row["slice"]) == (large.name, large.topology)
  ]
  assert not shipped.failures(row)
  gib, seconds = stated(large)
  assert f"{row['peak_gib']:.1f}" == f"{gib:.1f}"
  assert f"{row['step_s']:.2f}" == f"{seconds:.2f}"


@needs_libtpu
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("large", shipped.SHIPPED, ids=IDS)
def test_large_config_fits_its_slice(large):
  """As the TPU compiler has it, and as the docstring says; minutes each."""
  row = shipped.make_row(
    large.name, large.config(), large.topology, replacement_rate=0.1
  )
  assert not shipped.failures(row)
  gib, _ = stated(large)
  assert row["peak_gib"] == pytest.approx(gib, rel=0.05)
