"""The largest value or the mean under a window that moves over signals, images and volumes."""

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.layouts import channels_last
from m4c.targets.emit_tflite.convolution import (
    Sizes,
    Window,
    as_image,
    from_image,
    image,
    padded,
    reshaped,
    window_of,
)
from m4c.targets.emit_tflite.lowering import Array, Lowering
from m4c.targets.emit_tflite.units import Unit
from m4c.weights import small

Op = tfl.BuiltinOperator
NOT_NEGATIVE = ("Relu", "Sigmoid")
"""Operators whose results are 0 or more: padding with zeros changes no maximum of them."""


def max_pool(at: Lowering, unit: Unit) -> None:
    """MaxPool is MAX_POOL_2D; of a volume one over height and width and, if that is left, one over depth."""
    if any(output.uses() or output.is_graph_output() for output in unit.outputs[1:]):
        raise at.refuse("the places of the values are used", "compute them by ArgMax")
    window, output = _reached(at, unit, _asked(at, unit)), unit.outputs[0]
    source = as_image(at, unit.input(0))
    with (
        at.result(output, at.affine(source), channels_last(len(at.shape(output)))) as target,
        from_image(at, target) as made,
    ):
        if len(window.size) == 3:
            _volume(at, source, window, made, _not_negative(unit.input(0)))
        else:
            _largest(at, source, window, made, _not_negative(unit.input(0)))


def average_pool(at: Lowering, unit: Unit) -> None:
    """AveragePool is AVERAGE_POOL_2D, whose padding never counts; where it does, zeros come before."""
    asked, output = _asked(at, unit), unit.outputs[0]
    window = _reached(at, unit, asked)
    if len(window.size) == 3:
        raise at.refuse("TFLite has no mean under a window of a volume", "take the mean of its planes first")
    if any(reached > pad for reached, pad in zip(window.after, asked.after, strict=True)):
        raise at.refuse("its last window reaches beyond the padding", "use ceil_mode=0, or a Pad before it")
    counts = bool(unit.attribute("count_include_pad", 0)) and any((*window.before, *window.after))
    source = as_image(at, unit.input(0))
    size = at.flat.tensors[source].shape[1:-1]
    named = None if counts else window.padding(size)
    with (
        at.result(output, at.affine(source), channels_last(len(at.shape(output)))) as target,
        from_image(at, target) as made,
    ):
        if named is not None:
            _pool(at, Op.AVERAGE_POOL_2D, source, window, named, made)
            return
        source, valid = padded(at, source, window), int(tfl.Padding.VALID)
        if counts:
            _pool(at, Op.AVERAGE_POOL_2D, source, window, valid, made)
            return
        if at.integer:
            raise at.refuse(
                "its padding does not count and is not TFLite's",
                "use count_include_pad=1, or leave it in float",
            )
        sums = at.like("padded_mean", at.flat.tensors[made].shape, made)
        _pool(at, Op.AVERAGE_POOL_2D, source, window, valid, sums)
        share = at.constant(_shares(window, size, at.flat.tensors[made].shape[1:-1]))
        at.emit(Op.MUL, [sums, share], [made], tfl.MulOptionsT())


def _asked(at: Lowering, unit: Unit) -> Window:
    """Return the window of a pool as its attributes say, or refuse what no pool of TFLite has."""
    rank = len(at.shape(unit.input(0)))
    if not 3 <= rank <= 5:
        raise at.refuse(f"its input has {rank} dimensions", "reshape it to an image [N, C, H, W]")
    window = window_of(at, unit, unit.attribute("kernel_shape", ()))
    if any(d > 1 and k > 1 for d, k in zip(window.dilations, window.size, strict=True)):
        raise at.refuse(
            f"TFLite's pools have no dilation, and this has {list(window.dilations)}", "use a dilation of 1"
        )
    return window


def _reached(at: Lowering, unit: Unit, window: Window) -> Window:
    """Return ``window`` padded at the end as far as its last place reaches: less than asked, or more if sizes are rounded up.

    A place behind the last value is refused: shape inference counts it where sizes are rounded up, runtimes do not.
    """
    sizes, made = image(at.shape(unit.input(0))[2:]), image(at.shape(unit.outputs[0])[2:])
    ends = []
    for axis, extent in enumerate(sizes):
        begin = (made[axis] - 1) * window.strides[axis] - window.before[axis]
        if begin >= extent:
            raise at.refuse("its last window holds nothing but padding", "use ceil_mode=0")
        ends.append(max(begin + window.size[axis] - extent, 0))
    return replace(window, after=tuple(ends))


def _volume(at: Lowering, source: int, window: Window, made: int, positive: bool) -> None:
    """Emit the largest values of a volume [N, D, H, W, C] into ``made``: depths as samples, then planes as columns."""
    n, depth, *size, channels = at.flat.tensors[source].shape
    wanted = at.flat.tensors[made].shape
    deep, flat = (_axes(window, part) for part in (slice(0, 1), slice(1, 3)))
    planes = reshaped(at, source, (n * depth, *size, channels), "planes")
    found = at.like("plane", (n * depth, *wanted[2:]), source)
    _largest(at, planes, flat, found, positive)
    if deep.size == deep.strides == (1,):
        _into(at, found, made)
        return
    columns = math.prod(wanted[2:4])
    one = Window(*((*part, fill) for part, fill in zip(_fields(deep), (1, 1, 1, 0, 0), strict=True)))
    deepest = at.like("depth", (n, wanted[1], columns, channels), source)
    _largest(at, reshaped(at, found, (n, depth, columns, channels), "columns"), one, deepest, positive)
    _into(at, deepest, made)


def _fields(window: Window) -> tuple[Sizes, ...]:
    return window.size, window.strides, window.dilations, window.before, window.after


def _axes(window: Window, part: slice) -> Window:
    """Return a window over some of the axes."""
    return Window(*(sizes[part] for sizes in _fields(window)))


def _into(at: Lowering, source: int, made: int) -> None:
    """Emit RESHAPE of tensor ``source`` into tensor ``made``."""
    options = tfl.ReshapeOptionsT()
    options.newShape = list(at.flat.tensors[made].shape)
    at.emit(Op.RESHAPE, [source, at.ints(options.newShape)], [made], options)


def _largest(at: Lowering, source: int, window: Window, made: int, positive: bool) -> None:
    """Emit MAX_POOL_2D; padding that TFLite has no name for comes before, below every value."""
    padding = window.padding(at.flat.tensors[source].shape[1:-1])
    if padding is None:
        fill = None if positive else _lowest(at, source)
        source, padding = padded(at, source, window, fill), int(tfl.Padding.VALID)
    _pool(at, Op.MAX_POOL_2D, source, window, padding, made)


def _pool(at: Lowering, code: int, source: int, window: Window, padding: int, made: int) -> None:
    options = tfl.Pool2DOptionsT()
    options.padding = padding
    options.filterHeight, options.filterWidth = window.size
    options.strideH, options.strideW = window.strides
    at.emit(code, [source], [made], options)


def _lowest(at: Lowering, index: int) -> int:
    """Return a constant of the least number that tensor ``index`` can hold."""
    affine = at.affine(index)
    if affine is None:
        return at.constant(np.array(-np.inf, np.float32))
    return at.constant(np.array(np.iinfo(affine.dtype.numpy()).min, affine.dtype.numpy()), affine)


def _not_negative(value: ir.Value) -> bool:
    """Return whether ``value`` holds no negative number, told by the operator that makes it."""
    producer = value.producer()
    while producer is not None and producer.op_type in ("DequantizeLinear", "QuantizeLinear", "MaxPool"):
        made = producer.inputs[0]
        producer = made.producer() if made is not None else None
    if producer is None:
        return False
    if producer.op_type == "Clip":
        low = small(producer.inputs[1]) if len(producer.inputs) > 1 else None
        return low is not None and float(low.item()) >= 0
    return producer.op_type in NOT_NEGATIVE


def _shares(window: Window, size: Sizes, made: Sizes) -> Array:
    """Return by what a mean over zeros too is multiplied to be one over the image: [height, width, 1]."""
    axes = []
    for axis in (0, 1):
        starts = np.arange(made[axis]) * window.strides[axis] - window.before[axis]
        inside = np.minimum(starts + window.size[axis], size[axis]) - np.maximum(starts, 0)
        axes.append(window.size[axis] / inside)
    return np.asarray(np.multiply.outer(*axes)[..., None], np.float32)
