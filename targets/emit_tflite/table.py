"""The one table of what the emitter knows: for each operator of the canonical set, the function that emits it."""

from collections.abc import Collection, Mapping

import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.targets.emit_tflite import (
    arithmetic,
    convolution,
    embedding,
    linear,
    normalization,
    pooling,
    shape,
)
from m4c.targets.emit_tflite.arithmetic import LOGISTIC, TANH, Emit, binary, unary
from m4c.targets.emit_tflite.normalization import reduce

Op = tfl.BuiltinOperator

EMIT: dict[str, Emit] = {
    "Abs": unary(Op.ABS),
    "Add": binary(Op.ADD, tfl.AddOptionsT),
    "And": binary(Op.LOGICAL_AND),
    "ArgMax": normalization.arg(Op.ARG_MAX, tfl.ArgMaxOptionsT),
    "ArgMin": normalization.arg(Op.ARG_MIN, tfl.ArgMinOptionsT),
    "AveragePool": pooling.average_pool,
    "Bilinear": convolution.bilinear,
    "Cast": arithmetic.cast,
    "Clip": arithmetic.clip,
    "Concat": shape.concat,
    "Conv": convolution.conv,
    "ConvTranspose": convolution.conv_transpose,
    "Cos": unary(Op.COS),
    "CumSum": normalization.cum_sum,
    "DepthToSpace": shape.depth_to_space,
    "DequantizeLinear": embedding.dequantize,
    "Div": binary(Op.DIV, tfl.DivOptionsT),
    "Equal": binary(Op.EQUAL),
    "Exp": unary(Op.EXP),
    "Expand": shape.expand,
    "Flatten": shape.reshape,
    "Gather": shape.gather,
    "GatherElements": shape.gather_elements,
    "GatherND": shape.gather_nd,
    "Gelu": arithmetic.gelu,
    "GlobalAveragePool": normalization.over_space(Op.MEAN),
    "GlobalMaxPool": normalization.over_space(Op.REDUCE_MAX, keeps_scale=True),
    "Greater": binary(Op.GREATER),
    "GreaterOrEqual": binary(Op.GREATER_EQUAL),
    "IsNaN": arithmetic.is_nan,
    "LayerNormalization": normalization.layer_normalization,
    "LeakyRelu": arithmetic.leaky_relu,
    "Less": binary(Op.LESS),
    "LessOrEqual": binary(Op.LESS_EQUAL),
    "Linear": linear.linear,
    "Log": unary(Op.LOG),
    "LogSoftmax": normalization.log_softmax,
    "LpNormalization": normalization.lp_normalization,
    "MatMul": linear.matmul,
    "Max": arithmetic.extreme(Op.MAXIMUM),
    "MaxPool": pooling.max_pool,
    "Min": arithmetic.extreme(Op.MINIMUM),
    "Mul": binary(Op.MUL, tfl.MulOptionsT),
    "Neg": arithmetic.neg,
    "Not": unary(Op.LOGICAL_NOT),
    "Or": binary(Op.LOGICAL_OR),
    "PRelu": arithmetic.p_relu,
    "Pad": shape.pad,
    "Pow": binary(Op.POW, tfl.PowOptionsT),
    "QuantizeLinear": arithmetic.quantize,
    "Reciprocal": arithmetic.reciprocal,
    "ReduceMax": reduce(Op.REDUCE_MAX, keeps_scale=True),
    "ReduceMean": reduce(Op.MEAN),
    "ReduceSum": reduce(Op.SUM),
    "Relu": unary(Op.RELU),
    "Reshape": shape.reshape,
    "Resize": convolution.resize,
    "Round": unary(Op.ROUND),
    "Rsqrt": arithmetic.rsqrt,
    "Sigmoid": unary(Op.LOGISTIC, writes=LOGISTIC),
    "Sin": unary(Op.SIN),
    "Slice": shape.slice_,
    "Softmax": normalization.softmax,
    "Split": shape.split,
    "Sqrt": unary(Op.SQRT),
    "Square": arithmetic.square,
    "Squeeze": shape.reshape,
    "Sub": binary(Op.SUB, tfl.SubOptionsT),
    "Tanh": unary(Op.TANH, writes=TANH),
    "Transpose": shape.transpose,
    "Unsqueeze": shape.reshape,
    "Where": arithmetic.where,
    "Whole": arithmetic.whole,
}
"""By operator type; ``Bilinear``, ``Linear``, ``Rsqrt``, ``Square`` and ``Whole`` are units of
:mod:`m4c.targets.emit_tflite.units`.
"""

CONVOLVED: dict[str, Emit] = {**EMIT, "Linear": linear.convolved}
"""The same for a runtime whose FULLY_CONNECTED takes a single row: every product by a stored matrix is a convolution."""


def operators_for(rewrites: Collection[str]) -> Mapping[str, Emit]:
    """Return how operators are written for a target whose profile names ``rewrites``."""
    return CONVOLVED if "linear" in rewrites else EMIT


FLOAT_ONLY = frozenset(
    {
        "Cast",
        "Cos",
        "CumSum",
        "DequantizeLinear",
        "Div",
        "LayerNormalization",
        "Log",
        "Pow",
        "Reciprocal",
        "Round",
        "Sin",
        "Whole",
    }
)
"""Operators without an int8 kernel: they compute in float between their pairs. (CAST would ignore the scale.)

DIV of ai-edge-litert 2.3 has one that shifts by more than 31 bits where a quotient is small: up to 128 steps off.
"""

COARSE = frozenset({"Bilinear", "Rsqrt", "Softmax"})
"""Operators whose int16 kernels interpolate a table too coarsely, so that they compute in float between their pairs.

On Whisper tiny.en's encoder, RSQRT is off by 900 steps (root mean square) and SOFTMAX over 1500 keys by 28, up to 2720.
RESIZE_BILINEAR weighs in ten bits.
"""

NARROW_ONLY = (
    frozenset(
        {
            "ArgMax",
            "ArgMin",
            "DepthToSpace",
            "Equal",
            "Greater",
            "GreaterOrEqual",
            "IsNaN",
            "Less",
            "LessOrEqual",
            "LogSoftmax",
            "LpNormalization",
            "PRelu",
        }
    )
    | COARSE
)
"""Operators with an int8 kernel but none for int16 that could be used. (Comparisons of int16 ignore the scales.)"""

INTEGER = {
    ir.DataType.INT8: frozenset(EMIT) - FLOAT_ONLY,
    ir.DataType.INT16: frozenset(EMIT) - FLOAT_ONLY - NARROW_ONLY,
}
"""The operators that LiteRT has an integer kernel for, by the type of the activations; tests run each of them."""

MIXED = frozenset(
    {
        "Clip",
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Max",
        "Min",
        "Pad",
        "ReduceMax",
        "Reshape",
        "Resize",
    }
    | {"Sigmoid", "Slice", "Split", "Squeeze", "Tanh", "Transpose", "Unsqueeze", "Where"}
)
"""Operators that are rescaled to the width of their result; the kernels of all others read and write one width."""

CHANNELS_LAST = frozenset({"AveragePool", "Conv", "ConvTranspose", "DepthToSpace", "MaxPool", "Resize"})
"""Operators that want the channels of images last."""

ALONG_LAST = frozenset({"LogSoftmax", "LpNormalization", "Softmax"})
"""Operators whose kernels work along the last axis alone."""

FOLLOWS = frozenset(
    {"Abs", "Add", "And", "Cast", "Clip", "Concat", "Cos", "Div", "Equal", "Exp", "Gelu", "Greater"}
    | {
        "GlobalAveragePool",
        "GlobalMaxPool",
        "GreaterOrEqual",
        "IsNaN",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "Log",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "PRelu",
        "Pad",
        "Pow",
        "QuantizeLinear",
    }
    | {
        "Reciprocal",
        "ReduceMax",
        "ReduceMean",
        "ReduceSum",
        "Relu",
        "Round",
        "Rsqrt",
        "Sigmoid",
        "Sin",
        "Slice",
    }
    | {"Split", "Sqrt", "Square", "Sub", "Tanh", "Where"}
)
"""Operators that take any layout, one for all that they read and write."""
