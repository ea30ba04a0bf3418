"""The canonical form of operators that move, repeat or pick values: what :mod:`m4c.passes.canonicalize` does to each.

A form either replaces its node and says how, or leaves it untouched and returns None. Where a shape goes into a ``Reshape``, at
most one of its dimensions may be unknown and none may be 0, which ``Reshape`` would take for "as in the input".
"""

import numpy as np
import onnx_ir as ir

from m4c.rewrite import Replacement, attribute, bypass, same_shape
from m4c.weights import Array, small

BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div"})


def reshape_like(node: ir.Node) -> str | None:
    """Squeeze, Unsqueeze and Flatten → Reshape."""
    data, output = node.inputs[0], node.outputs[0]
    target = _target(output)
    if target is None:
        return None
    edit = Replacement(node)
    edit.finish(edit.op("Reshape", [data, edit.constant("shape", target)], shape=output.shape))
    return f"{node.op_type} became Reshape"


def reshape(node: ir.Node) -> str | None:
    """Two Reshapes in a row → the second; a Reshape to the same shape → nothing."""
    data = node.inputs[0]
    assert data is not None
    if same_shape(data, node.outputs[0]) and bypass(node, data):
        return "Reshape to its own shape removed"
    target = small(node.inputs[1])
    if _made_by(data, "Reshape") is not None and target is not None and 0 not in target:
        before = data.producer()
        assert before is not None
        node.replace_input_with(0, before.inputs[0])
        return "two Reshapes became one"
    return None


def split(node: ir.Node) -> str | None:
    """Split → one Slice a part."""
    data, axis = node.inputs[0], attribute(node, "axis", 0)
    sizes = [out.shape[axis] if out.shape is not None else None for out in node.outputs]
    if not all(isinstance(size, int) for size in sizes):
        return None
    edit, start, parts = Replacement(node), 0, []
    for index, (size, out) in enumerate(zip(sizes, node.outputs, strict=True)):
        assert isinstance(size, int)
        bounds = _bounds(edit, start, start + size, axis, f"part{index}.")
        parts.append(edit.op("Slice", [data, *bounds], shape=out.shape))
        start += size
    edit.finish(*parts)
    return f"Split became {len(parts)} Slices"


def gather_nd(node: ir.Node) -> str | None:
    """GatherND over single indices → Gather on axis 0."""
    data, indices = node.inputs
    assert indices is not None
    maker = _made_by(indices, "Unsqueeze", "Reshape")
    source = maker.inputs[0] if maker is not None else None
    if attribute(node, "batch_dims", 0) or source is None or source.shape is None or indices.shape is None:
        return None
    columns = [d if isinstance(d, int) else d.value for d in source.shape] + [1]
    if None in columns or indices.shape != ir.Shape(columns):
        return None
    edit = Replacement(node)
    edit.finish(edit.op("Gather", [data, source], {"axis": 0}, shape=node.outputs[0].shape))
    return "GatherND became Gather"


def gather(node: ir.Node) -> str | None:
    """Gather of one stored row, or of all rows in order → Slice with Reshape, or the table itself."""
    data, indices = node.inputs
    assert data is not None
    picked = small(indices)
    if picked is None or data.shape is None:
        return None
    axis = attribute(node, "axis", 0) % len(data.shape)
    rows = data.shape[axis]
    if isinstance(rows, int) and np.array_equal(picked, np.arange(rows)):
        return "Gather of all rows removed" if bypass(node, data) else None
    target = _target(node.outputs[0])
    if picked.size != 1 or target is None:
        return None
    first = int(picked.item())
    if first < 0:
        if not isinstance(rows, int):
            return None
        first += rows
    edit, sliced = Replacement(node), [*data.shape]
    sliced[axis] = 1
    part = edit.op("Slice", [data, *_bounds(edit, first, first + 1, axis)], shape=ir.Shape(sliced))
    to = edit.constant("shape", target)
    edit.finish(edit.op("Reshape", [part, to], shape=node.outputs[0].shape))
    return "Gather of one row became Slice"


def broadcast(node: ir.Node) -> str | None:
    """Expand and Tile to the shape they have, and an Expand that its broadcasting readers make needless → nothing."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    if same_shape(data, output) and bypass(node, data):
        return f"{node.op_type} to its own shape removed"
    if node.op_type != "Expand" or output.is_graph_output():
        return None
    for user, index in output.uses():
        if user.op_type not in BROADCASTING or user.domain not in ("", "ai.onnx"):
            return None
        other = user.inputs[1 - index]
        if other is None or other is output or not same_shape(other, user.outputs[0]):
            return None
    return "Expand before broadcasting removed" if bypass(node, data) else None


def cast(node: ir.Node) -> str | None:
    """Cast to the dtype it has → nothing."""
    data = node.inputs[0]
    assert data is not None
    if data.dtype == node.outputs[0].dtype and bypass(node, data):
        return "Cast to its own dtype removed"
    return None


def identity(node: ir.Node) -> str | None:
    """Identity → nothing, except where it makes an output of the graph."""
    data = node.inputs[0]
    assert data is not None
    return "Identity removed" if bypass(node, data) else None


def _target(output: ir.Value) -> Array | None:
    """Return the shape of ``output`` for a Reshape, or None where Reshape cannot say it."""
    assert output.shape is not None
    target = [d if isinstance(d, int) else -1 for d in output.shape]
    return np.array(target, np.int64) if target.count(-1) <= 1 and 0 not in target else None


def _bounds(edit: Replacement, start: int, end: int, axis: int, prefix: str = "") -> list[ir.Value]:
    """Return the start, end and axis of a Slice as constants."""
    numbers = {"start": start, "end": end, "axis": axis}
    return [edit.constant(f"{prefix}{name}", np.array([n], np.int64)) for name, n in numbers.items()]


def _made_by(value: ir.Value, *op_types: str) -> ir.Node | None:
    """Return the node that makes ``value`` if it is one of ONNX's own operators ``op_types``."""
    maker = value.producer()
    return maker if maker is not None and maker.op_type in op_types and not maker.domain else None
