"""Which version of an operator a file asks for: the first one that has the form in use.

A runtime that is too old then refuses the file by name instead of computing something else. The numbers are those of
``tflite/tools/versioning/op_version.cc`` in LiteRT.
"""

from ai_edge_litert import schema_py_generated as tfl

Op = tfl.BuiltinOperator

FLOAT = {Op.BROADCAST_TO: 2, Op.FULLY_CONNECTED: 5}
"""BROADCAST_TO begins at version 2; FULLY_CONNECTED keeps the leading dimensions of its input since version 5."""

INTEGER = {
    Op.CONV_2D: 3,
    Op.DEPTHWISE_CONV_2D: 3,
    Op.FULLY_CONNECTED: 5,
    Op.QUANTIZE: 2,
    Op.RESHAPE: 1,
    Op.SELECT_V2: 1,
    Op.BROADCAST_TO: 2,
}
"""Most operators learnt int8 in version 2; these did not."""

LARGE_RANK = {Op.SUB: 3, Op.DIV: 2, Op.SLICE: 5, Op.TRANSPOSE: 4, Op.STRIDED_SLICE: 4}
"""Operators that take more than four dimensions since a later version."""


def version(code: int, *, integer: bool, rank: int) -> int:
    """Return the version of operator ``code`` for int8 (``integer``) or other data of up to ``rank`` dimensions."""
    needed = INTEGER.get(code, 2) if integer else FLOAT.get(code, 1)
    return max(needed, LARGE_RANK.get(code, 1)) if rank > 4 else needed
