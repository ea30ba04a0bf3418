"""Operators that move values without changing them; in int8 they keep the scale of their input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.layouts import channels_last, plain, reshaped
from m4c.targets.emit_tflite.arithmetic import rescaled, scalar
from m4c.targets.emit_tflite.lowering import Lowering
from m4c.targets.emit_tflite.units import Unit
from m4c.weights import small

Op = tfl.BuiltinOperator


def reshape(at: Lowering, unit: Unit) -> None:
    """Reshape (and Squeeze, Unsqueeze, Flatten) is RESHAPE to the shape that inference found."""
    value, output = unit.input(0), unit.outputs[0]
    before, layout = at.shape(value), at.home(value)
    wanted = output in at.towards or layout != plain(len(before))
    after = reshaped(before, layout, at.shape(output), last=wanted)
    if after is None:
        layout, after = plain(len(before)), plain(len(at.shape(output)))
    source = at.read(value, layout)
    with at.result(output, at.affine(source), after) as target:
        options = tfl.ReshapeOptionsT()
        options.newShape = list(at.flat.tensors[target].shape)
        at.emit(Op.RESHAPE, [source, at.ints(options.newShape)], [target], options)


def transpose(at: Lowering, unit: Unit) -> None:
    """Transpose is TRANSPOSE, of up to six dimensions; near convolutions it only says how its result lies."""
    value, output = unit.input(0), unit.outputs[0]
    layout, rank = at.home(value), len(at.shape(value))
    perm = list(unit.attribute("perm", reversed(range(rank))))
    if not output.is_graph_output() and (output in at.towards or layout != plain(rank)):
        at.stand_for(output, at.read(value, layout), tuple(perm.index(axis) for axis in layout))
        return
    if rank > 6:
        raise at.refuse(
            f"it has {rank} dimensions, LiteRT transposes up to 6", "merge dimensions that stay together"
        )
    moved(at, unit, Op.TRANSPOSE, [at.ints(perm)], tfl.TransposeOptionsT())


def concat(at: Lowering, unit: Unit) -> None:
    """Concat is CONCATENATION; int8 operands of other scales are rescaled to the result's."""
    options = tfl.ConcatenationOptionsT()
    options.axis = at.axis(int(unit.attribute("axis", 0)))
    sources = [at.read(unit.input(index)) for index in range(len(unit.inputs))]
    with at.result(unit.outputs[0]) as target:
        parts = [rescaled(at, source, target, f"part{i}") for i, source in enumerate(sources)]
        at.emit(Op.CONCATENATION, parts, [target], options)


def slice_(at: Lowering, unit: Unit) -> None:
    """Slice with constant bounds is SLICE, or STRIDED_SLICE where a step is larger than 1."""
    shape = at.extent(unit.input(0))
    starts = at.values(unit.input(1), "the start")
    axes_value, steps_value = unit.optional(3), unit.optional(4)
    axes = range(starts.size) if axes_value is None else at.values(axes_value, "the axis").tolist()
    steps = [1] * starts.size if steps_value is None else at.values(steps_value, "the step").tolist()
    if min(steps, default=1) < 1:
        raise at.refuse("it has a negative step", "gather the values by constant indices instead")
    at.values(unit.input(2), "the end")
    begin, strides = [0] * len(shape), [1] * len(shape)
    for axis, start, step in zip(axes, starts.tolist(), steps, strict=True):
        place = at.axis(axis)
        size = shape[place]
        begin[place], strides[place] = min(max(start + size if start < 0 else start, 0), size), step
    source, output = at.read(unit.input(0)), unit.outputs[0]
    if max(strides, default=1) == 1:
        _slice(at, source, begin, at.extent(output), output)
        return
    _five(at, shape)
    options = tfl.StridedSliceOptionsT()
    ends = [
        first + (size - 1) * step + 1
        for first, size, step in zip(begin, at.extent(output), strides, strict=True)
    ]
    with at.result(output, at.affine(source)) as target:
        at.emit(Op.STRIDED_SLICE, [source, *map(at.ints, (begin, ends, strides))], [target], options)


def gather(at: Lowering, unit: Unit) -> None:
    """Gather by one constant index is SLICE and RESHAPE, by anything else GATHER."""
    shape, indices = at.shape(unit.input(0)), unit.input(1)
    axis = int(unit.attribute("axis", 0)) % len(shape)
    held = small(indices)
    if held is not None and held.ndim == 0:
        begin = [0] * len(shape)
        begin[axis] = int(held) % shape[axis]
        _cut(at, unit, begin, [1 if d == axis else size for d, size in enumerate(shape)])
        return
    options = tfl.GatherOptionsT()
    options.axis = axis
    ids = at.read(indices) if held is None else at.ints(held % shape[axis])
    moved(at, unit, Op.GATHER, [ids], options)


def gather_nd(at: Lowering, unit: Unit) -> None:
    """GatherND without batch dimensions is GATHER_ND."""
    if unit.attribute("batch_dims", 0):
        raise at.refuse("it has batch dimensions", "gather by an axis, or put the batch in the indices")
    moved(at, unit, Op.GATHER_ND, [at.read(unit.input(1))], tfl.GatherNdOptionsT())


def gather_elements(at: Lowering, unit: Unit) -> None:
    """GatherElements along the last axis, of indices that go through all others, is GATHER with batch dimensions."""
    data, indices = at.shape(unit.input(0)), at.shape(unit.input(1))
    last = len(data) - 1
    if int(unit.attribute("axis", 0)) % len(data) != last:
        raise at.refuse("it is not along the last axis", "transpose so that what is gathered is last")
    if data[:last] != indices[:last]:
        raise at.refuse(
            f"its indices go through {list(indices[:last])} of {list(data[:last])}", "slice the data before"
        )
    options = tfl.GatherOptionsT()
    options.axis = options.batchDims = last
    held = small(unit.input(1))
    ids = at.read(unit.input(1)) if held is None else at.ints(held % data[last])
    moved(at, unit, Op.GATHER, [ids], options)


def pad(at: Lowering, unit: Unit) -> None:
    """Pad by a constant is PAD (zeros) or PADV2, by what lies inside MIRROR_PAD."""
    mode, rank = unit.attribute("mode", "constant"), len(at.shape(unit.input(0)))
    held = at.values(unit.input(1), "how much to pad").reshape(2, -1).T
    axes = unit.optional(3)
    places = range(rank) if axes is None else (at.values(axes, "the axes") % rank).tolist()
    if mode not in ("constant", "reflect") or (held < 0).any() or rank > 5:
        raise at.refuse(
            f"it pads {rank} dimensions by {held.tolist()} in mode {mode}",
            "pad up to 5 dimensions by no less than 0, in mode constant or reflect; slice what is to be cut",
        )
    pads = np.zeros((rank, 2), np.int32)
    for axis, sizes in zip(places, held, strict=True):
        pads[at.axis(axis)] = sizes
    if mode == "reflect":
        moved(at, unit, Op.MIRROR_PAD, [at.ints(pads)], tfl.MirrorPadOptionsT())
        return
    value = unit.optional(2)
    number = 0.0 if value is None else float(at.values(value, "what to pad by").item())
    if number == 0:
        moved(at, unit, Op.PAD, [at.ints(pads)], tfl.PadOptionsT())
        return
    source = at.read(unit.input(0))
    fill = scalar(at, number, source)
    with at.result(unit.outputs[0], at.affine(source)) as target:
        at.emit(Op.PADV2, [source, at.ints(pads), fill], [target], tfl.PadV2OptionsT())


def depth_to_space(at: Lowering, unit: Unit) -> None:
    """DepthToSpace is DEPTH_TO_SPACE; where a channel's values lie beside one another (CRD), channels are gathered first."""
    block, shape = int(unit.attribute("blocksize", 1)), at.shape(unit.input(0))
    source = at.read(unit.input(0), channels_last(len(shape)))
    if unit.attribute("mode", "DCR") == "CRD":
        order = np.arange(shape[1]).reshape(-1, block * block).T.ravel()
        options = tfl.GatherOptionsT()
        options.axis = 3
        turned = at.like("blocks", at.flat.tensors[source].shape, source)
        at.emit(Op.GATHER, [source, at.ints(order)], [turned], options)
        source = turned
    options = tfl.DepthToSpaceOptionsT()
    options.blockSize = block
    with at.result(unit.outputs[0], at.affine(source), channels_last(len(shape))) as target:
        at.emit(Op.DEPTH_TO_SPACE, [source], [target], options)


def expand(at: Lowering, unit: Unit) -> None:
    """Expand is BROADCAST_TO."""
    moved(at, unit, Op.BROADCAST_TO, [at.ints(at.shape(unit.outputs[0]))], tfl.BroadcastToOptionsT())


def split(at: Lowering, unit: Unit) -> None:
    """Split is one SLICE for each part, so that each may have its own scale afterwards."""
    shape, axis = at.shape(unit.input(0)), at.axis(int(unit.attribute("axis", 0)))
    start = 0
    for output in unit.outputs:
        begin = [start if d == axis else 0 for d in range(len(shape))]
        size = at.extent(output)
        _slice(at, at.read(unit.input(0)), begin, size, output)
        start += size[axis]


def moved(at: Lowering, unit: Unit, code: int, rest: Sequence[int], options: Any) -> None:
    """Emit an operator whose result has the scale of its first input."""
    source = at.read(unit.input(0))
    with at.result(unit.outputs[0], at.affine(source)) as target:
        at.emit(code, [source, *rest], [target], options)


def _cut(at: Lowering, unit: Unit, begin: Sequence[int], size: Sequence[int]) -> None:
    """Emit SLICE and RESHAPE: the result has fewer dimensions than the slice."""
    source, output = at.read(unit.input(0)), unit.outputs[0]
    shape = at.shape(output)
    options = tfl.ReshapeOptionsT()
    options.newShape = list(shape)
    with at.result(output, at.affine(source)) as target:
        part = at.like("slice", size, source)
        at.emit(Op.SLICE, [source, at.ints(begin), at.ints(size)], [part], tfl.SliceOptionsT())
        at.emit(Op.RESHAPE, [part, at.ints(shape)], [target], options)


def _slice(at: Lowering, source: int, begin: Sequence[int], size: Sequence[int], output: ir.Value) -> None:
    """Emit SLICE, of up to five dimensions."""
    _five(at, size)
    with at.result(output, at.affine(source)) as target:
        at.emit(Op.SLICE, [source, at.ints(np.array(begin)), at.ints(size)], [target], tfl.SliceOptionsT())


def _five(at: Lowering, shape: Sequence[int]) -> None:
    """Refuse to slice more than five dimensions."""
    if len(shape) > 5:
        raise at.refuse(
            f"it has {len(shape)} dimensions, LiteRT slices up to 5", "merge dimensions before slicing"
        )
