"""Operators that move values without changing them; in int8 they keep the scale of their input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.layouts import plain, reshaped
from m4c.targets.emit_tflite.arithmetic import rescaled
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
    """Slice with constant bounds and step 1 is SLICE."""
    shape = at.extent(unit.input(0))
    starts = at.values(unit.input(1), "the start")
    axes_value, steps_value = unit.optional(3), unit.optional(4)
    axes = range(starts.size) if axes_value is None else at.values(axes_value, "the axis").tolist()
    if steps_value is not None and (at.values(steps_value, "the step") != 1).any():
        raise at.refuse("it has a step other than 1", "gather the values by constant indices instead")
    at.values(unit.input(2), "the end")
    begin = [0] * len(shape)
    for axis, start in zip(axes, starts.tolist(), strict=True):
        place = at.axis(axis)
        size = shape[place]
        begin[place] = min(max(start + size if start < 0 else start, 0), size)
    _slice(at, at.read(unit.input(0)), begin, at.extent(unit.outputs[0]), unit.outputs[0])


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
    if len(size) > 5:
        raise at.refuse(
            f"it has {len(size)} dimensions, LiteRT slices up to 5", "merge dimensions before slicing"
        )
    with at.result(output, at.affine(source)) as target:
        at.emit(Op.SLICE, [source, at.ints(np.array(begin)), at.ints(size)], [target], tfl.SliceOptionsT())
