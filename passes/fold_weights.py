"""Fold arithmetic on weights into their recipes.

What a model computes from weights alone (a transposed matrix, a position table plus a class token, a sum over the two frames
of a still image) is the same at every call. The optimizer may not fold it, as that would read weights now; here it becomes a
recipe, evaluated once, when the artifact is written.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import fresh_name, module_path, value_names
from m4c.passes.properties import typed
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import attribute, static
from m4c.weights import (
    Array,
    Folded,
    Sliced,
    Transposed,
    array,
    is_weight,
    lazy,
    part,
    register,
    small,
    stored,
    stored_value,
)

GROWN_BYTES = 1 << 19
"""What is larger than all that it is made of is folded up to this size: 128 equal rows of a table of token types, say."""

SHARED_BYTES = 1 << 20
"""A weight that is stored anyhow is folded only into results up to this size: the rest would be stored twice."""

Evaluate = Callable[..., Array]


def _slice(node: ir.Node) -> Evaluate:
    """Slice(data, starts, ends, axes, steps)."""

    def evaluate(
        data: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None
    ) -> Array:
        index: list[Any] = [slice(None)] * data.ndim
        for i, axis in enumerate(range(len(starts)) if axes is None else axes):
            step = 1 if steps is None else int(steps[i])
            index[int(axis)] = _clamped(int(starts[i]), int(ends[i]), step, data.shape[int(axis)])
        return np.asarray(data[tuple(index)])

    return evaluate


def _clamped(start: int, end: int, step: int, size: int) -> slice:
    """Return the slice of an axis as ONNX clamps it: backwards, a start before the axis is its first element."""
    start, end = (n + size if n < 0 else n for n in (start, end))
    if step > 0:
        return slice(max(start, 0), max(end, 0), step)
    return slice(min(max(start, 0), size - 1), end if end >= 0 else None, step)


def _reshape(node: ir.Node) -> Evaluate:
    """Reshape to the static shape that inference found."""
    shape = static(node.outputs[0])
    return lambda data, *_: data.reshape(shape)


def _clip(data: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """Clip(data, min, max), either of which may be absent."""
    return np.asarray(data if low is None and high is None else np.clip(data, low, high))


def _reduce(kind: Callable[..., Array]) -> Callable[[ir.Node], Evaluate]:
    """ReduceSum and its like: axes as an input; without any, all axes, or none if the node says so."""

    def make(node: ir.Node) -> Evaluate:
        keep, nothing = bool(attribute(node, "keepdims", 1)), attribute(node, "noop_with_empty_axes", 0)

        def evaluate(data: Array, axes: Array | None = None) -> Array:
            chosen = None if axes is None or not axes.size else tuple(int(a) for a in axes)
            if chosen is None and nothing:
                return data
            return kind(data, axis=chosen, keepdims=keep, dtype=data.dtype)

        return evaluate

    return make


def _divide(data: Array, divisor: Array) -> Array:
    """Div: integers are rounded towards zero."""
    if data.dtype.kind in "iu":
        return np.asarray(np.sign(data) * np.sign(divisor) * (np.abs(data) // np.abs(divisor)))
    return np.asarray(np.divide(data, divisor))


def _plain(function: Evaluate) -> Callable[[ir.Node], Evaluate]:
    """Return a maker for an operator without attributes."""
    return lambda node: function


def _gather_elements(node: ir.Node) -> Evaluate:
    """GatherElements(data, indices)."""
    axis = attribute(node, "axis", 0)
    return lambda data, ids: np.take_along_axis(data, ids % data.shape[axis], axis)


def _scatter_elements(node: ir.Node) -> Evaluate:
    """ScatterElements(data, indices, updates) without a reduction."""
    axis = attribute(node, "axis", 0)

    def evaluate(data: Array, ids: Array, updates: Array) -> Array:
        made = data.copy()
        np.put_along_axis(made, ids % data.shape[axis], updates, axis)
        return made

    return evaluate


def _scatter_nd(data: Array, ids: Array, updates: Array) -> Array:
    """ScatterND(data, indices, updates) without a reduction."""
    made = data.copy()
    made[tuple(np.moveaxis(ids, -1, 0))] = updates
    return made


EVALUATE: dict[str, Callable[[ir.Node], Evaluate]] = {
    "Abs": _plain(np.abs),
    "Add": _plain(np.add),
    "And": _plain(np.logical_and),
    "Cast": lambda node: lambda data: data.astype(ir.DataType(attribute(node, "to")).numpy()),
    "Clip": _plain(_clip),
    "Concat": lambda node: lambda *parts: np.concatenate(parts, axis=attribute(node, "axis")),
    "Div": _plain(_divide),
    "Equal": _plain(np.equal),
    "Exp": _plain(np.exp),
    "Expand": lambda node: lambda data, _: np.broadcast_to(data, static(node.outputs[0]) or ()),
    "Gather": lambda node: lambda data, ids: np.take(data, ids, axis=attribute(node, "axis", 0)),
    "GatherElements": _gather_elements,
    "Greater": _plain(np.greater),
    "GreaterOrEqual": _plain(np.greater_equal),
    "Identity": _plain(lambda data: data),
    "Less": _plain(np.less),
    "LessOrEqual": _plain(np.less_equal),
    "Log": _plain(np.log),
    "Max": _plain(lambda *values: reduce(np.maximum, values)),
    "Min": _plain(lambda *values: reduce(np.minimum, values)),
    "Mul": _plain(np.multiply),
    "Not": _plain(np.logical_not),
    "Or": _plain(np.logical_or),
    "ReduceMean": _reduce(np.mean),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _plain(_scatter_nd),
    "Slice": _slice,
    "Sqrt": _plain(np.sqrt),
    "Squeeze": _reshape,
    "Sub": _plain(np.subtract),
    "Transpose": lambda node: lambda data: np.transpose(data, attribute(node, "perm")),
    "Unsqueeze": _reshape,
    "Where": _plain(np.where),
}
"""Operator type → how numpy computes it. Views where numpy has them: a transposed weight is read in place."""


@dataclass(frozen=True)
class FoldWeights(Pass):
    """Turn every node whose inputs are all stored into a recipe.

    Before: ``MatMul(x, Transpose(fc.weight))``. After: ``MatMul(x, fc.weight.transpose)``, a lazy weight.
    """

    name: ClassVar[str] = "fold-weights"
    needs: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Walk the graph until nothing folds any more: a weight may be free once another reader of it is gone."""
        changes: list[Note] = []
        while True:
            folded, misses = _walk(model.graph)
            if not folded:
                return Result(model, modified=bool(changes), changes=tuple(changes), misses=misses)
            changes += folded
            ir.passes.common.RemoveUnusedNodesPass()(model)


def _walk(graph: ir.Graph) -> tuple[list[Note], tuple[Note, ...]]:
    """Fold what can be folded, in order, so that a chain folds in one walk; return what was and what was not."""
    changes, misses, taken = [], [], value_names(graph)
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if not inputs or not all(stored(value) for value in inputs) or len(node.outputs) != 1:
            continue
        if node.outputs[0].is_graph_output():
            misses.append(Note(module_path(node), f"{node.outputs[0].name} is an output of the graph"))
        elif reason := _obstacle(node):
            misses.append(Note(module_path(node), reason))
        elif node.outputs[0].uses():
            changes.append(_fold(graph, node, taken))
    return changes, tuple(misses)


def _obstacle(node: ir.Node) -> str | None:
    """Return why a node over stored values is left in the graph."""
    output = node.outputs[0]
    if node.op_type not in EVALUATE or node.domain:
        return f"{node.op_type} of stored values has no recipe"
    if attribute(node, "reduction", "none") != "none":
        return f"{node.op_type} with a reduction has no recipe"
    shape = static(output)
    if shape is None or output.dtype is None:
        return f"{output.name} has no static shape"
    size = math.prod(shape) * output.dtype.numpy().itemsize
    read = sum(v.const_value.nbytes for v in node.inputs if v is not None and v.const_value is not None)
    if size > max(read, GROWN_BYTES):
        return f"{node.op_type} would store {size} bytes instead of {read}"
    kept = [v for v in node.inputs if v is not None and is_weight(v) and _is_kept(v)]
    if kept and size > SHARED_BYTES:
        return f"{kept[0].name} is used elsewhere: folding {node.op_type} would store {size} bytes twice"
    return None


def _is_kept(weight: ir.Value) -> bool:
    """Return whether ``weight`` is stored anyhow: an output, read by the model itself, or smaller than what it folds into.

    Of what is joined with others, it is as large as its part.
    """
    if weight.is_graph_output():
        return True
    users = {user for user, _ in weight.uses()}
    folding = all(u.op_type in EVALUATE and all(stored(v) for v in u.inputs if v is not None) for u in users)
    own = math.prod(static(weight) or (0,))
    sizes = [own if u.op_type == "Concat" else math.prod(static(u.outputs[0]) or (0,)) for u in users]
    return not folding or sum(sizes) > own


def _fold(graph: ir.Graph, node: ir.Node, taken: set[str]) -> Note:
    """Replace the output of ``node`` by a weight whose recipe computes it, with a name that is not ``taken``."""
    output = node.outputs[0]
    shape, dtype = static(output), output.dtype
    assert shape is not None
    assert dtype is not None
    tensors = [value.const_value if value is not None else None for value in node.inputs]
    evaluate = EVALUATE[node.op_type](node)
    first = next((v for v in node.inputs if v is not None and is_weight(v)), node.inputs[0])
    assert first is not None
    name = fresh_name(taken, f"{first.name}.{node.op_type.lower()}")

    def read() -> Array:
        made = evaluate(*(array(t) if t is not None else None for t in tensors))
        return np.asarray(made, dtype=dtype.numpy())

    origin = _origin(node)
    rows = (lambda wanted: _rows_of(origin, wanted)) if isinstance(origin, Sliced) else None
    value = register(graph, stored_value(lazy(name, dtype, shape, read, rows, origin)))
    output.replace_all_uses_with(value)
    return Note(module_path(node), f"{node.op_type} became part of the weight {name}")


def _origin(node: ir.Node) -> Transposed | Sliced | Folded:
    """Return whether the result is a matrix turned around, rows of a matrix, or no tensor of the source."""
    tensor = node.inputs[0].const_value if node.inputs[0] is not None else None
    if tensor is None or len(tensor.shape) != 2:
        return Folded()
    if node.op_type == "Transpose":
        return Transposed(tensor)
    rows = _sliced_rows(node, tensor.shape.numpy()[0]) if node.op_type == "Slice" else None
    return Folded() if rows is None else Sliced(tensor, rows)


def _sliced_rows(node: ir.Node, count: int) -> slice | None:
    """Return which of ``count`` rows a Slice takes, if it takes consecutive rows and nothing else."""
    starts, ends, axes, steps = (small(value) for value in (*node.inputs[1:], None, None)[:4])
    if starts is None or ends is None or axes is None or axes.tolist() != [0]:
        return None
    if steps is not None and steps.tolist() != [1]:
        return None
    return slice(*_clamped(int(starts[0]), int(ends[0]), 1, count).indices(count)[:2])


def _rows_of(origin: Sliced, wanted: slice) -> Array:
    """Return some of the rows that were sliced, reading no others."""
    first = origin.rows.start
    return part(origin.matrix, slice(first + wanted.start, first + wanted.stop))
