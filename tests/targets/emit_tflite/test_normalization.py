"""Operators that look along axes, against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

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
    reference,
    run,
    sample,
)


def over(operator: str, axes: list[int] | None = None, keepdims: int = 1) -> Case:
    def case(b: Build) -> ir.Value:
        held = [] if axes is None else [b.store("a", axes, np.int64)]
        return b.op(operator, b.input("x", 2, 3, 5, 8), *held, keepdims=keepdims)

    return case


def along(operator: str, *shape: int, **options: Any) -> Case:
    return lambda b: b.op(operator, b.input("x", *shape), **options)


def scaled(operator: str, *shape: int, **options: Any) -> Case:
    weights = {name: drawn(shape[-1]) for name in ("g", "b")}
    return lambda b: b.op(
        operator,
        b.input("x", *shape),
        *(b.weight(name, held) for name, held in weights.items()),
        **options,
    )


SUMS = [(1, 0, 0), (-1, 1, 0), (0, 0, 1), (2, 1, 1)]


def summed(axis: int, exclusive: int, reverse: int) -> Case:
    return lambda b: b.op(
        "CumSum", b.input("x", 2, 5, 8), b.store("a", axis, np.int64), exclusive=exclusive, reverse=reverse
    )


CASES: dict[str, Case] = {
    "ReduceMean": over("ReduceMean", [-1]),
    "ReduceMean-1": over("ReduceMean", [1], keepdims=0),
    "ReduceMean-image": over("ReduceMean", [2, 3]),
    "ReduceMean-all": over("ReduceMean"),
    "ReduceSum": over("ReduceSum", [-2]),
    "ReduceMax": over("ReduceMax", [1], keepdims=0),
    "Softmax": along("Softmax", 2, 5, 8),
    "Softmax-4d": along("Softmax", 2, 2, 5, 5, axis=3),
    "Softmax-1": along("Softmax", 2, 5, 8, axis=1),
    "LogSoftmax": along("LogSoftmax", 2, 5, 8),
    "LogSoftmax-1": along("LogSoftmax", 2, 5, 8, axis=1),
    "LpNormalization": along("LpNormalization", 5, 8),
    "LpNormalization-3d": along("LpNormalization", 2, 5, 8, axis=-1),
    "LpNormalization-1": along("LpNormalization", 2, 5, 8, axis=1),
    "ArgMax": along("ArgMax", 2, 5, 8, axis=-1),
    "ArgMax-1": along("ArgMax", 2, 5, 8, axis=1, keepdims=0),
    "ArgMin": along("ArgMin", 2, 5, 8, axis=-1),
    "ArgMin-1": along("ArgMin", 2, 5, 8, axis=1, keepdims=0),
    "GlobalAveragePool": along("GlobalAveragePool", 2, 3, 5, 8),
    "GlobalAveragePool-signal": along("GlobalAveragePool", 2, 3, 8),
    "GlobalMaxPool": along("GlobalMaxPool", 2, 3, 5, 8),
    **{
        f"CumSum-{axis}{exclusive}{reverse}": summed(axis, exclusive, reverse)
        for axis, exclusive, reverse in SUMS
    },
    "LayerNormalization": scaled("LayerNormalization", 2, 5, 8, axis=-1),
    "LayerNormalization-no-bias": lambda b: b.op(
        "LayerNormalization", b.input("x", 2, 5, 8), b.weight("g", drawn(8)), axis=2, epsilon=1e-3
    ),
}


def test_integers_are_summed_up_exactly(tmp_path: Path) -> None:
    def case(b: Build) -> ir.Value:
        x = b.input("x", 2, 6, dtype=ir.DataType.INT64)
        return b.op("CumSum", x, b.store("a", 1, np.int64))

    check_float(one(case), tmp_path, {"x": np.arange(12).reshape(2, 6) % 5}, tolerance=0)


@pytest.mark.parametrize("name", CASES)
def test_float(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    model = one(CASES[name])
    check_float(model, tmp_path, sample(model, rng))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wide", [False, True])
def test_integer(name: str, wide: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    model = one(CASES[name])
    check_integer(model, tmp_path, sample(model, rng), wide=wide)


@pytest.mark.parametrize(
    ("name", "step"), [("Softmax", 0.0), ("LogSoftmax", 1 / 32), ("LpNormalization", 0.0)]
)
def test_another_scale_than_the_fixed_one(
    name: str, step: float, tmp_path: Path, rng: np.random.Generator
) -> None:
    """The kernel writes its own scale, and a QUANTIZE gives the one that the model asks for."""
    model = one(CASES[name])
    feeds = sample(model, rng)
    quantized(model, feeds)
    for value in model.graph.initializers.values():
        if value.name == f"{model.graph[-1].outputs[0].name}.scale":
            value.const_value = ir.tensor(np.array(0.02, np.float32), name=value.name)
    path = tmp_path / "m.tflite"
    to_tflite(model, path)
    assert operators(path)[-1] == "QUANTIZE"
    np.testing.assert_allclose(
        run(path, feeds, xnnpack=False)[0], reference(model, feeds)[0], atol=step + 0.0201
    )


def test_softmax_along_the_last_axis_needs_no_transposition(tmp_path: Path) -> None:
    to_tflite(one(CASES["Softmax-4d"]), tmp_path / "m.tflite")
    assert operators(tmp_path / "m.tflite") == ["SOFTMAX"]


REFUSED: dict[str, tuple[str, Case]] = {
    "p": ("p=1", along("LpNormalization", 2, 8, p=1)),
    "last": ("the last of equal values", along("ArgMax", 2, 8, select_last_index=1)),
    "running": (
        "the axis is computed",
        lambda b: b.op("CumSum", b.input("x", 2, 8), b.input("a", dtype=ir.DataType.INT64)),
    ),
    "axis": (
        "not over the last axis alone",
        lambda b: b.op("LayerNormalization", b.input("x", 2, 5, 8), b.weight("g", drawn(5, 8)), axis=1),
    ),
    "axes": (
        "the axes is computed",
        lambda b: b.op("ReduceMean", b.input("x", 2, 8), b.input("a", 1, dtype=ir.DataType.INT64)),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, tmp_path: Path) -> None:
    reason, case = REFUSED[name]
    with pytest.raises(UnsupportedError, match=rf"{reason}[^\n]*\n[^\n]*n0[^\n]*\n.*fix: "):
        to_tflite(one(case), tmp_path / "m.tflite")
