"""The versions that a file asks for, as op_version.cc of LiteRT gives them."""

import onnx_ir as ir
import pytest
from ai_edge_litert import schema_py_generated as tfl

from m4c.targets.emit_tflite.flat import Affine, Tensor
from m4c.targets.emit_tflite.versions import version

Op = tfl.BuiltinOperator
FLOAT, INT8, INT16 = ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.INT16


def tensor(dtype: ir.DataType, rank: int = 4, scale: float = 0.5, channels: int = 1) -> Tensor:
    affine = None if dtype == FLOAT else Affine((scale,) * channels, (0,) * channels, dtype=dtype)
    return Tensor("t", dtype, (2,) * rank, affine)


CASES = [
    (Op.ADD, FLOAT, FLOAT, 4, 1),
    (Op.ADD, INT8, INT8, 4, 2),
    (Op.ADD, INT16, INT16, 4, 3),
    (Op.SUB, FLOAT, FLOAT, 5, 3),
    (Op.FULLY_CONNECTED, FLOAT, FLOAT, 3, 5),
    (Op.FULLY_CONNECTED, FLOAT, INT8, 2, 5),
    (Op.FULLY_CONNECTED, INT8, INT8, 3, 5),
    (Op.FULLY_CONNECTED, INT16, INT8, 3, 11),
    (Op.CONV_2D, INT8, INT8, 4, 3),
    (Op.TRANSPOSE, INT8, INT8, 4, 2),
    (Op.TRANSPOSE, FLOAT, FLOAT, 5, 4),
    (Op.TRANSPOSE, FLOAT, FLOAT, 6, 6),
    (Op.TRANSPOSE, INT16, INT16, 4, 5),
    (Op.RESHAPE, INT8, INT8, 4, 1),
    (Op.BROADCAST_TO, INT8, INT8, 4, 3),
]


@pytest.mark.parametrize(("code", "first", "second", "rank", "expected"), CASES)
def test_versions(code: int, first: ir.DataType, second: ir.DataType, rank: int, expected: int) -> None:
    assert version(code, [tensor(first, rank), tensor(second, rank)], [tensor(first, rank)]) == expected


def test_forms_with_a_version_of_their_own() -> None:
    assert version(Op.QUANTIZE, [tensor(INT8)], [tensor(INT8)]) == 1
    assert version(Op.QUANTIZE, [tensor(INT8)], [tensor(INT16)]) == 2
    assert version(Op.DEQUANTIZE, [tensor(INT8)], [tensor(FLOAT)]) == 2
    assert version(Op.DEQUANTIZE, [tensor(INT8, channels=2)], [tensor(FLOAT)]) == 5
    assert version(Op.FULLY_CONNECTED, [tensor(FLOAT), tensor(INT8, channels=2)], [tensor(FLOAT)]) == 12
    assert version(Op.MUL, [tensor(INT8)] * 2, [tensor(INT8, scale=0.2)]) == 3  # rescales by more than 1
    assert version(Op.MUL, [tensor(INT8)] * 2, [tensor(INT8, scale=0.3)]) == 2
    shape = Tensor("s", ir.DataType.INT32, (4,))
    for dtype, expected in ((FLOAT, 3), (INT8, 3), (INT16, 5)):  # version 3 brought the bias
        assert version(Op.TRANSPOSE_CONV, [shape, *[tensor(dtype)] * 3], [tensor(dtype)]) == expected
    grouped = Tensor("w", FLOAT, (2, 2, 2, 1))
    assert version(Op.CONV_2D, [tensor(FLOAT), grouped], [tensor(FLOAT)]) == 6
    assert version(Op.TRANSPOSE, [Tensor("c", ir.DataType.BOOL, (2, 2))], [tensor(FLOAT)]) == 3
