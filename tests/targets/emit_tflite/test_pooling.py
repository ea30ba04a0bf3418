"""Windows of largest values and of means, against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
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
    quantized,
    sample,
)


def pool(operator: str, *shape: int, after: Any = "", **options: Any) -> Case:
    """Return a pool of ``x``, or of what the operator ``after`` makes of it."""

    def case(b: Build) -> ir.Value:
        x = b.input("x", *shape)
        return b.op(operator, b.op(after, x) if after else x, **options)

    return case


RESNET: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
AROUND = {"MaxPool": "MAX_POOL_2D", "AveragePool": "AVERAGE_POOL_2D"}
CASES: dict[str, tuple[list[str], Case]] = {
    **{
        f"{kind}-{name}": (["TRANSPOSE", code, "TRANSPOSE"], pool(kind, 2, 3, 8, 9, **options))
        for kind, code in AROUND.items()
        for name, options in {
            "halves": {"kernel_shape": [2, 2], "strides": [2, 2]},
            "steps": {"kernel_shape": [3, 2]},
            "same": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        }.items()
    },
    "MaxPool-padded": (
        ["TRANSPOSE", "PADV2", "MAX_POOL_2D", "TRANSPOSE"],
        pool("MaxPool", 1, 3, 8, 8, **RESNET),
    ),
    "MaxPool-padded-positive": (
        ["RELU", "TRANSPOSE", "PAD", "MAX_POOL_2D", "TRANSPOSE"],
        pool("MaxPool", 1, 3, 8, 8, after="Relu", **RESNET),
    ),
    "MaxPool-up": (
        ["TRANSPOSE", "MAX_POOL_2D", "TRANSPOSE"],
        pool("MaxPool", 1, 3, 8, 8, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    ),
    "MaxPool-one-of": (
        ["TRANSPOSE", "MAX_POOL_2D", "TRANSPOSE"],
        pool("MaxPool", 1, 3, 8, 8, kernel_shape=[1, 1], strides=[2, 2]),
    ),
    "MaxPool-signal": (
        ["TRANSPOSE", "RESHAPE", "MAX_POOL_2D", "RESHAPE", "TRANSPOSE"],
        pool("MaxPool", 2, 3, 12, kernel_shape=[4], strides=[4]),
    ),
    "MaxPool-planes": (
        ["TRANSPOSE", "RESHAPE", "PADV2", "MAX_POOL_2D", "RESHAPE", "TRANSPOSE"],
        pool("MaxPool", 1, 3, 4, 8, 8, kernel_shape=[1, 3, 3], strides=[1, 2, 2], pads=[0, 1, 1, 0, 1, 1]),
    ),
    "AveragePool-padded-counted": (
        ["TRANSPOSE", "PAD", "AVERAGE_POOL_2D", "TRANSPOSE"],
        pool("AveragePool", 1, 3, 8, 8, count_include_pad=1, **RESNET),
    ),
    "AveragePool-signal": (
        ["TRANSPOSE", "RESHAPE", "AVERAGE_POOL_2D", "RESHAPE", "TRANSPOSE"],
        pool("AveragePool", 2, 3, 12, kernel_shape=[4], strides=[4]),
    ),
}
CORRECTED = pool("AveragePool", 1, 3, 8, 8, **RESNET)
"""Its padding does not count, and TFLite has no name for it."""


@pytest.mark.parametrize("name", CASES)
def test_float(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    expected, case = CASES[name]
    model = one(case)
    check_float(model, tmp_path, sample(model, rng))
    assert operators(tmp_path / "model.tflite") == expected


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wide", [False, True])
def test_integer(name: str, wide: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    expected, case = CASES[name]
    model = one(case)
    check_integer(model, tmp_path, sample(model, rng), wide=wide)
    assert [op for op in operators(tmp_path / "model.tflite") if op != "QUANTIZE"] == expected


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["MaxPool", "AveragePool"]),
    st.tuples(st.integers(3, 9), st.integers(3, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.integers(0, 1),
)
def test_any_window(
    tmp_path: Path,
    operator: str,
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: list[int],
    mode: int,
) -> None:
    assume(all(pad < kernel[axis % 2] for axis, pad in enumerate(pads)))
    if operator == "MaxPool" and mode:  # a last window in padding alone is refused: see below
        for axis, extent in enumerate(size):
            places = -(-(extent + pads[axis] + pads[axis + 2] - kernel[axis]) // strides[axis])
            assume(places * strides[axis] < extent + pads[axis])
    option = {"ceil_mode": mode} if operator == "MaxPool" else {"count_include_pad": mode}
    case = pool(operator, 1, 2, *size, kernel_shape=kernel, strides=strides, pads=pads, **option)
    check_float(one(case), tmp_path, {"x": drawn(1, 2, *size) - 1})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(*[st.integers(1, 2)] * 3),
    st.lists(st.integers(0, 1), min_size=6, max_size=6),
)
def test_any_window_over_a_volume(
    tmp_path: Path, kernel: tuple[int, ...], strides: tuple[int, ...], pads: list[int]
) -> None:
    assume(all(pad < kernel[axis % 3] for axis, pad in enumerate(pads)))
    case = pool("MaxPool", 2, 2, 5, 6, 7, kernel_shape=kernel, strides=strides, pads=pads)
    check_float(one(case), tmp_path, {"x": drawn(2, 2, 5, 6, 7) - 1})


def test_a_mean_without_its_padding_stays_in_float(tmp_path: Path, rng: np.random.Generator) -> None:
    model = one(CORRECTED)
    feeds = sample(model, rng)
    check_float(model, tmp_path, feeds)
    assert operators(tmp_path / "model.tflite") == ["TRANSPOSE", "PAD", "AVERAGE_POOL_2D", "MUL", "TRANSPOSE"]
    quantized(model, feeds)
    with pytest.raises(UnsupportedError, match=r"its padding does not count.*\n.*AveragePool node n0"):
        to_tflite(model, tmp_path / "m.tflite")


REFUSED: dict[str, tuple[str, Case]] = {
    "dilated": (
        r"no dilation, and this has \[2, 2\]",
        pool("MaxPool", 1, 2, 8, 8, kernel_shape=[2, 2], dilations=[2, 2]),
    ),
    "beyond": (
        "beyond the padding",
        pool("AveragePool", 1, 2, 8, 8, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    ),
    "nothing": (
        "nothing but padding",
        pool("MaxPool", 1, 2, 4, 4, kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
    ),
    "volume": (
        "no mean under a window of a volume",
        pool("AveragePool", 1, 2, 4, 4, 4, kernel_shape=[2, 2, 2]),
    ),
    "automatic": (
        "auto_pad=SAME_UPPER",
        pool("MaxPool", 1, 2, 8, 8, kernel_shape=[3, 3], auto_pad="SAME_UPPER"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_windows_are_refused(name: str, tmp_path: Path) -> None:
    reason, case = REFUSED[name]
    with pytest.raises(UnsupportedError, match=rf"{reason}[^\n]*\n[^\n]*Pool node n0[^\n]*\n.*fix: "):
        to_tflite(one(case), tmp_path / "m.tflite")


def test_places_of_the_largest_are_refused(tmp_path: Path) -> None:
    build = Build()
    values = build.op("MaxPool", build.input("x", 1, 2, 4, 4), outputs=2, kernel_shape=[2, 2])
    node = values.producer()
    assert node is not None
    with pytest.raises(UnsupportedError, match=r"the places of the values are used\n.*\n.*fix: "):
        to_tflite(build.model(*node.outputs), tmp_path / "m.tflite")
