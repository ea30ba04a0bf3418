"""Slots for adapters beside the matrices that they change."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import module_path
from m4c.pipeline import Note, Pass, Result
from m4c.rewrite import Replacement
from m4c.slots import Slot
from m4c.weights import Sliced, Transposed, stored


@dataclass(frozen=True)
class InsertAdapters(Pass):
    """Let a product or a table that has a slot add what the adapter in it says.

    Before: ``MatMul(x, W)``. After: ``Add(MatMul(x, W), MatMul(MatMul(x, A), B))``, where A (inputs, rank) and
    B (rank, outputs) are inputs of the graph. Without an adapter they are as stored, of rank 0, and add zeros. With the
    limit of a slot, for formats whose inputs have no such default, every call gives them, of that rank.
    """

    slots: tuple[Slot, ...] = field(repr=False)

    name: ClassVar[str] = "insert-adapters"

    def call(self, model: ir.Model) -> Result:
        """Rewrite every node that reads a matrix with a slot."""
        changes: list[Note] = []
        given: dict[str, ir.Value] = {}
        there = {value.name for value in model.graph.inputs}
        for node in list(model.graph):
            slot = self._slot_of(node)
            if slot is not None and slot.down not in there:
                for name in (slot.down, slot.up):
                    if name not in given:
                        given[name] = _input(model.graph, slot, name)
                _add(node, given[slot.down], given[slot.up])
                changes.append(Note(module_path(node), f"{slot.module} takes an adapter"))
        return Result(model, modified=bool(changes), changes=tuple(changes))

    def _slot_of(self, node: ir.Node) -> Slot | None:
        """Return the slot of what ``node`` multiplies by or gathers from, if it has one."""
        if node.domain or node.op_type not in ("MatMul", "Gather"):
            return None
        table = node.op_type == "Gather"
        tensor = getattr(node.inputs[0 if table else 1], "const_value", None)
        if not table:
            turned = getattr(tensor, "origin", None)
            tensor = turned.matrix if isinstance(turned, Transposed) else None
        if tensor is None:
            return None
        cut = getattr(tensor, "origin", None)
        name, first = (cut.matrix.name, cut.rows.start) if isinstance(cut, Sliced) else (tensor.name, 0)
        tied = module_path(node)  # a weight with two names is stored under one of them
        for slot in self.slots:
            named = name == slot.weight or (tied == slot.module and len(tensor.shape) == 2)
            if slot.table == table and named and first == slot.first:
                return slot
        return None


def _input(graph: ir.Graph, slot: Slot, name: str) -> ir.Value:
    """Add an input that takes A or B of ``slot``."""
    rank = slot.limit or 0
    shape = (slot.inputs, rank) if name == slot.down else (rank, slot.outputs)
    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
    if slot.limit is None:
        value.shape = ir.Shape([d or f"{slot.module}.rank" for d in shape])
        value.const_value = ir.tensor(np.zeros(shape, np.float32), name=name)
        graph.register_initializer(value)
    else:
        value.shape = ir.Shape(shape)
    graph.inputs.append(value)
    return value


def _add(node: ir.Node, down: ir.Value, up: ir.Value) -> None:
    """Let ``node``, with its bias if it has one, give its own result and the adapter's together.

    What follows the bias leaves it where runtimes fuse it with the product: without an adapter the numbers stay the same.
    """
    end = _bias(node) or node
    edit, output = Replacement(end), end.outputs[0]
    assert output.shape is not None
    assert down.shape is not None
    inner = ir.Shape([*output.shape[:-1], down.shape[1]])
    own = edit.op(end.op_type, end.inputs, _attributes(end), shape=output.shape)
    low = edit.op(node.op_type, _with(node, down), _attributes(node), shape=inner)
    edit.finish(edit.op("Add", [own, edit.op("MatMul", [low, up], shape=output.shape)], shape=output.shape))


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


def _bias(node: ir.Node) -> ir.Node | None:
    """Return the Add that alone reads the product ``node`` and adds a stored vector."""
    product = node.outputs[0]
    readers = list(product.consumers())
    if product.is_graph_output() or len(readers) != 1 or readers[0].op_type != "Add" or readers[0].domain:
        return None
    other = next((value for value in readers[0].inputs if value is not product), None)
    return readers[0] if other is not None and stored(other) and len(other.shape or ()) == 1 else None


def _with(node: ir.Node, down: ir.Value) -> list[ir.Value | None]:
    """Return the inputs of ``node`` with A in place of what it reads."""
    return [down, *node.inputs[1:]] if node.op_type == "Gather" else [node.inputs[0], down]
