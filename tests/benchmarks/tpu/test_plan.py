"""Large configs, compiled from shapes: small ones here, all of them for TPUs.

  pytest tests/benchmarks/tpu/test_plan.py -m '' -n 0

needs eight devices, and libtpu

Without eight devices, or without libtpu, what needs them is skipped.
"""

import importlib.util
import json
import math
import re

import jax
import pytest

from benchmarks import harness
from benchmarks.tpu import chips, hlo, programs
from benchmarks.tpu import plan as plan_lib
from configs import wmt
from skd_jax.training import memory

needs_devices = pytest.mark.skipif(
  len(jax.devices()) < 8,
  reason="needs XLA_FLAGS=--xla_force_host_platform_device_count=8",
)
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu: pip install -e .[tpu-plan]",
)
IDS = [f"{s.variant}-{s.topology}" for s in plan_lib.LARGE]


def small_plan(variant, rank=0, quantization="", **mesh):
  config = wmt.get_config(variant)
  config.mesh.update(mesh)
  config.student.lora.rank = rank
  config.teacher.quantization = quantization
  devices = jax.devices()[: config.mesh.fsdp * config.mesh.tensor]
  return programs.make_plan(config, devices, small=True)


@needs_devices
@pytest.mark.parametrize(
  ("variant", "mesh"),
  [
    pytest.param("gemma", {}, marks=pytest.mark.slow),
    pytest.param("gemma2", {"fsdp": 2, "tensor": 4}, marks=pytest.mark.slow),
    pytest.param("qwen", {}, marks=pytest.mark.slow),
    pytest.param("qwen3", {}, marks=pytest.mark.slow),
    pytest.param("llama", {}, marks=pytest.mark.slow),
  ],
)
def test_small_models_of_each_config_pass_all_checks(variant, mesh):
  row = programs.measure(small_plan(variant, **mesh))
  assert not plan_lib.failures(row | {"config": variant, "slice": "cpu"})
  assert row["gathered"] == []
  assert row["donated"]
  assert row["peak_gib"] > row["teacher_gib"] + 3 * row["student_gib"] > 0


@pytest.mark.slow
def test_one_device_may_have_a_compact_teacher_and_adapters():
  row = programs.measure(
    small_plan("gemma", rank=2, quantization="int8", fsdp=1, tensor=1)
  )
  whole = small_plan("gemma", fsdp=1, tensor=1)
  assert not plan_lib.failures(row | {"config": "gemma", "slice": "cpu"})
  for role in ("teacher", "student"):
    # Of bfloat16, and of the float32 of a student that is trained as a whole.
    held = memory.held_bytes(getattr(whole, role).params) / chips.GIB
    assert 0.5 < row[f"{role}_gib"] / held < 0.6
  assert row["optimizer_gib"] < 0.2 * row["student_gib"]


@needs_devices
def test_what_the_decode_loop_may_not_gather_is_found():
  plan = small_plan("gemma")
  teacher, student = plan.teacher.config, plan.student.config
  vocab, width = student.vocab_size, student.hidden_size
  assert vocab == 2048
  rows, slots = 16, 16 + 16 + plan.config.rollout.num_draft_tokens
  cache = (rows, 1, slots, 16)
  assert teacher.num_kv_heads == 16

  def one(*shape, kind="all-gather", depth=2):
    return hlo.Collective(kind, (shape,), depth, "dot")

  fine = [
    one(vocab, width, depth=0),  # Once, before the loop.
    one(rows, 5, width, kind="all-reduce"),
    one(vocab, width, kind="all-reduce"),
    one(rows, 3, vocab),
  ]
  assert programs.gathered_in_loop(plan, fine) == []
  bad = [
    one(vocab, width),
    one(rows, slots, 16, kind="all-to-all"),
    one(teacher.hidden_size, 16 * 16 // 8, depth=1),
  ]
  assert math.prod(cache) == rows * slots * 16
  assert programs.gathered_in_loop(plan, [*fine, *bad]) == [
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
  assert plan_lib.failures(row) == [
    "x on v5e:2x4: does not fit: why",
    "x on v5e:2x4: the training state is not donated",
  ]
  fine = {"fits": True, "gathered": [], "donated": True, "host_calls": []}
  assert not plan_lib.failures(row | fine)


@pytest.fixture
def memory_of_a_batch(monkeypatch):
  """A slice that has room for a batch of 24, in place of the compiler."""

  def make_row(name, config, topology):
    fit = config.distill
    assert fit.batch_size == 4 * fit.num_microbatches or fit.batch_size < 4
    row = {"config": name, "slice": topology, "batch": fit.batch_size}
    return row | {"fits": fit.batch_size <= 24}

  monkeypatch.setattr(plan_lib, "make_row", make_row)


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
  found = plan_lib.search("gemma", config, "v5e:2x4")
  assert [row["batch"] for row in found] == tried
  assert plan_lib.largest(found) == f"gemma on v5e:2x4: {said}"


@pytest.mark.usefixtures("memory_of_a_batch")
def test_search_says_where_no_batch_fits():
  config = wmt.get_config("gemma")
  config.distill.update(batch_size=64, num_microbatches=16)
  config.mesh.update(fsdp=32, tensor=1)
  found = plan_lib.search("gemma", config, "v5e:4x8")
  assert [row["batch"] for row in found] == [64, 32]
  assert "no batch fits" in plan_lib.largest(found)


def test_mesh_that_does_not_fit_the_devices_is_an_error():
  config = wmt.get_config("gemma")
  with pytest.raises(ValueError, match=r"mesh.tensor = 8.*number of devices"):
    programs.make_plan(config, jax.devices()[:1])


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


@pytest.mark.parametrize("large", plan_lib.LARGE, ids=IDS)
def test_docstring_states_memory_and_seconds_of_the_slice(large):
  gib, seconds = stated(large)
  chip, _ = chips.parse_topology(large.topology)
  assert 0 < gib < chip.hbm_bytes / chips.GIB
  # The seconds are arithmetic, and need no compiler.
  step = plan_lib.step_seconds(large.config(), large.topology)["step_s"]
  assert seconds == pytest.approx(step, abs=0.006)


@pytest.mark.parametrize("large", plan_lib.LARGE, ids=IDS)
def test_docstring_states_what_the_compiler_has_found(large):
  path = harness.RESULTS / "tpu" / "plan.json"
  rows = json.loads(path.read_text("utf-8"))["rows"]
  (row,) = [
    row
    for row in rows
    if (row["config"], row["slice"]) == (large.name, large.topology)
  ]
  assert not plan_lib.failures(row)
  gib, seconds = stated(large)
  assert f"{row['peak_gib']:.1f}" == f"{gib:.1f}"
  assert f"{row['step_s']:.2f}" == f"{seconds:.2f}"


@needs_libtpu
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("large", plan_lib.LARGE, ids=IDS)
def test_large_config_fits_its_slice(large):
  """As the TPU compiler has it, and as the docstring says; minutes each."""
  row = plan_lib.make_row(large.name, large.config(), large.topology)
  assert not plan_lib.failures(row)
  gib, _ = stated(large)
  assert row["peak_gib"] == pytest.approx(gib, rel=0.05)
