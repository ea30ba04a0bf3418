"""Operators that move values, against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m4c.errors import UnsupportedError
from m4c.targets.emit_tflite import to_tflite
from tests.targets.emit_tflite.graphs import (
    Build,
    Case,
    check_float,
    check_integer,
    drawn,
    one,
    operators,
    sample,
)

INT64 = ir.DataType.INT64


def ints(b: Build, name: str, values: Any) -> ir.Value:
    return b.store(name, values, np.int64)


def cut(starts: list[int], ends: list[int], axes: list[int], steps: list[int] | None = None) -> Case:
    bounds = {"s": starts, "e": ends, "a": axes} | ({"t": steps} if steps else {})
    return lambda b: b.op(
        "Slice", b.input("x", 2, 5, 12), *(ints(b, name, held) for name, held in bounds.items())
    )


def picked(*shape: int) -> Any:
    """Return indices of both signs into four values."""
    return np.random.default_rng(0).integers(-4, 4, shape)


def padding(pads: list[int], value: float | None = None, mode: str = "constant") -> Case:
    return lambda b: b.op(
        "Pad",
        b.input("x", 2, 5, 12),
        ints(b, "p", pads),
        *([] if value is None else [b.store("v", value)]),
        mode=mode,
    )


CASES: dict[str, tuple[list[str], Case]] = {
    "Reshape": (["RESHAPE"], lambda b: b.op("Reshape", b.input("x", 2, 5, 8), ints(b, "s", [2, 5, 2, 4]))),
    "Squeeze": (["RESHAPE"], lambda b: b.op("Squeeze", b.input("x", 2, 1, 8), ints(b, "a", [1]))),
    "Unsqueeze": (["RESHAPE"], lambda b: b.op("Unsqueeze", b.input("x", 2, 8), ints(b, "a", [1]))),
    "Flatten": (["RESHAPE"], lambda b: b.op("Flatten", b.input("x", 2, 3, 8))),
    "Transpose": (["TRANSPOSE"], lambda b: b.op("Transpose", b.input("x", 2, 5, 2, 4), perm=[0, 2, 1, 3])),
    "Transpose-reverse": (["TRANSPOSE"], lambda b: b.op("Transpose", b.input("x", 2, 5, 4))),
    "Transpose-6d": (
        ["TRANSPOSE"],
        lambda b: b.op("Transpose", b.input("x", 2, 1, 3, 2, 4, 2), perm=[0, 2, 4, 1, 3, 5]),
    ),
    "Slice": (["SLICE"], cut([4, -3], [8, 2**40], [-1, 1])),
    "Slice-step": (["STRIDED_SLICE"], cut([1, -11], [2**40, -2], [1, 2], [2, 3])),
    "Slice-all": (["SLICE"], cut([-100], [100], [0])),
    "Gather-one": (
        ["SLICE", "RESHAPE"],
        lambda b: b.op("Gather", b.input("x", 2, 5, 12), ints(b, "i", -1), axis=1),
    ),
    "Gather-some": (
        ["GATHER"],
        lambda b: b.op("Gather", b.input("x", 2, 5, 12), ints(b, "i", [1, -1]), axis=1),
    ),
    "Gather-computed": (
        ["GATHER"],
        lambda b: b.op("Gather", b.input("x", 2, 5, 12), b.input("i", 1, dtype=INT64), axis=1),
    ),
    "GatherND": (
        ["GATHER_ND"],
        lambda b: b.op("GatherND", b.input("x", 2, 5, 12), b.input("i", 2, 2, dtype=INT64)),
    ),
    "GatherElements": (
        ["GATHER"],
        lambda b: b.op("GatherElements", b.input("x", 2, 3, 4), ints(b, "i", picked(2, 3, 5)), axis=2),
    ),
    "GatherElements-computed": (
        ["GATHER"],
        lambda b: b.op("GatherElements", b.input("x", 2, 4), b.input("i", 2, 3, dtype=INT64), axis=-1),
    ),
    "Pad": (["PAD"], padding([0, 1, 2, 3, 0, 1])),
    "Pad-by": (["PADV2"], padding([0, 1, 2, 3, 0, 1], 0.7)),
    "Pad-axis": (
        ["PAD"],
        lambda b: b.op(
            "Pad", b.input("x", 2, 5, 12), ints(b, "p", [2, 1]), b.store("v", 0), ints(b, "a", [-2])
        ),
    ),
    "Pad-5d": (
        ["PAD"],
        lambda b: b.op("Pad", b.input("x", 1, 2, 2, 3, 2), ints(b, "p", [0, 1, 0, 1, 0, 0, 0, 1, 1, 0])),
    ),
    "Pad-reflect": (["MIRROR_PAD"], padding([0, 2, 3, 1, 0, 1], mode="reflect")),
    "DepthToSpace": (
        ["TRANSPOSE", "DEPTH_TO_SPACE", "TRANSPOSE"],
        lambda b: b.op("DepthToSpace", b.input("x", 2, 12, 3, 4), blocksize=2),
    ),
    "DepthToSpace-CRD": (
        ["TRANSPOSE", "GATHER", "DEPTH_TO_SPACE", "TRANSPOSE"],
        lambda b: b.op("DepthToSpace", b.input("x", 1, 18, 3, 4), blocksize=3, mode="CRD"),
    ),
    "Expand": (["BROADCAST_TO"], lambda b: b.op("Expand", b.input("x", 1, 5, 1), ints(b, "s", [2, 5, 3]))),
}
RESCALED: dict[str, tuple[list[str], Case]] = {
    "embedding": (
        ["GATHER"],
        lambda b: b.op("Gather", b.weight("t", drawn(9, 6)), b.input("i", 2, 5, dtype=INT64)),
    ),
    "Concat": (
        ["CONCATENATION"],
        lambda b: b.op("Concat", b.input("x", 2, 5, 4), b.input("y", 2, 1, 4), axis=1),
    ),
    "Concat-stored": (
        ["CONCATENATION"],
        lambda b: b.op("Concat", b.weight("c", drawn(1, 1, 4)), b.input("y", 1, 5, 4), axis=-2),
    ),
}


@pytest.mark.parametrize("name", [*CASES, *RESCALED])
def test_float(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    expected, case = (CASES | RESCALED)[name]
    model = one(case)
    check_float(model, tmp_path, sample(model, rng), tolerance=0)
    assert operators(tmp_path / "model.tflite") == expected


@pytest.mark.parametrize("name", [*CASES, *RESCALED])
@pytest.mark.parametrize("wide", [False, True])
def test_integer(name: str, wide: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    expected, case = (CASES | RESCALED)[name]
    model = one(case)
    check_integer(model, tmp_path, sample(model, rng), wide=wide)
    made = operators(tmp_path / "model.tflite")
    assert [op for op in made if not op.endswith("QUANTIZE")] == expected
    if wide and name.startswith("DepthToSpace"):
        return  # it has no kernel for int16
    assert ("QUANTIZE" in made) == (name in RESCALED)  # scales that differ around an operator that keeps them


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(4)), st.integers(-4, 3), st.data())
def test_any_axis(tmp_path: Path, perm: list[int], axis: int, data: st.DataObject) -> None:
    size = (2, 3, 4, 5)[perm[axis]]
    start = data.draw(st.integers(-size, size - 1))

    def case(b: Build) -> ir.Value:
        turned = b.op("Transpose", b.input("x", 2, 3, 4, 5), perm=list(perm))
        left = b.op("Slice", turned, ints(b, "s", [start]), ints(b, "e", [size]), ints(b, "a", [axis]))
        return b.op("Concat", left, turned, axis=axis)

    check_float(one(case), tmp_path, {"x": drawn(2, 3, 4, 5)}, tolerance=0)


@pytest.mark.parametrize("check", [check_float, check_integer])
def test_split(check: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    b = Build()
    first = b.op("Split", b.input("x", 2, 5, 12), ints(b, "s", [2, 4, 6]), outputs=3, axis=-1)
    producer = first.producer()
    assert producer is not None
    model = b.model(*producer.outputs)
    check(model, tmp_path, sample(model, rng))
    assert operators(tmp_path / "model.tflite") == ["SLICE"] * 3


REFUSED: dict[str, tuple[str, Case]] = {
    "edge": (r"it pads 3 dimensions by .* in mode edge", padding([0, 1, 0, 0, 1, 0], mode="edge")),
    "cut-away": (r"by \[\[0, 0\], \[-1, 0\], \[0, 0\]\] in mode constant", padding([0, -1, 0, 0, 0, 0])),
    "elements": (
        "not along the last axis",
        lambda b: b.op("GatherElements", b.input("x", 2, 4), ints(b, "i", picked(2, 4) % 2), axis=0),
    ),
    "fewer": (
        r"go through \[1\] of \[2\]",
        lambda b: b.op("GatherElements", b.input("x", 2, 4), ints(b, "i", picked(1, 4)), axis=1),
    ),
    "step": (
        "a negative step",
        lambda b: b.op(
            "Slice", b.input("x", 8), *(ints(b, n, [v]) for n, v in zip("seat", (7, 0, 0, -2), strict=True))
        ),
    ),
    "computed-start": (
        "the start is computed",
        lambda b: b.op("Slice", b.input("x", 8), b.input("s", 1, dtype=INT64), ints(b, "e", [4])),
    ),
    "rank": ("it has 7 dimensions", lambda b: b.op("Transpose", b.input("x", *([2] * 7)))),
    "batch": (
        "batch dimensions",
        lambda b: b.op("GatherND", b.input("x", 2, 5), b.input("i", 2, 1, dtype=INT64), batch_dims=1),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, tmp_path: Path) -> None:
    reason, case = REFUSED[name]
    model = one(case)
    model.graph.outputs[0].shape = ir.Shape([4])
    with pytest.raises(UnsupportedError, match=rf"{reason}[^\n]*\n[^\n]*n0[^\n]*\n.*fix: "):
        to_tflite(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())
