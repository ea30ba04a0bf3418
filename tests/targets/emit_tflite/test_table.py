"""The table and what it promises."""

import onnx_ir as ir

from m4c.targets.emit_tflite import EMIT, INTEGER
from m4c.targets.emit_tflite.table import COARSE, FLOAT_ONLY, MIXED, NARROW_ONLY
from m4c.targets.emit_tflite.units import POWERS, units
from tests.targets.emit_tflite import (
    test_arithmetic,
    test_convolution,
    test_linear,
    test_normalization,
    test_pooling,
    test_shape,
)
from tests.targets.emit_tflite.graphs import one


def test_the_lists_of_kernels_name_operators_of_the_table() -> None:
    assert INTEGER[ir.DataType.INT8] == set(EMIT) - FLOAT_ONLY
    assert INTEGER[ir.DataType.INT16] == set(EMIT) - FLOAT_ONLY - NARROW_ONLY
    assert INTEGER[ir.DataType.INT8] - INTEGER[ir.DataType.INT16] >= COARSE
    assert set(EMIT) > FLOAT_ONLY | NARROW_ONLY | MIXED | set(POWERS.values())


def test_every_operator_of_the_table_runs_in_a_differential_test() -> None:
    cases = [*test_arithmetic.CASES.values(), *test_normalization.CASES.values()]
    for table in (
        test_linear.CASES,
        test_convolution.CASES,
        test_pooling.CASES,
        test_shape.CASES,
        test_shape.RESCALED,
    ):
        cases += [case for _, case in table.values()]
    covered = {unit.operator for case in cases for unit in units(one(case).graph)}
    assert set(EMIT) - covered == {
        "DequantizeLinear",
        "QuantizeLinear",
        "Split",
    }  # these have tests of their own
