"""What is read from the text of a compiled program."""

from benchmarks.tpu import hlo

TEXT = """\
HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, {}, \
may-alias), {1}: (2, {}, may-alias) }, entry_computation_layout={...}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(f32[] %a, f32[] %b)
}

%fused (p: bf16[4,8]) -> bf16[16,8] {
  ROOT %g = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=3, \
dimensions={0}, metadata={op_name="jit(step)/while/body/dot" stack_frame_id=7}
}

%fused_end (p: bf16[4,8]) -> bf16[16,8] {
  ROOT %g.2 = bf16[16,8]{1,0} all-gather(%p), channel_id=3, dimensions={0}
}

%inner.body (t: (s32[])) -> (s32[]) {
  %x = bf16[16,8]{1,0} fusion(%p), kind=kCustom, calls=%fused
  %y = bf16[16,8]{1,0} fusion(%x), kind=kCustom, calls=%fused_end
}

%outer.body (t: (s32[])) -> (s32[]) {
  %w = (s32[]) while(%t), condition=%c, body=%inner.body
  %r = (f32[8]{0}, s32[]) all-reduce(%a, %b), channel_id=1, to_apply=%add
}

%branch (t: (s32[])) -> (s32[]) {
  %m = pred[2,16]{1,0} all-to-all(%a), channel_id=4
}

ENTRY %main (t: (s32[])) -> (s32[]) {
  %w = (s32[]) while(%t), condition=%c, body=%outer.body
  %k = (s32[]) conditional(%i, %t, %t), branch_computations={%branch, %branch}
  %s = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(%q), channel_id=9
  %d = bf16[8,4]{1,0} all-gather-done(%s)
  %s2 = ((bf16[2,6]{1,0:T(8,128)(2,1)}, f32[3]{0}), (bf16[8,6]{1,0}, \
f32[12]{0}), u32[], u32[]) all-gather-start(%q, %p), channel_id=10
}
"""


def test_collectives_are_read_with_their_shapes_and_loops():
  found = {c.kind + str(c.shapes): c for c in hlo.collectives(TEXT)}
  assert {name: c.loop_depth for name, c in found.items()} == {
    "all-gather((16, 8),)": 2,
    "all-reduce((8,), ())": 1,
    "all-to-all((2, 16),)": 0,
    "all-gather((8, 4),)": 0,
    # Several arrays at once: the results, not the arguments.
    "all-gather((8, 6), (12,))": 0,
  }
  gather = found["all-gather((16, 8),)"]
  assert gather.source == "jit(step)/while/body/dot"


def test_donated_arguments_are_counted():
  assert hlo.num_donated(TEXT) == 2
  assert hlo.num_donated(TEXT.replace("may-alias", "x")) == 0


def test_calls_of_the_host_are_found():
  assert not hlo.host_calls(TEXT)
  call = 'custom-call(%a), custom_call_target="xla_ffi_python_cpu_callback"'
  send = "%t = token[] outfeed(%a, %b)"
  text = TEXT + f"  %h = f32[] {call}\n  {send}\n"
  assert hlo.host_calls(text) == ["xla_ffi_python_cpu_callback", "outfeed"]
