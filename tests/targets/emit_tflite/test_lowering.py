"""Tensors for values: shapes, constants, integer widths, weights shared and laid out."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import UnsupportedError
from m4c.targets.emit_tflite import to_tflite
from m4c.targets.emit_tflite.emit import lower
from tests.targets.emit_tflite.graphs import Build, check_float, drawn, one, sample


def test_an_unknown_dimension_is_refused(tmp_path: Path) -> None:
    model = one(lambda b: b.op("Relu", b.input("x", 2, 8)))
    model.graph.inputs[0].shape = ir.Shape(["batch", 8])
    with pytest.raises(
        UnsupportedError, match=r"x has the shape \[batch,8\].*\n.*at:  x\n.*fix: .*static shapes"
    ):
        to_tflite(model, tmp_path / "m.tflite")


def test_a_value_without_dtype_is_refused(tmp_path: Path) -> None:
    model = one(lambda b: b.op("Relu", b.input("x", 2, 8)))
    model.graph.outputs[0].type = None
    with pytest.raises(UnsupportedError, match=r"relu0 has no dtype\n.*Relu node of n0\n.*fix: infer"):
        to_tflite(model, tmp_path / "m.tflite")


def test_a_dtype_that_the_file_cannot_hold(tmp_path: Path) -> None:
    model = one(lambda b: b.op("Relu", b.input("x", 2, 8, dtype=ir.DataType.BFLOAT16)))
    with pytest.raises(UnsupportedError, match=r"x is BFLOAT16.*\n.*\n.*fix: cast it to one of BOOL, FLOAT"):
        to_tflite(model, tmp_path / "m.tflite")


def test_numbers_beyond_32_bits(tmp_path: Path) -> None:
    def case(b: Build) -> ir.Value:
        return b.op("Add", b.input("i", 2, dtype=ir.DataType.INT64), b.store("big", [1, 2**40], np.int64))

    with pytest.raises(UnsupportedError, match=r"big holds 1…1099511627776, which does not fit 32 bits"):
        to_tflite(one(case), tmp_path / "m.tflite")


def test_tied_weights_and_equal_constants_are_stored_once(tmp_path: Path, rng: np.random.Generator) -> None:
    b = Build()
    w = b.weight("w", drawn(8, 8))
    x = b.op("MatMul", b.op("MatMul", b.input("x", 2, 5, 8), w), w)
    shape = [b.store(f"s{i}", [5, 16], np.int64) for i in (1, 2)]
    flat = b.op("Reshape", b.op("Relu", b.op("Reshape", x, shape[0])), shape[1])
    model = b.model(flat)
    stored = [t.name for t in lower(model).tensors if t.content is not None]
    assert sorted(stored) == ["constant.0", "constant.1", "w.transposed"]  # a zero bias, a shape
    check_float(model, tmp_path, sample(model, rng))


def test_a_weight_in_two_layouts(tmp_path: Path, rng: np.random.Generator) -> None:
    """A table that is looked up and multiplied by is stored as it is and transposed."""
    b = Build()
    table = b.weight("table", drawn(8, 6))
    looked = b.op("Gather", table, b.input("i", 3, dtype=ir.DataType.INT64))
    product = b.op("MatMul", b.input("x", 3, 8), table)
    model = b.model(b.op("Add", looked, product))
    names = [t.name for t in lower(model).tensors if t.content is not None]
    assert {"table", "table.transposed"} <= set(names)
    check_float(model, tmp_path, sample(model, rng))
