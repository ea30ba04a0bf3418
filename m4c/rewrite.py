"""Replacing one node of a graph by others: names, types and origins are kept.

    edit = Replacement(node)
    squared = edit.op("Mul", [x, x])
    edit.finish(squared)

The last value takes the name of the one it replaces, so a value keeps its name from capture to artifact and verification can
compare the two by name. New nodes carry the metadata of the old one, so every node knows its module.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from m4c.model import fresh_name, value_names
from m4c.weights import Array, constant, register

MICROSOFT = "com.microsoft"
"""Domain of the operators that only ONNX Runtime has."""

PARTS = "m4c.parts"
"""Metadata key of a product with several matrices at once, kept in the file: the outputs of each by its name, in order."""

Dim = int | str | None

MADE = "m4c.made"
"""Metadata key of a value: how many values were named after it, so that the next replacement takes other names."""


class Replacement:
    """Nodes that together replace ``node``, made one after another."""

    def __init__(self, node: ir.Node) -> None:
        """Start to replace ``node``, which must be in a graph."""
        assert isinstance(node.graph, ir.Graph)
        self.node, self.graph = node, node.graph
        self._first = int(node.outputs[0].meta.get(MADE, 0))
        self._made: list[ir.Node] = []

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        shape: Sequence[Dim] | ir.Shape | None = None,
        dtype: ir.DataType | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Add one node and return its output, of ``dtype`` (else the old output's) and ``shape`` (else unknown)."""
        made = ir.node(op_type, inputs, attributes, domain=domain)
        made.metadata_props.update(self.node.metadata_props)
        old = self.node.outputs[0]
        suffix = f"{op_type.lower()}_{self._first + len(self._made)}"
        made.name = f"{self.node.name or old.name}.{suffix}"
        value = made.outputs[0]
        value.name = f"{old.name}.{suffix}"
        value.type = ir.TensorType(dtype) if dtype is not None else old.type
        value.shape = ir.Shape(list(shape)) if shape is not None else None
        self._made.append(made)
        return value

    def constant(self, name: str, values: Array | Sequence[int] | float) -> ir.Value:
        """Return a constant that belongs to the replaced value; integers become int64, a float float32."""
        kind = np.asarray(values)
        kind = (
            kind
            if isinstance(values, np.ndarray)
            else kind.astype(np.int64 if kind.dtype.kind == "i" else np.float32)
        )
        return constant(self.graph, f"{self.node.outputs[0].name}.{name}", kind)

    def weight(self, value: ir.Value) -> ir.Value:
        """Return the registered initializer for a derived weight."""
        return register(self.graph, value)

    def before(self) -> None:
        """Put the nodes before the one that was to be replaced, which stays."""
        self.graph.insert_before(self.node, self._made)
        self._made = []

    def finish(self, *values: ir.Value) -> None:
        """Let ``values`` take the place of the node's outputs, in order, and remove the node."""
        made = set(self._made)
        final = []
        for value, old in zip(values, self.node.outputs, strict=True):
            kept = value
            if value.producer() not in made:  # an existing value would be renamed: give it a node of its own
                kept = self.op("Identity", [value], shape=old.shape, dtype=old.dtype)
            final.append(kept)
        final[0].meta[MADE] = self._first + len(self._made)
        ir.convenience.replace_nodes_and_values(
            self.graph, self.node, [self.node], self._made, list(self.node.outputs), final
        )


class Added:
    """Nodes beside those that are there, for what belongs to no single one of them; values are named after ``owner``."""

    def __init__(self, graph: ir.Graph, owner: str) -> None:
        """Start to add to ``graph``."""
        self.graph, self.owner, self.taken = graph, owner, value_names(graph)
        self.made: list[ir.Node] = []

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        suffix: str,
        dtype: ir.DataType,
        shape: Sequence[Dim | ir.SymbolicDim] | Sequence[int | ir.SymbolicDim] | ir.Shape,
        **attributes: int,
    ) -> ir.Value:
        """Make one node and return its output ``<owner>.<suffix>``."""
        name = fresh_name(self.taken, f"{self.owner}.{suffix}")
        node = ir.node(op_type, inputs, attributes, name=f"node_{name}")
        value = node.outputs[0]
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(list(shape))
        self.made.append(node)
        return value

    def put_behind(self, *operands: ir.Value) -> None:
        """Put the nodes behind the last that makes one of ``operands``, else before all."""
        makers = {value.producer() for value in operands} - {None}
        behind = [node for node in self.graph if node in makers]
        if behind:
            self.graph.insert_after(behind[-1], self.made)
        else:
            self.graph.insert_before(self.graph[0], self.made)

    def put_after(self, node: ir.Node) -> None:
        """Put the nodes behind ``node``."""
        self.graph.insert_after(node, self.made)

    def put_before(self, *readers: ir.Node) -> None:
        """Put the nodes before the first of ``readers``."""
        self.graph.insert_before(next(node for node in self.graph if node in readers), self.made)


def bypass(node: ir.Node, value: ir.Value) -> bool:
    """Let ``value`` stand for the only output of ``node`` and remove the node, where no interface changes.

    Returns whether that was possible: a graph output keeps the node that makes it.
    """
    output = node.outputs[0]
    if output.is_graph_output():
        return False
    output.replace_all_uses_with(value)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True


def drop_unused(model: ir.Model) -> None:
    """Remove the nodes of ``model`` that no output needs, and then the inputs that nothing reads."""
    ir.passes.common.RemoveUnusedNodesPass()(model)
    for value in [v for v in model.graph.inputs if not v.uses() and not v.is_graph_output()]:
        model.graph.inputs.remove(value)


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Return the value of an attribute, or ``default``; strings are text, lists are tuples."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def static(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape of ``value`` if every dimension is a number."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(value.shape.numpy())


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Return whether two values have one known shape; symbolic dimensions are equal if their names are."""
    return a.shape is not None and b.shape is not None and a.shape == b.shape and None not in _names(a.shape)


def _names(shape: ir.Shape) -> list[int | str | None]:
    return [d if isinstance(d, int) else d.value for d in shape]
