"""Matrix products, against ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m4c.errors import UnsupportedError
from m4c.targets.emit_tflite import to_tflite
from m4c.weights import lazy, stored_value
from tests.targets.emit_tflite.graphs import (
    Build,
    Case,
    check_float,
    check_integer,
    drawn,
    infer,
    one,
    operators,
    reference,
    run,
    sample,
)


def linear(*shape: int) -> Case:
    return lambda b: b.op(
        "Add",
        b.op("MatMul", b.input("x", *shape), b.weight("w", drawn(shape[-1], 6))),
        b.weight("b", drawn(6)),
    )


def bias_first(b: Build) -> ir.Value:
    return b.op(
        "Add", b.weight("b", drawn(6)), b.op("MatMul", b.input("x", 2, 5, 8), b.weight("w", drawn(8, 6)))
    )


CASES: dict[str, tuple[list[str], Case]] = {
    **{f"linear-{n}d": (["FULLY_CONNECTED"], linear(*(2, 3, 2, 5, 8)[5 - n :])) for n in (2, 3, 4, 5)},
    "no-bias": (
        ["FULLY_CONNECTED"],
        lambda b: b.op("MatMul", b.input("x", 2, 5, 8), b.weight("w", drawn(8, 6))),
    ),
    "bias-first": (["FULLY_CONNECTED"], bias_first),
    "two-values": (
        ["BATCH_MATMUL"],
        lambda b: b.op("MatMul", b.input("x", 2, 3, 5, 8), b.input("y", 2, 3, 8, 4)),
    ),
    "broadcast": (["BATCH_MATMUL"], lambda b: b.op("MatMul", b.input("x", 2, 3, 5, 8), b.input("y", 8, 4))),
    "broadcast-batch": (
        ["BATCH_MATMUL"],
        lambda b: b.op("MatMul", b.input("x", 2, 3, 5, 8), b.input("y", 1, 3, 8, 4)),
    ),
    "stored-left": (
        ["BATCH_MATMUL"],
        lambda b: b.op("MatMul", b.weight("w", drawn(6, 8)), b.input("y", 8, 4)),
    ),
    "stored-3d": (
        ["BATCH_MATMUL"],
        lambda b: b.op("MatMul", b.input("x", 2, 5, 8), b.weight("w", drawn(2, 8, 4))),
    ),
    "two-dimensional-addend": (
        ["FULLY_CONNECTED", "ADD"],
        lambda b: b.op(
            "Add",
            b.op("MatMul", b.input("x", 2, 5, 8), b.weight("w", drawn(8, 6))),
            b.weight("p", drawn(5, 6)),
        ),
    ),
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
    model = one(case)
    check_integer(model, tmp_path, sample(model, rng), steps=1 + wide, wide=wide)
    assert operators(tmp_path / "model.tflite") == expected


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 40), st.integers(1, 20))
def test_any_size(tmp_path: Path, lead: list[int], inner: int, outer: int) -> None:
    def case(b: Build) -> ir.Value:
        product = b.op("MatMul", b.input("x", *lead, inner), b.weight("w", drawn(inner, outer)))
        return b.op("Add", product, b.weight("b", drawn(outer)))

    feeds = {"x": drawn(*lead, inner)}
    check_float(one(case), tmp_path, feeds)
    check_integer(one(case), tmp_path, feeds)


def test_a_product_read_twice_keeps_its_add(tmp_path: Path, rng: np.random.Generator) -> None:
    b = Build()
    product = b.op("MatMul", b.input("x", 5, 8), b.weight("w", drawn(8, 6)))
    model = b.model(b.op("Add", product, b.weight("b", drawn(6))), b.op("Relu", product))
    check_float(model, tmp_path, sample(model, rng))
    assert operators(tmp_path / "model.tflite") == ["FULLY_CONNECTED", "ADD", "RELU"]


def weight_only(axis: int, point: int = 0) -> ir.Model:
    """Return x @ W with int8 W and float x."""
    b = Build()
    x = b.input("x", 5, 32)
    held = (drawn(32, 32) * 127 / np.abs(drawn(32, 32)).max()).astype(np.int8)
    b.held.append(stored_value(lazy("w", ir.DataType.INT8, held.shape, lambda: held)))
    scale = b.store("s", np.linspace(0.01, 0.02, 32))
    w = b.op("DequantizeLinear", b.held[0], scale, b.store("z", np.full(32, point), np.int8), axis=axis)
    return b.model(b.op("MatMul", x, w))


def test_weight_only_is_hybrid(tmp_path: Path, rng: np.random.Generator) -> None:
    model = weight_only(axis=1)
    feeds = sample(model, rng)
    to_tflite(model, tmp_path / "m.tflite")
    assert operators(tmp_path / "m.tflite") == ["FULLY_CONNECTED"]
    (want,) = reference(model, feeds)
    for xnnpack in (False, True):
        (got,) = run(tmp_path / "m.tflite", feeds, xnnpack)
        assert np.abs(got - want).max() < 0.02 * np.abs(want).max()  # x has 8 bits at run time


def test_scales_of_the_wrong_axis(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"scales of w belong to axis 0\n.*\n.*fix: .*axis 1"):
        to_tflite(weight_only(axis=0), tmp_path / "m.tflite")


def test_asymmetric_weights(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"w has zero points other than 0"):
        to_tflite(weight_only(axis=1, point=3), tmp_path / "m.tflite")


def test_a_product_of_vectors(tmp_path: Path) -> None:
    model = one(lambda b: b.op("MatMul", b.input("x", 8), b.input("y", 8, 4)))
    infer(model)
    with pytest.raises(UnsupportedError, match="1 and 2 dimensions"):
        to_tflite(model, tmp_path / "m.tflite")
