"""Constant rows beside computed ones, where only zeros may be constant."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import is_op
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, attribute, static
from m4c.weights import Array, array, lazy, small, stored, stored_value


@dataclass(frozen=True)
class LegalizeConcat(Pass):
    """Rewrite every Concat of one stored and one computed operand: a class token, a bias of keys.

    Before: ``y = Concat(c, x)``. After: ``y = Add(Concat(0, x), Concat(c, 0))``, the second of which is stored. Where a stored
    operand is added to y, and nothing else reads y, both sums are one.
    """

    name: ClassVar[str] = "legalize-concat"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each Concat that qualifies; others with stored operands are misses."""
        changes, misses = [], []
        for node in [n for n in model.graph if is_op(n, "Concat") and any(map(_holds, n.inputs))]:
            reason = _reason(node)
            if reason:
                misses.append(Note(module_path(node), reason))
                continue
            _rewrite(node)
            changes.append(Note(module_path(node), "stored part of a Concat is added to zeros"))
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _holds(operand: ir.Value | None) -> bool:
    """Return whether ``operand`` is stored, and more than zeros as this pass joins them."""
    held = small(operand)
    return stored(operand) and (held is None or bool(held.any()))


def _reason(node: ir.Node) -> str:
    """Return why ``node`` stays as it is, or nothing."""
    if [stored(operand) for operand in node.inputs].count(True) != 1 or len(node.inputs) != 2:
        return f"it joins {len(node.inputs)} operands, not one that is stored and one that is computed"
    if node.outputs[0].dtype != ir.DataType.FLOAT:
        return f"it joins values of {node.outputs[0].dtype}"
    shapes = [static(value) for value in (*node.inputs, *node.outputs)]
    return "" if None not in shapes else f"the shape of {node.outputs[0].name} is not static"


def _rewrite(node: ir.Node) -> None:
    """Replace ``node``, or what alone adds a stored operand to it."""
    add, other = _added(node)
    edit = Replacement(add or node)
    shape = static(node.outputs[0])
    assert shape is not None
    place = 0 if stored(node.inputs[0]) else 1
    token, x = node.inputs[place], node.inputs[1 - place]
    assert token is not None
    assert x is not None
    zeros = edit.constant("zeros", np.zeros(static(token) or (), np.float32))
    axis = attribute(node, "axis") % len(shape)
    parts = [zeros, x] if place == 0 else [x, zeros]
    padded = edit.op("Concat", parts, {"axis": axis}, shape=shape)
    around = [(0, 0)] * len(shape)
    length = (static(x) or ())[axis]
    around[axis] = (0, length) if place == 0 else (length, 0)
    row = edit.weight(_sum(token, around, other, shape))
    edit.finish(edit.op("Add", [padded, row], shape=shape))


def _added(node: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """Return the Add of a stored operand that alone reads ``node``, and the operand."""
    output = node.outputs[0]
    uses = tuple(output.uses())
    if len(uses) != 1 or output.is_graph_output() or not is_op(uses[0].node, "Add"):
        return None, None
    add = uses[0].node
    other = add.inputs[1 - uses[0].idx]
    if other is None or not stored(other) or static(add.outputs[0]) != static(output):
        return None, None
    return add, other


def _sum(
    token: ir.Value, around: list[tuple[int, int]], other: ir.Value | None, shape: tuple[int, ...]
) -> ir.Value:
    """Return the recipe of ``token`` with zeros around it, plus ``other``."""
    held, more = token.const_value, other.const_value if other is not None else None
    assert held is not None

    def read() -> Array:
        made = np.pad(array(held), around)
        return np.asarray(made if more is None else made + array(more), np.float32)

    size = "x".join(map(str, shape))
    name = f"{token.name}.in{size}" + (f".with.{other.name}" if other is not None else "")
    return stored_value(lazy(name, ir.DataType.FLOAT, shape, read))
