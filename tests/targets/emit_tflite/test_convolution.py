"""Convolutions and resizing, against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from m4c.errors import UnsupportedError
from m4c.targets.emit_tflite import to_tflite
from m4c.targets.emit_tflite.convolution import Window
from tests.targets.emit_tflite.graphs import Case, check_float, check_integer, drawn, one, operators, sample


def conv(image: tuple[int, ...], kernel: tuple[int, ...], bias: bool = True, **options: Any) -> Case:
    return lambda b: b.op(
        "Conv",
        b.input("x", *image),
        b.weight("w", drawn(*kernel)),
        *([b.weight("b", drawn(kernel[0]))] if bias else []),
        **options,
    )


def resize(**options: Any) -> Case:
    return lambda b: b.op("Resize", b.input("x", 1, 3, 4, 5), None, b.store("s", [1, 1, 2, 2]), **options)


AROUND = ["TRANSPOSE", "CONV_2D", "TRANSPOSE"]
SIGNAL = ["TRANSPOSE", "RESHAPE", "CONV_2D", "RESHAPE", "TRANSPOSE"]
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
    "resize": (
        ["TRANSPOSE", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE"],
        resize(coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ),
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


def test_padding_has_a_name_only_where_tflite_pads_alike() -> None:
    even = Window((3, 3), (2, 2), (1, 1), (1, 1), (1, 1))
    assert even.padding((8, 8)) is None  # TFLite would pad 0 before and 1 after
    assert even.padding((9, 9)) == 0  # SAME
    assert Window((4, 4), (4, 4), (1, 1), (0, 0), (0, 0)).padding((8, 8)) == 1  # VALID


def test_volumes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="its input has 5 dimensions"):
        to_tflite(one(conv((1, 2, 4, 4, 4), (3, 2, 2, 2, 2))), tmp_path / "m.tflite")


def test_other_resizing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"linear with half_pixel.*\n.*\n.*fix: resize images"):
        to_tflite(one(resize(mode="linear")), tmp_path / "m.tflite")


def test_automatic_padding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="auto_pad=SAME_UPPER"):
        to_tflite(one(conv((1, 2, 8, 8), (3, 2, 3, 3), auto_pad="SAME_UPPER")), tmp_path / "m.tflite")


def test_padding_at_the_end_only_is_what_tflite_does() -> None:
    assert Window((3, 3), (2, 2), (1, 1), (0, 0), (1, 1)).padding((8, 8)) == 0
    assert Window((3, 3), (2, 2), (1, 1), (1, 1), (0, 0)).padding((8, 8)) is None
