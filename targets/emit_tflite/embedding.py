"""Rows of a quantized table: gathered as integers, with their scales, and made floats then."""

from ai_edge_litert import schema_py_generated as tfl

from m4c.targets.emit_tflite.lowering import Lowering
from m4c.targets.emit_tflite.units import Unit

Op = tfl.BuiltinOperator


def dequantize(at: Lowering, unit: Unit) -> None:
    """DequantizeLinear of gathered rows by gathered scales, one a row, is CAST and MUL."""
    codes, scales, output = unit.input(0), unit.input(1), unit.outputs[0]
    shape = at.shape(codes)
    last = int(unit.attribute("axis", 1)) % len(shape) == len(shape) - 1
    if len(unit.inputs) > 2 or not last or at.shape(scales) != (*shape[:-1], 1):
        raise at.refuse("it has zero points, or not one scale a row", "quantize the table by rows, around 0")
    factors = at.read(scales)
    options = tfl.CastOptionsT()
    options.inDataType, options.outDataType = tfl.TensorType.INT8, tfl.TensorType.FLOAT32
    with at.result(output) as target:
        floats = at.like("floats", shape, target)
        at.emit(Op.CAST, [at.read(codes)], [floats], options)
        at.emit(Op.MUL, [floats, factors], [target], tfl.MulOptionsT())
