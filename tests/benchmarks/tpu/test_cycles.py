"""Cycles of compiled TPU programs: read from small texts, and of real ones.

  pytest tests/benchmarks/tpu/test_cycles.py -m '' -n 0

Without libtpu, what needs it is skipped.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from benchmarks import harness
from benchmarks.tpu import bundles, chips, listing, schedule

# A chip that moves 8 bytes in a cycle.
CHIP = chips.Chip("v5e", 1e12, 1e9, 8e9, 1e9, 1e9, "default")

PROGRAM = """HloModule jit_f, is_scheduled=true

%rows (p.0: f32[64,128], p.1: s32[]) -> f32[8,128] {
  %p.0 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  ROOT %part = f32[8,128]{1,0:T(8,128)} dynamic-slice(%p.0, %p.1, %p.1)
}

%until (s: (s32[], f32[64,128])) -> pred[] {
  %s = (s32[], f32[64,128]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%step (t: (s32[], f32[64,128])) -> (s32[], f32[64,128]) {
  %t = (s32[], f32[64,128]{1,0:T(8,128)}) parameter(0)
  %j = s32[] get-tuple-element(%t), index=0
  %x = f32[64,128]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %some = f32[8,128]{1,0:T(8,128)S(1)} fusion(%x, %j), \
kind=kLoop, calls=%rows, \
metadata={op_name="jit(f)/while/body/propose/while/body/slice"}, \
backend_config={"estimated_cycles":"7"}
  ROOT %next = (s32[], f32[64,128]) tuple(%j, %x)
}

ENTRY %main (a: f32[64,128], b: s32[]) -> f32[64,128] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  %b = s32[] parameter(1)
  %first = (s32[], f32[64,128]{1,0:T(8,128)}) tuple(%b, %a)
  %loop = (s32[], f32[64,128]{1,0:T(8,128)}) while(%first), \
condition=%until, body=%step
  %copy-start.1 = (f32[64,128]{1,0:T(8,128)S(1)}, \
f32[64,128]{1,0:T(8,128)}, u32[]) copy-start(%a)
  %near = f32[8,128]{1,0:T(8,128)S(1)} add(%b, %b), \
metadata={op_name="jit(f)/verify/add"}
  %there = f32[64,128]{1,0:T(8,128)S(1)} copy-done(%copy-start.1)
  ROOT %far = f32[64,128]{1,0:T(8,128)} negate(%there), \
metadata={op_name="jit(f)/jvp(hidden)/neg"}
}
"""


def counted(program=PROGRAM, **issued):
  return schedule.costs(listing.Program(program), issued, CHIP)


def test_memory_is_counted_with_tiles_and_only_in_hbm():
  (padded,) = listing.parse_arrays("bf16[3,130]{1,0:T(8,128)(2,1)}")
  assert padded.num_bytes == 8 * 256 * 2
  (turned,) = listing.parse_arrays("bf16[130,3]{0,1:T(8,128)(2,1)S(1)}")
  assert turned.num_bytes == 8 * 256 * 2
  assert padded.is_in_hbm
  assert not turned.is_in_hbm
  assert [x.bits for x in listing.parse_arrays("(pred[2], s4[], f8e5m2[1])")]
  assert listing.parse_arrays("f32[]{:T(128)}")[0].num_bytes == 4


def test_slice_of_an_array_reads_only_the_slice():
  found = counted()[schedule.DRAFT_STEP]
  assert found.hbm_bytes == 3 * (8 * 128 * 4 + 4)
  assert found.estimate == 3 * 7


def test_a_kernel_that_writes_in_place_touches_what_it_is_given_besides():
  kernel = """%near = f32[64,128]{1,0:T(8,128)} custom-call(%b, %a), \
output_to_operand_aliasing={{}: (1, {})}, metadata={op_name="jit(f)/verify/x"}
"""
  add = "%near = f32[8,128]{1,0:T(8,128)S(1)} add(%b, %b), "
  start = PROGRAM.index(add)
  end = PROGRAM.index("\n", start) + 1
  written = counted(PROGRAM[:start] + kernel + PROGRAM[end:])["verify"]
  assert written.hbm_bytes == 2 * 4
  apart = kernel.replace("output_to_operand_aliasing={{}: (1, {})}, ", "")
  read = counted(PROGRAM[:start] + apart + PROGRAM[end:])["verify"]
  assert read.hbm_bytes == 2 * 64 * 128 * 4 + 4


def test_schedule_is_the_larger_of_code_and_memory():
  size = 8 * 128 * 4 + 4
  assert counted()[schedule.DRAFT_STEP].schedule == 3 * size / 8
  assert counted(some=5000)[schedule.DRAFT_STEP].schedule == 3 * 5000
  assert counted()["hidden"].schedule == 64 * 128 * 4 / 8


def test_a_copy_takes_the_bandwidth_that_is_left():
  whole = 64 * 128 * 4 / 8
  assert counted()["verify"].schedule == pytest.approx(whole + 1)
  # The code beside it needs 1,000 cycles, of which its own 8 bytes take one.
  assert counted(near=1000)["verify"].schedule == pytest.approx(whole + 1)
  assert counted(near=9000)["verify"].schedule == 9000


def test_a_copy_takes_the_bandwidth_that_a_loop_leaves():
  loop = PROGRAM.index("  %loop = ")
  start = PROGRAM.index("  %copy-start.1 = ")
  near = PROGRAM.index("  %near = ")
  program = PROGRAM[:loop] + PROGRAM[start:near] + PROGRAM[loop:start]
  program += PROGRAM[near:]
  whole = 64 * 128 * 4 / 8
  # The loop takes all that there is, or none but the bytes of its slices.
  assert counted(program)["verify"].schedule == pytest.approx(whole + 1)
  slices = 3 * (8 * 128 * 4 + 4) / 8
  found = counted(program, some=1000)["verify"]
  assert found.schedule == pytest.approx(whole + 1 - (3000 - slices))
  assert counted(program, some=9000)["verify"].schedule == 1


def test_what_is_named_after_no_part_is_counted_apart():
  verify = 'op_name="jit(f)/verify/add"'
  assert counted(near=9000)[schedule.OTHER].schedule == 0
  found = counted(PROGRAM.replace(verify, 'op_name="jit(f)/add"'), near=9000)
  assert found[schedule.OTHER].schedule == 9000
  # Without a name it belongs to what is before it.
  found = counted(PROGRAM.replace(verify, ""), near=9000)
  assert found[schedule.OTHER].schedule == 9000
  assert found["hidden"] == counted()["hidden"]


def test_attributes_of_a_kernel_are_read_over_several_lines():
  attribute = 'frontend_attributes={kernel_metadata={\n"block": 512\n}}, '
  assert counted(PROGRAM.replace("metadata=", attribute + "metadata=")) == (
    counted()
  )


BUNDLES = """
// LB: loop body
     0   :  { %s1 = smov 0 } /* entry */
   0x1 LB: > { %s2 = sadd.s32 1, %s1 } /* Start region 7 */
   0x2   : > { %p1 = scmp.ge.s32.totalorder %s2, 10  ;;  %v = vadd
 /* a comment of several
lines */ }
   0x3   :  { %9 = sbr.rel (!%p1) target = $region7 }
   0x4   :  { %v2 = vadd }
   0x5   :  { %v2 = vadd }
   0x6   :  { %v2 = vadd }
   0x7   :  { %v2 = vadd }
   0x8   :  { %v2 = vadd }
"""


def test_bundles_of_a_loop_run_as_often_as_it_does():
  # The loop is 1 to 3, and the four in the delay of its branch.
  assert bundles.num_issued(BUNDLES) == 9 + 9 * 7
  assert bundles.num_issued(BUNDLES.replace("10  ", "%s3  ")) == 9


def test_bundles_are_read_and_deleted(tmp_path):
  for name in ("fusion.3-01-final", "fusion.3-00-schedule-analysis_final"):
    (tmp_path / f"179-{name}_bundles.txt").write_text(BUNDLES)
  assert bundles.take_bundles(tmp_path) == {"fusion.3": 72}
  assert not list(tmp_path.iterdir())


KEPT = harness.RESULTS / "tpu" / "cycles_quick.json"


def read_rows(path):
  rows = json.loads(path.read_text("utf-8"))["rows"]
  return {(row["config"], row["slice"], row["part"]): row for row in rows}


def grown(rows, kept):
  """What costs 5 % more than it did, in words."""
  return [
    f"{' '.join(key)}: {unit} {row[unit]:.4g}, was {kept[key][unit]:.4g}"
    for key, row in rows.items()
    for unit in ("schedule", "hbm_mb")
    if row[unit] > 1.05 * kept[key][unit]
  ]


def test_growth_of_schedule_or_memory_traffic_is_found():
  kept = read_rows(KEPT)
  assert {part for _, _, part in kept} >= {
    "draft step",
    "verify",
    "refill",
    "hidden",
    "loss",
    "update",
  }
  assert grown(kept, kept) == []
  key = next(key for key in kept if key[-1] == "verify")
  worse = kept[key] | {"schedule": 1.06 * kept[key]["schedule"]}
  (line,) = grown(kept | {key: worse}, kept)
  assert "verify: schedule" in line


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu: pip install -e .[tpu-plan]",
)
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_part_of_a_step_costs_more_cycles_or_traffic(tmp_path):
  """If it has to: the module says how the kept file is replaced."""
  path = tmp_path / "cycles.json"
  # In a process of its own: libtpu writes bundles only if told before it loads.
  subprocess.run(
    [
      sys.executable,
      "-m",
      "benchmarks.tpu.cycles",
      "--quick",
      f"--json={path}",
    ],
    check=True,
    env=os.environ | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"},
  )
  kept, rows = read_rows(KEPT), read_rows(path)
  assert rows.keys() == kept.keys()
  assert grown(rows, kept) == []
