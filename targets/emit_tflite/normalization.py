"""Operators that look along axes: means, softmax, norms, the index of the largest."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.layouts import plain, without
from m4c.targets.emit_tflite.arithmetic import LOGISTIC, TANH, Emit, Writes, fixed
from m4c.targets.emit_tflite.flat import Affine
from m4c.targets.emit_tflite.lowering import Lowering
from m4c.targets.emit_tflite.units import Unit

Op = tfl.BuiltinOperator

LOG_SOFTMAX: Writes = {ir.DataType.INT8: Affine((1 / 16,), (127,))}
"""What LiteRT's LOG_SOFTMAX writes: all logarithms down to -16."""


def reduce(code: int, *, keeps_scale: bool = False) -> Emit:
    """Return the function for a reduction over constant axes; ``keeps_scale``: its int8 kernel does not rescale."""

    def emit(at: Lowering, unit: Unit) -> None:
        rank = len(at.shape(unit.input(0)))
        held = unit.optional(1)
        axes = unit.attribute("axes", None) if held is None else at.values(held, "the axes").tolist()
        axes = [axis % rank for axis in (axes or range(rank))]
        options = tfl.ReducerOptionsT()
        options.keepDims = bool(unit.attribute("keepdims", 1))
        source, layout = at.read(unit.input(0)), at.layout
        where = at.ints(sorted(at.axis(axis) for axis in axes))
        if layout is not None and not options.keepDims:
            layout = without(layout, axes)
        with at.result(unit.outputs[0], at.affine(source) if keeps_scale else None, layout) as target:
            at.emit(code, [source, where], [target], options)

    return emit


def softmax(at: Lowering, unit: Unit) -> None:
    """Softmax is SOFTMAX, which works along the last axis: another one is made the last."""
    options = tfl.SoftmaxOptionsT()
    options.beta = 1.0
    _along_last(at, unit, int(unit.attribute("axis", -1)), Op.SOFTMAX, options, LOGISTIC)


def log_softmax(at: Lowering, unit: Unit) -> None:
    """LogSoftmax is LOG_SOFTMAX, which works along the last axis."""
    options = tfl.LogSoftmaxOptionsT()
    _along_last(at, unit, int(unit.attribute("axis", -1)), Op.LOG_SOFTMAX, options, LOG_SOFTMAX)


def lp_normalization(at: Lowering, unit: Unit) -> None:
    """LpNormalization with p=2 is L2_NORMALIZATION, which works along the last axis."""
    if unit.attribute("p", 2) != 2:
        raise at.refuse(f"p={unit.attribute('p', 2)}", "only p=2 has an operator in TFLite")
    _along_last(at, unit, int(unit.attribute("axis", -1)), Op.L2_NORMALIZATION, tfl.L2NormOptionsT(), TANH)


def arg(code: int, options: Callable[[], Any]) -> Emit:
    """Return the function for ARG_MAX or ARG_MIN with int32 results, and a RESHAPE that keeps the dimension."""

    def emit(at: Lowering, unit: Unit) -> None:
        shape, output = at.shape(unit.input(0)), unit.outputs[0]
        axis = int(unit.attribute("axis", 0)) % len(shape)
        if unit.attribute("select_last_index", 0):
            raise at.refuse("it selects the last of equal values", "TFLite selects the first one")
        chosen = options()
        chosen.outputType = tfl.TensorType.INT32
        source, where = at.read(unit.input(0)), at.ints(np.array(axis))
        with at.result(output) as target:
            if len(at.shape(output)) < len(shape):
                at.emit(code, [source, where], [target], chosen)
                return
            found = at.like("index", [size for d, size in enumerate(shape) if d != axis], target)
            at.emit(code, [source, where], [found], chosen)
            at.emit(Op.RESHAPE, [found, at.ints(shape_of(at, target))], [target], tfl.ReshapeOptionsT())

    return emit


def over_space(code: int, *, keeps_scale: bool = False) -> Emit:
    """Return the function for a pool over all of an image: a reduction over the axes behind the channels."""

    def emit(at: Lowering, unit: Unit) -> None:
        source = at.read(unit.input(0))
        axes = sorted(at.axis(axis) for axis in range(2, len(at.shape(unit.input(0)))))
        options = tfl.ReducerOptionsT()
        options.keepDims = True
        with at.result(unit.outputs[0], at.affine(source) if keeps_scale else None) as target:
            at.emit(code, [source, at.ints(axes)], [target], options)

    return emit


def cum_sum(at: Lowering, unit: Unit) -> None:
    """CumSum along a known axis is CUMSUM."""
    options = tfl.CumsumOptionsT()
    options.exclusive = bool(unit.attribute("exclusive", 0))
    options.reverse = bool(unit.attribute("reverse", 0))
    axis = int(at.values(unit.input(1), "the axis").item()) % len(at.shape(unit.input(0)))
    source = at.read(unit.input(0))
    with at.result(unit.outputs[0]) as target:
        at.emit(Op.CUMSUM, [source, at.ints(np.array(axis))], [target], options)


def layer_normalization(at: Lowering, unit: Unit) -> None:
    """LayerNormalization over the last axis, in float: (x - mean) · rsqrt(variance + epsilon) · scale + bias."""
    shape = at.shape(unit.input(0))
    if int(unit.attribute("axis", -1)) % len(shape) != len(shape) - 1 or len(unit.outputs) != 1:
        raise at.refuse("it is not over the last axis alone", "transpose so that the normalized axis is last")
    ready = _standardized(at, at.read(unit.input(0)), float(unit.attribute("epsilon", 1e-5)))
    _scaled(at, unit, ready)


def shape_of(at: Lowering, index: int) -> tuple[int, ...]:
    """Return the shape of a tensor of the file."""
    return at.flat.tensors[index].shape


def _along_last(at: Lowering, unit: Unit, axis: int, code: int, options: Any, writes: Writes) -> None:
    """Emit an operator that works along the last axis for one that may work along another."""
    rank, home = len(at.shape(unit.outputs[0])), at.home(unit.input(0))
    axis %= rank
    swapped = tuple(rank - 1 if d == axis else axis if d == rank - 1 else d for d in range(rank))
    layout = next(made for made in (home, plain(rank), swapped) if made[-1] == axis)
    source = at.read(unit.input(0), layout)
    with at.result(unit.outputs[0], fixed(at, source, writes), layout) as target:
        at.emit(code, [source], [target], options)


def _standardized(at: Lowering, x: int, epsilon: float) -> int:
    """Return float tensor ``x`` with mean 0 and variance 1 along the last axis."""
    shape = shape_of(at, x)
    column = (*shape[:-1], 1)
    axes = at.ints([len(shape) - 1])

    def mean(source: int, name: str) -> int:
        options = tfl.ReducerOptionsT()
        options.keepDims = True
        made = at.like(name, column, source)
        at.emit(Op.MEAN, [source, axes], [made], options)
        return made

    def step(code: int, name: str, size: Sequence[int], operands: Sequence[int], options: Any = None) -> int:
        made = at.like(name, size, x)
        at.emit(code, operands, [made], options)
        return made

    centred = step(Op.SUB, "centred", shape, [x, mean(x, "mean")], tfl.SubOptionsT())
    squares = step(Op.MUL, "squares", shape, [centred, centred], tfl.MulOptionsT())
    tiny = at.constant(np.array(epsilon, np.float32))
    variance = step(Op.ADD, "variance", column, [mean(squares, "spread"), tiny], tfl.AddOptionsT())
    inverse = step(Op.RSQRT, "inverse", column, [variance])
    return step(Op.MUL, "standard", shape, [centred, inverse], tfl.MulOptionsT())


def _scaled(at: Lowering, unit: Unit, ready: int) -> None:
    """Emit ``ready`` · scale + bias into the unit's output."""
    scale, bias = at.read(unit.input(1)), unit.optional(2)
    with at.result(unit.outputs[0]) as target:
        if bias is None:
            at.emit(Op.MUL, [ready, scale], [target], tfl.MulOptionsT())
            return
        product = at.like("scaled", shape_of(at, target), target)
        at.emit(Op.MUL, [ready, scale], [product], tfl.MulOptionsT())
        at.emit(Op.ADD, [product, at.read(bias)], [target], tfl.AddOptionsT())
