"""Operators that work value by value, against ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import UnsupportedError
from m4c.targets.emit_tflite import to_tflite
from tests.targets.emit_tflite.graphs import (
    Array,
    Build,
    Case,
    check_float,
    check_integer,
    drawn,
    interpreter,
    one,
    operators,
    quantized,
    sample,
)

TABLES = {"Exp", "Gelu", "Tanh"}
"""What LiteRT computes in int16 by interpolation in a table of 513 entries: up to 0.4 % off where it ends."""

INT64, BOOL = ir.DataType.INT64, ir.DataType.BOOL


def positive(b: Build) -> ir.Value:
    """Return numbers from 1 on, which no rounding turns into 0."""
    return b.op("Add", b.op("Exp", b.input("x", 2, 5, 8)), b.store("one", 1))


def binary(operator: str, *shape: int) -> Case:
    return lambda b: b.op(operator, b.input("x", 2, 5, 8), b.input("y", *shape))


def with_constant(operator: str, rank: int) -> Case:
    """Broadcast a constant of other shape against ``rank`` dimensions."""
    shape = (2, 2, 2, 3, 1, 8)[-rank:]
    return lambda b: b.op(operator, b.input("x", *shape), b.store("c", 2 + np.abs(drawn(3, 5, 1))))


def with_slopes(*shape: int) -> Case:
    return lambda b: b.op("PRelu", b.input("x", 2, 3, 5, 8), b.weight("s", drawn(*shape)))


def unary(operator: str) -> Case:
    return lambda b: b.op(operator, b.input("x", 2, 5, 8))


CASES: dict[str, Case] = {
    **{f"{op}-same": binary(op, 2, 5, 8) for op in ("Add", "Sub", "Mul", "Max", "Min")},
    **{f"{op}-column": binary(op, 2, 5, 1) for op in ("Add", "Sub", "Mul", "Max", "Min")},
    **{f"{op}-lower-rank": binary(op, 8) for op in ("Add", "Sub", "Mul", "Max", "Min")},
    **{f"{op}-constant-{r}d": with_constant(op, r) for op in ("Add", "Sub", "Mul", "Div") for r in (3, 4, 5)},
    "Add-constant-6d": with_constant("Add", 6),
    **{op: unary(op) for op in ("Abs", "Neg", "Exp", "Sigmoid", "Tanh", "Relu", "Gelu", "Cos", "Sin")},
    "LeakyRelu": lambda b: b.op("LeakyRelu", b.input("x", 2, 5, 8), alpha=0.3),
    "LeakyRelu-default": unary("LeakyRelu"),
    "Log": lambda b: b.op("Log", positive(b)),
    **{
        f"PRelu-{'x'.join(map(str, slopes))}": with_slopes(*slopes)
        for slopes in ((1, 1, 1), (3, 1, 1), (3, 5, 8), (8,))
    },
    "PRelu-negative": lambda b: b.op("PRelu", b.input("x", 2, 8), b.store("s", -np.abs(drawn(8)))),
    "Gelu-tanh": lambda b: b.op("Gelu", b.input("x", 2, 5, 8), approximate="tanh"),
    "Div": lambda b: b.op("Div", b.input("y", 2, 5, 8), positive(b)),
    "Sqrt": lambda b: b.op("Sqrt", positive(b)),
    "Reciprocal": lambda b: b.op("Reciprocal", positive(b)),
    "Rsqrt": lambda b: b.op("Reciprocal", b.op("Sqrt", positive(b))),
    "Pow-rsqrt": lambda b: b.op("Pow", positive(b), b.store("e", -0.5)),
    "Pow-sqrt": lambda b: b.op("Pow", positive(b), b.store("e", 0.5)),
    "Pow-square": lambda b: b.op("Pow", b.input("x", 2, 5, 8), b.store("e", 2)),
    "Pow": lambda b: b.op("Pow", positive(b), b.store("e", 1.5)),
    "Clip": lambda b: b.op("Clip", b.input("x", 2, 5, 8), b.store("low", -0.5), b.store("high", 0.7)),
    "Clip-low": lambda b: b.op("Clip", b.input("x", 2, 5, 8), b.store("low", -0.5)),
    "Clip-high": lambda b: b.op("Clip", b.input("x", 2, 5, 8), None, b.store("high", 0.5)),
    "Clip-relu6": lambda b: b.op("Clip", b.input("x", 2, 5, 8), b.store("low", 0), b.store("high", 6)),
    "Where": lambda b: b.op(
        "Where", b.input("c", 2, 5, 1, dtype=BOOL), b.input("x", 2, 5, 8), b.store("y", -3)
    ),
    "Cast-float": lambda b: b.op("Cast", b.input("i", 2, 5, dtype=INT64), to=ir.DataType.FLOAT.value),
    "Cast-int32": lambda b: b.op("Cast", b.input("i", 2, 5, dtype=INT64), to=ir.DataType.INT32.value),
    "Round": unary("Round"),
    "Whole": lambda b: b.op("Cast", b.op("Round", b.input("x", 2, 5)), to=INT64.value),
    "Less": lambda b: b.op("Less", b.input("x", 2, 5, 8), b.input("y", 2, 5, 1)),
    "LessOrEqual": lambda b: b.op("LessOrEqual", b.input("x", 2, 5, 8), b.input("y", 2, 5, 1)),
    "Greater": lambda b: b.op("Greater", b.input("x", 2, 5, 8), b.input("y", 2, 5, 1)),
    "GreaterOrEqual": lambda b: b.op("GreaterOrEqual", b.input("x", 2, 5, 8), b.input("y", 2, 5, 1)),
    "IsNaN": unary("IsNaN"),
    "Equal": lambda b: b.op("Equal", b.input("i", 2, 5, dtype=INT64), b.store("j", 1, np.int64)),
    "And": lambda b: b.op("And", b.input("c", 2, 5, dtype=BOOL), b.input("d", 2, 5, dtype=BOOL)),
    "Or": lambda b: b.op("Or", b.input("c", 2, 5, dtype=BOOL), b.input("d", 2, 5, dtype=BOOL)),
    "Not": lambda b: b.op("Not", b.input("c", 2, 5, dtype=BOOL)),
}


@pytest.mark.parametrize("name", CASES)
def test_float(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    model = one(CASES[name])
    check_float(model, tmp_path, sample(model, rng))


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("Equal", "And", "Or", "Not", "Cast-int32")])
@pytest.mark.parametrize("wide", [False, True])
def test_integer(name: str, wide: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    model = one(CASES[name])
    feeds = sample(model, rng)
    if name.startswith(("Less", "Greater")):  # equal after quantization, or not: keep the operands apart
        feeds = {key: np.rint(value) + (0.5 if key == "y" else 0.0) for key, value in feeds.items()}
        feeds = {key: value.astype(np.float32) for key, value in feeds.items()}
    steps = 2 if name.startswith("Clip") else 1  # bounds are rounded to the input's scale, then the result
    if wide and TABLES & {node.op_type for node in model.graph}:
        steps = 128
    check_integer(model, tmp_path, feeds, steps, wide)


@pytest.mark.parametrize("operator", ["Add", "Mul", "Sub"])
def test_rank_that_does_not_broadcast(operator: str, tmp_path: Path) -> None:
    model = one(lambda b: b.op(operator, b.input("x", 1, 1, 2, 2, 2, 2, 3), b.input("y", 3)))
    with pytest.raises(
        UnsupportedError, match=r"\[1, 1, 2, 2, 2, 2, 3\] and \[3\], LiteRT does so up to 6.*\n.*\n.*fix:"
    ):
        to_tflite(model, tmp_path / "m.tflite")


def test_three_operands_of_max(tmp_path: Path) -> None:
    model = one(lambda b: b.op("Max", b.input("x", 2), b.input("y", 2), b.input("z", 2)))
    with pytest.raises(UnsupportedError, match="it has 3 operands"):
        to_tflite(model, tmp_path / "m.tflite")


def test_clip_without_bounds(tmp_path: Path) -> None:
    model = one(lambda b: b.op("Clip", b.input("x", 2)))
    with pytest.raises(UnsupportedError, match="no bound"):
        to_tflite(model, tmp_path / "m.tflite")


def test_a_result_in_another_scale_is_rescaled(tmp_path: Path, rng: np.random.Generator) -> None:
    """A sigmoid that is asked for another scale than 1/256 gets a QUANTIZE behind it."""
    model = one(lambda b: b.op("Sigmoid", b.input("x", 2, 8)))
    quantized(model, {"x": rng.standard_normal((2, 8)).astype(np.float32)})
    for value in model.graph.initializers.values():
        if value.name == "sigmoid0.scale":
            value.const_value = ir.tensor(np.array(1 / 128, np.float32), name=value.name)
    to_tflite(model, tmp_path / "m.tflite")
    assert operators(tmp_path / "m.tflite") == ["LOGISTIC", "QUANTIZE"]
    details = interpreter(tmp_path / "m.tflite", xnnpack=False).get_output_details()
    assert details[0]["quantization"] == (1 / 128, -128)


def test_int64_becomes_int32(tmp_path: Path) -> None:
    model = one(CASES["Cast-float"])
    to_tflite(model, tmp_path / "m.tflite")
    details: Array = interpreter(tmp_path / "m.tflite", xnnpack=False).get_input_details()
    assert details[0]["dtype"] == np.int32


def test_what_is_not_a_number_is_found(tmp_path: Path) -> None:
    """A softmax of nothing but minus infinity, which guards of attention replace by zeros."""

    def case(b: Build) -> ir.Value:
        weights = b.op("Softmax", b.input("x", 2, 4), axis=-1)
        return b.op("Where", b.op("IsNaN", weights), b.store("zero", 0), weights)

    x = np.array([[0, 1, 2, -np.inf], [-np.inf] * 4], np.float32)
    check_float(one(case), tmp_path, {"x": x})
    assert operators(tmp_path / "model.tflite") == ["SOFTMAX", "NOT_EQUAL", "SELECT_V2"]
