"""Kernels of a compiled GPU program."""

from benchmarks.gpu import kernels
from benchmarks.tpu import listing, schedule

PROGRAM = """
HloModule jit_rollout

%body_of_draft (p: (f32[8])) -> (f32[8]) {
  %p = (f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=0
  %fusion.1 = f32[8]{0} fusion(%x), kind=kLoop, metadata={op_name="jit(rollout)/while/body/propose/while/body/mul"}
  %call = f32[8]{0} custom-call(%fusion.1), custom_call_target="__cublas$gemm"
  ROOT %t = (f32[8]{0}) tuple(%call)
}

%body (q: (f32[8])) -> (f32[8]) {
  %q = (f32[8]{0}) parameter(0)
  %draft = (f32[8]{0}) while(%q), condition=%c, body=%body_of_draft, metadata={op_name="jit(rollout)/while/body/propose/while"}
  %y = f32[8]{0} get-tuple-element(%draft), index=0
  %fusion.2 = f32[8]{0} fusion(%y), kind=kLoop, metadata={op_name="jit(rollout)/while/body/verify/add"}
  %three = (f32[8]{0}) while(%fusion.2), condition=%c, body=%body_of_three, backend_config={"known_trip_count":{"n":"3"}}, metadata={op_name="jit(rollout)/while/body/verify/while"}
  ROOT %u = (f32[8]{0}) tuple(%fusion.2)
}

%body_of_three (r: (f32[8])) -> (f32[8]) {
  %r = (f32[8]{0}) parameter(0)
  %z = f32[8]{0} get-tuple-element(%r), index=0
  %copy = f32[8]{0} copy(%z), metadata={op_name="jit(rollout)/while/body/verify/while/body/copy"}
  ROOT %v = (f32[8]{0}) tuple(%copy)
}

ENTRY %main (a: f32[8]) -> (f32[8]) {
  %a = f32[8]{0} parameter(0)
  %s = (f32[8]{0}) tuple(%a)
  ROOT %w = (f32[8]{0}) while(%s), condition=%c, body=%body, metadata={op_name="jit(rollout)/while"}
}
"""  # noqa: E501


def test_a_loop_of_known_trips_counts_as_often_as_it_runs():
  assert kernels.count(listing.Program(PROGRAM)) == {
    schedule.DRAFT_STEP: 2,
    "verify": 1 + 3,
  }
