"""Convolutions and resizing, against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from m4c.errors import UnsupportedError
from m4c.targets.emit_tflite import to_tflite
from m4c.targets.emit_tflite.convolution import Window
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


def conv(image: tuple[int, ...], kernel: tuple[int, ...], bias: bool = True, **options: Any) -> Case:
    return lambda b: b.op(
        "Conv",
        b.input("x", *image),
        b.weight("w", drawn(*kernel)),
        *([b.weight("b", drawn(kernel[0]))] if bias else []),
        **options,
    )


def transposed(image: tuple[int, ...], kernel: tuple[int, ...], bias: bool = True, **options: Any) -> Case:
    """Return a ConvTranspose with a kernel [I, O / group, …]."""
    outputs = kernel[1] * options.get("group", 1)
    return lambda b: b.op(
        "ConvTranspose",
        b.input("x", *image),
        b.weight("w", drawn(*kernel)),
        *([b.weight("b", drawn(outputs))] if bias else []),
        **options,
    )


def resize(**options: Any) -> Case:
    return lambda b: b.op("Resize", b.input("x", 1, 3, 4, 5), None, b.store("s", [1, 1, 2, 2]), **options)


AROUND = ["TRANSPOSE", "CONV_2D", "TRANSPOSE"]
SIGNAL = ["TRANSPOSE", "RESHAPE", "CONV_2D", "RESHAPE", "TRANSPOSE"]
BACK = ["TRANSPOSE", "TRANSPOSE_CONV", "TRANSPOSE"]
CUT = ["TRANSPOSE", "TRANSPOSE_CONV", "SLICE", "TRANSPOSE"]
CASES: dict[str, tuple[list[str], Case]] = {
    "signal": (SIGNAL, conv((1, 8, 20), (6, 8, 3), pads=[1, 1])),
    "signal-stride": (
        ["TRANSPOSE", "RESHAPE", "PAD", "CONV_2D", "RESHAPE", "TRANSPOSE"],
        conv((1, 8, 20), (6, 8, 3), pads=[1, 1], strides=[2]),
    ),
    "patches": (AROUND, conv((2, 3, 8, 8), (6, 3, 4, 4), strides=[4, 4])),
    "patches-no-bias": (AROUND, conv((1, 3, 8, 8), (6, 3, 4, 4), bias=False, strides=[4, 4])),
    "dilated": (AROUND, conv((1, 3, 9, 8), (6, 3, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2])),
    "grouped": (AROUND, conv((1, 4, 9, 8), (6, 2, 3, 3), group=2)),
    "depthwise": (
        ["TRANSPOSE", "PAD", "DEPTHWISE_CONV_2D", "TRANSPOSE"],
        conv((1, 4, 9, 8), (8, 1, 3, 3), group=4, pads=[0, 1, 2, 1]),
    ),
    "depthwise-same": (
        ["TRANSPOSE", "DEPTHWISE_CONV_2D", "TRANSPOSE"],
        conv((1, 4, 9, 8), (4, 1, 3, 3), group=4, pads=[1, 1, 1, 1], bias=False),
    ),
    "transposed": (BACK, transposed((1, 4, 5, 6), (4, 3, 2, 2), strides=[2, 2])),
    "transposed-same": (BACK, transposed((1, 4, 5, 6), (4, 3, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1])),
    "transposed-cut": (
        CUT,
        transposed(
            (2, 4, 5, 6), (4, 3, 3, 3), bias=False, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]
        ),
    ),
    "transposed-beyond": (
        BACK,
        transposed((1, 4, 5, 6), (4, 3, 3, 3), strides=[2, 2], output_padding=[1, 1]),
    ),
    "transposed-signal": (
        ["TRANSPOSE", "RESHAPE", "TRANSPOSE_CONV", "SLICE", "RESHAPE", "TRANSPOSE"],
        transposed((1, 4, 7), (4, 3, 4), strides=[2], pads=[2, 0]),
    ),
    "resize": (
        ["TRANSPOSE", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE"],
        resize(coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ),
    **{
        f"resize-linear-{places}": (
            ["TRANSPOSE", "RESIZE_BILINEAR", "TRANSPOSE"],
            resize(mode="linear", coordinate_transformation_mode=places),
        )
        for places in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
    },
    "resize-half-pixel": (["TRANSPOSE", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE"], resize()),
}


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
    if wide and "depthwise" in name:
        with pytest.raises(UnsupportedError, match="wants an int64 bias"):
            check_integer(one(case), tmp_path, sample(one(case), rng), wide=True)
        return
    model = one(case)
    check_integer(model, tmp_path, sample(model, rng), wide=wide)
    if wide and "linear" in name:
        expected = ["TRANSPOSE", "DEQUANTIZE", *expected[1:2], "QUANTIZE", "TRANSPOSE"]
    assert operators(tmp_path / "model.tflite") == expected


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(3, 9), st.integers(3, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_any_window(
    tmp_path: Path, image: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int], pads: list[int]
) -> None:
    assume(max(pads) < max(kernel))
    case = conv((1, 2, *image), (3, 2, *kernel), strides=list(strides), pads=pads)
    feeds = {"x": drawn(1, 2, *image)}
    check_float(one(case), tmp_path, feeds)
    check_integer(one(case), tmp_path, feeds)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_any_transposed_window(
    tmp_path: Path,
    image: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: list[int],
    beyond: tuple[int, int],
) -> None:
    assume(all(extra < stride for extra, stride in zip(beyond, strides, strict=True)))
    for axis in (0, 1):
        full = (image[axis] - 1) * strides[axis] + kernel[axis] + beyond[axis]
        assume(full - pads[axis] - pads[axis + 2] > 0)
    options: dict[str, Any] = {"strides": list(strides), "pads": pads, "output_padding": list(beyond)}
    case = transposed((1, 2, *image), (2, 3, *kernel), **options)
    feeds = {"x": drawn(1, 2, *image)}
    check_float(one(case), tmp_path, feeds)
    check_integer(one(case), tmp_path, feeds)


REFUSED = [
    ({"group": 2}, "has no groups, and this has 2", "convolve each group by itself"),
    ({"dilations": [2, 2]}, r"has no dilation, and this has \[2, 2\]", "a dilation of 1"),
    (
        {"output_padding": [0, 1]},
        "output_padding reaches 1 past the last value, with a stride of 1",
        "smaller than its stride",
    ),
    ({"output_shape": [9, 10]}, "output_shape is given", "as pads"),
]


@pytest.mark.parametrize(("options", "reason", "fix"), REFUSED)
def test_other_transposed_convolutions_are_refused(
    options: dict[str, Any], reason: str, fix: str, tmp_path: Path
) -> None:
    model = one(transposed((1, 4, 8, 9), (4, 3, 2, 2), **options))
    with pytest.raises(UnsupportedError, match=rf"{reason}\n.*ConvTranspose node n0.*\n.*fix: .*{fix}"):
        to_tflite(model, tmp_path / "m.tflite")


def test_transposed_padding_has_a_name_where_tflite_pads_alike() -> None:
    doubling = Window((4, 4), (2, 2), (1, 1), (1, 1), (1, 1))
    assert doubling.transposed_padding((5, 6), (10, 12)) == 0  # SAME
    assert doubling.transposed_padding((5, 6), (11, 12)) == 1  # VALID: a convolution would make 6 rows of 11
    assert Window((3, 3), (2, 2), (1, 1), (1, 1), (1, 1)).transposed_padding((5, 6), (10, 12)) == 1


def test_padding_has_a_name_only_where_tflite_pads_alike() -> None:
    even = Window((3, 3), (2, 2), (1, 1), (1, 1), (1, 1))
    assert even.padding((8, 8)) is None  # TFLite would pad 0 before and 1 after
    assert even.padding((9, 9)) == 0  # SAME
    assert Window((4, 4), (4, 4), (1, 1), (0, 0), (0, 0)).padding((8, 8)) == 1  # VALID


SIZES = [st.tuples(*[st.integers(1, most)] * 3) for most in (3, 2, 2)]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(*SIZES, st.lists(st.integers(0, 1), min_size=6, max_size=6))
def test_any_window_over_a_volume(
    tmp_path: Path,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: list[int],
) -> None:
    options: dict[str, Any] = {"strides": list(strides), "dilations": list(dilations), "pads": pads}
    case = conv((2, 2, 5, 6, 7), (3, 2, *kernel), **options)
    check_float(one(case), tmp_path, {"x": drawn(2, 2, 5, 6, 7)})
    assert "CONV_3D" in operators(tmp_path / "model.tflite")


def test_volumes_without_a_kernel_are_refused(tmp_path: Path) -> None:
    def refused(model: ir.Model, reason: str) -> None:
        with pytest.raises(UnsupportedError, match=rf"{reason}\n.*Conv.* node n0.*\n.*fix:"):
            to_tflite(model, tmp_path / "m.tflite")

    volume = (1, 2, 4, 4, 4)
    refused(one(conv(volume, (2, 1, 2, 2, 2), group=2)), "CONV_3D has no groups, and this has 2")
    refused(one(transposed(volume, (2, 3, 2, 2, 2))), "its input has 5 dimensions")
    narrow = one(conv(volume, (3, 2, 2, 2, 2)))
    quantized(narrow, {"x": drawn(*volume)})
    refused(narrow, "CONV_3D has a kernel for float alone")


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_computed_kernels_are_refused(operator: str, tmp_path: Path) -> None:
    def case(b: Build) -> ir.Value:
        return b.op(operator, b.input("x", 1, 2, 4, 4), b.op("Relu", b.weight("w", drawn(2, 2, 2, 2))))

    with pytest.raises(UnsupportedError, match=r"its kernel is computed\n.*Conv.*\n.*fix: fold"):
        to_tflite(one(case), tmp_path / "m.tflite")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "cubic"}, "cubic with half_pixel"),
        ({"mode": "linear", "antialias": 1}, "linear with half_pixel, antialias=1"),
        (
            {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
            "linear with half_pixel_sym",
        ),
        ({"nearest_mode": "ceil"}, r"nearest with half_pixel, ceil from \[1, 3, 4, 5\] to \[1, 3, 8, 10\]"),
    ],
)
def test_other_resizing_is_refused(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=rf"{reason}.*\n.*Resize node n0.*\n.*fix: "):
        to_tflite(one(resize(**options)), tmp_path / "m.tflite")


def test_factors_that_sizes_do_not_tell_are_refused(tmp_path: Path) -> None:
    model = one(
        lambda b: b.op(
            "Resize", b.input("x", 1, 3, 4, 5), None, b.store("s", [1, 1, 1.3, 1.3]), mode="linear"
        )
    )
    with pytest.raises(UnsupportedError, match=r"it makes \[1, 3, 5, 6\] of \[1, 3, 4, 5\]"):
        to_tflite(model, tmp_path / "m.tflite")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 12), st.integers(2, 12)),
    st.sampled_from(["half_pixel", "asymmetric", "align_corners"]),
)
def test_any_linear_resizing(
    tmp_path: Path, size: tuple[int, int], made: tuple[int, int], places: str
) -> None:
    def case(b: Build) -> ir.Value:
        sizes = b.store("s", [1, 2, *made], np.int64)
        options: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": places}
        return b.op("Resize", b.input("x", 1, 2, *size), None, None, sizes, **options)

    check_float(one(case), tmp_path, {"x": drawn(1, 2, *size)})


def test_automatic_padding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="auto_pad=SAME_UPPER"):
        to_tflite(one(conv((1, 2, 8, 8), (3, 2, 3, 3), auto_pad="SAME_UPPER")), tmp_path / "m.tflite")


def test_padding_at_the_end_only_is_what_tflite_does() -> None:
    assert Window((3, 3), (2, 2), (1, 1), (0, 0), (1, 1)).padding((8, 8)) == 0
    assert Window((3, 3), (2, 2), (1, 1), (1, 1), (0, 0)).padding((8, 8)) is None
