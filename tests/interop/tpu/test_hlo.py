import dataclasses
import json

import pytest

from luna_tf.interop.tpu import hlo

MODULE = """HloModule step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %one = s32[]{:T(128)} constant(STEP)
  %index = s32[]{:T(128)} get-tuple-element(%state), index=0
  %moved = s32[]{:T(128)S(6)} copy(%index)
  %next = s32[]{:T(128)} add(%moved, %one), metadata={op_name="while/add"}
  %x = f32[4]{0:T(128)} get-tuple-element(%state), index=1
  ROOT %out = (s32[]{:T(128)}, /*index=1*/f32[4]{0:T(128)}) tuple(%next, %x)
}

%condition (state.1: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  %state.1 = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %index.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %test = pred[]{:T(512)} compare(%index.1, %limit), direction=DIRECTION
}

ENTRY %main (p: f32[4], q: s32[]) -> f32[4] {
  %p = f32[4]{0:T(128)} parameter(0)
  %q = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %start = s32[]{:T(128)} copy(%zero)
  %tuple = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%START, %p)
  %while.1 = (s32[]{:T(128)}, f32[4]{0:T(128)}) while(%tuple), \
condition=%condition, body=%body, metadata={op_name="while"}
  %y = f32[4]{0:T(128)} get-tuple-element(%while.1), index=1
MORE
  ROOT %z = f32[4]{0:T(128)} add(%y, %y)
}
"""


def module(more="", step=1, direction="LT", start="start"):
    text = MODULE.replace("STEP", str(step)).replace("DIRECTION", direction)
    return text.replace("%START", f"%{start}").replace("MORE", more)


@pytest.mark.parametrize(
    "arguments, count",
    [
        ({}, 7),
        ({"step": 2}, 4),
        ({"start": "zero"}, 7),
        ({"start": "q"}, None),
        ({"direction": "NE"}, None),
        ({"step": 0}, None),
    ],
)
def test_counts_iterations_where_they_are_known(arguments, count):
    assert hlo.summarize(module(**arguments)).trip_counts == (count,)


def test_counts_what_an_all_reduce_sums_up():
    combined = (
        "  %r = (f32[4]{0}, /*index=1*/f32[4]{0}) all-reduce(%p, %y), "
        "replica_groups={{0,1}}, to_apply=%sum"
    )
    single = "  %s = f32[4]{0} all-reduce-start(%p), to_apply=%sum"
    summary = hlo.summarize(module(f"{combined}\n{single}"))
    assert summary.all_reduces == (2, 1)
    assert not summary.collectives


@pytest.mark.parametrize(
    "line, field, found",
    [
        (
            "  %t = u32[4,1]{1,0:T(1,128)} all-to-all(%p), dimensions={0}",
            "collectives",
            {"all-to-all": 1},
        ),
        (
            "  %t = (f32[4]{0}, u32[]) infeed(%p)",
            "host_transfers",
            ("infeed t",),
        ),
        (
            '  %t = f32[4]{0} custom-call(%p), custom_call_target="a_Callback"',
            "host_transfers",
            ("custom-call t",),
        ),
        (
            '  %t = f32[4]{0} custom-call(%p), custom_call_target="Allocate"',
            "host_transfers",
            (),
        ),
        ("  %t = f32[<=4,2]{1,0} pad(%p)", "dynamic_shapes", ("f32[<=4,2]",)),
    ],
)
def test_finds_exchanges_host_transfers_and_dynamic_shapes(line, field, found):
    assert getattr(hlo.summarize(module(line)), field) == found
    assert not getattr(hlo.summarize(module()), field)


def test_a_summary_survives_json():
    line = "  %t = u32[4,1]{1,0} all-gather(%p), dimensions={0}"
    summary = hlo.summarize(module(line))
    fields = json.loads(json.dumps(dataclasses.asdict(summary)))
    assert hlo.HLOSummary.from_json(fields) == summary
