"""Which version of an operator a file asks for: the first one that has the form in use.

A runtime that is too old then refuses the file by name instead of computing something else. The numbers are those of
``tflite/tools/versioning/op_version.cc`` in LiteRT.
"""

from collections.abc import Sequence

import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.targets.emit_tflite.flat import Grouped, Tensor

Op = tfl.BuiltinOperator
INT8, INT16 = ir.DataType.INT8, ir.DataType.INT16

FLOAT = {Op.BROADCAST_TO: 2, Op.FULLY_CONNECTED: 5}
"""BROADCAST_TO begins at version 2; FULLY_CONNECTED keeps the leading dimensions of its input since version 5."""

ALIKE = (Op.NEG, Op.DIV, Op.GATHER_ND, Op.QUANTIZE, Op.RESHAPE, Op.SELECT_V2, Op.SQRT)
"""Operators that took int8 from the start."""

NARROW = {
    **dict.fromkeys(ALIKE, 1),
    Op.BROADCAST_TO: 3,
    Op.CONV_2D: 3,
    Op.DEPTHWISE_CONV_2D: 3,
    Op.FULLY_CONNECTED: 5,
    Op.LEAKY_RELU: 1,
    Op.PRELU: 1,
}
"""For int8; the operators that are not listed learnt it in version 2."""

WIDE = {
    **dict.fromkeys((*ALIKE, Op.GELU, Op.SUM, Op.ARG_MAX), 1),
    Op.ADD: 3,
    Op.CONV_2D: 8,
    Op.EQUAL: 4,
    Op.EXP: 2,
    Op.FULLY_CONNECTED: 11,
    Op.GATHER: 4,
    Op.GATHER_ND: 3,
    Op.LEAKY_RELU: 2,
    Op.MAXIMUM: 4,
    Op.MINIMUM: 4,
    Op.MUL: 4,
    Op.RESIZE_BILINEAR: 4,
    Op.RESIZE_NEAREST_NEIGHBOR: 4,
    Op.SLICE: 4,
    Op.STRIDED_SLICE: 4,
    Op.SUB: 5,
    Op.TRANSPOSE: 5,
}
"""For int16 (FULLY_CONNECTED and CONV_2D: with an int32 bias); those that are not listed learnt it in version 3."""

LARGE_RANK = {
    **dict.fromkeys((Op.PAD, Op.PADV2, Op.STRIDED_SLICE, Op.TRANSPOSE), 4),
    Op.DIV: 2,
    Op.MAXIMUM: 3,
    Op.MINIMUM: 3,
    Op.SLICE: 5,
    Op.SUB: 3,
}
"""Operators that take more than four dimensions since a later version."""


def version(code: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    """Return the version of operator ``code`` that takes these tensors."""
    first = inputs[0]
    match first.dtype:
        case ir.DataType.INT8:
            needed = NARROW.get(code, 2)
        case ir.DataType.INT16:
            needed = WIDE.get(code, 3)
        case _:
            needed = FLOAT.get(code, 1)
    if max(len(tensor.shape) for tensor in inputs) > 4:
        needed = max(needed, LARGE_RANK.get(code, 1))
    return max(needed, _special(code, inputs, outputs))


def _special(code: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    """Return the version that a form of a few operators needs beyond its type and rank."""
    first, last = inputs[0].affine, inputs[-1].affine
    match code:
        case Op.TRANSPOSE if len(inputs[0].shape) > 5:
            return 6
        case Op.TRANSPOSE if inputs[0].dtype == ir.DataType.BOOL:
            return 3
        case Op.QUANTIZE if outputs[0].dtype == INT16:
            return 2
        case Op.DEQUANTIZE if inputs[0].dtype == ir.DataType.FLOAT16:
            return 3
        case Op.DEQUANTIZE if first is not None and not first.per_tensor:
            return 5
        case Op.FULLY_CONNECTED if inputs[1].weights is not None:
            return 13 if isinstance(inputs[1].weights, Grouped) else 12
        case Op.FULLY_CONNECTED if first is None and inputs[1].affine is not None:
            return 3 if inputs[1].affine.per_tensor else 12
        case Op.CONV_2D if inputs[1].shape[3] != inputs[0].shape[3]:
            return 6
        case Op.TRANSPOSE_CONV:  # with a bias; its first input is a shape
            return 5 if inputs[2].dtype == INT16 else 3
        case Op.MUL if first is not None and last is not None and first.dtype == INT8:
            scale = outputs[0].affine.scale[0] if outputs[0].affine is not None else 0.0
            return 3 if first.scale[0] * last.scale[0] >= scale else 2
    return 1
