"""Matrix products: by a stored matrix (FULLY_CONNECTED, which stores it as [N, K]) and of two computed values."""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.targets.emit_tflite.flat import Affine
from m4c.targets.emit_tflite.lowering import KERNEL, TURNED, Lowering
from m4c.targets.emit_tflite.units import Unit, rounded_weight

Op = tfl.BuiltinOperator


def linear(at: Lowering, unit: Unit) -> None:
    """x @ W + b with stored W [K, N] and b [N] is FULLY_CONNECTED, for x of any rank.

    With a float x and integer W the kernel is a hybrid one, which quantizes x by rows to 8 bits at run time.
    """
    x, w = unit.input(0), unit.input(1)
    rows, columns = at.shape(w)
    source, grid = at.read(x), rounded_weight(w)
    weight = (
        at.rounded(grid)
        if grid is not None
        else at.laid_out(w, TURNED, lambda held: held.T, (columns, rows), (1, 0))
    )
    bias = biased(at, unit.optional(2), source, weight, columns)
    options = tfl.FullyConnectedOptionsT()
    options.keepNumDims = True
    options.quantizedBiasType = bias_type(at, source)
    with at.result(unit.outputs[0]) as target:
        at.emit(Op.FULLY_CONNECTED, [source, weight, bias], [target], options)


def convolved(at: Lowering, unit: Unit) -> None:
    """x @ W + b as CONV_2D with a kernel of 1×1, for runtimes whose FULLY_CONNECTED takes a single row.

    The rows of x are a picture of height 1. (Of more, too, where x is one already: [1, H, W, K].)
    """
    x, w = unit.input(0), unit.input(1)
    rows, columns = at.shape(w)
    shape, output = at.shape(x), unit.outputs[0]
    picture = shape if len(shape) == 4 and shape[0] == 1 else (1, 1, prod(shape[:-1]), rows)
    source = _reshaped(at, at.read(x), picture, "picture")
    weight = at.laid_out(
        w, KERNEL, lambda held: held.T.reshape(columns, 1, 1, rows), (columns, 1, 1, rows), (1, 0)
    )
    bias = biased(at, unit.optional(2), source, weight, columns)
    options = tfl.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = int(tfl.Padding.VALID), 1, 1
    options.dilationHFactor, options.dilationWFactor = 1, 1
    options.quantizedBiasType = bias_type(at, source)
    with at.result(output) as target:
        if at.shape(output) == (*picture[:-1], columns):
            at.emit(Op.CONV_2D, [source, weight, bias], [target], options)
            return
        made = at.like("picture", (*picture[:-1], columns), target)
        at.emit(Op.CONV_2D, [source, weight, bias], [made], options)
        reshape = tfl.ReshapeOptionsT()
        reshape.newShape = list(at.shape(output))
        at.emit(Op.RESHAPE, [made, at.ints(at.shape(output))], [target], reshape)


def _reshaped(at: Lowering, source: int, shape: Sequence[int], name: str) -> int:
    """Return tensor ``source`` in another shape."""
    if at.flat.tensors[source].shape == tuple(shape):
        return source
    made = at.like(name, shape, source)
    options = tfl.ReshapeOptionsT()
    options.newShape = list(shape)
    at.emit(Op.RESHAPE, [source, at.ints(shape)], [made], options)
    return made


def biased(at: Lowering, bias: ir.Value | None, source: int, weight: int, channels: int) -> int:
    """Return the tensor of a stored bias, zeros if there is none.

    An integer bias has the scale of the input times that of the weight: LiteRT assumes it, so the model's own is not read.
    """
    if not at.integer:
        return at.constant(np.zeros(channels, np.float32)) if bias is None else at.read(bias)
    inputs, weights = at.affine(source), at.affine(weight)
    assert inputs is not None
    assert weights is not None
    scale = tuple(inputs.scale[0] * w for w in weights.scale)
    affine = Affine(scale, (0,) * len(scale), 0, ir.DataType.INT32)
    if bias is None:
        return at.constant(np.zeros(channels, np.int32), affine)
    carrier = at.plan.carrier[bias]
    if carrier.dtype != ir.DataType.INT32:
        raise at.refuse(
            f"the bias {bias.name} is {carrier.dtype}",
            "quantize it to int32 with the scale of the input times that of the weight",
        )
    return at.laid_out(bias, f"bias.{at.unit.outputs[0].name}", lambda held: held, (channels,), affine=affine)


def bias_type(at: Lowering, source: int) -> int:
    """Return what the options of a kernel say of its bias: int32 if the input is int16, where int64 is usual."""
    wide = at.flat.tensors[source].dtype == ir.DataType.INT16
    return int(tfl.TensorType.INT32 if wide else tfl.TensorType.FLOAT32)


def matmul(at: Lowering, unit: Unit) -> None:
    """MatMul of two values of two dimensions or more is BATCH_MATMUL; leading dimensions broadcast."""
    left, right = unit.input(0), unit.input(1)
    ranks = len(at.shape(left)), len(at.shape(right))
    if min(ranks) < 2 or max(ranks) > 5:
        raise at.refuse(
            f"operands have {ranks[0]} and {ranks[1]} dimensions", "reshape them to two to five dimensions"
        )
    indices = [at.read(left), at.read(right)]
    with at.result(unit.outputs[0]) as target:
        at.emit(Op.BATCH_MATMUL, indices, [target], tfl.BatchMatMulOptionsT())
