"""Reading a graph against its flow, strictly: what makes a value, who uses it, and the reason when that is not as expected.

Whoever fuses nodes asks for one form and nothing else. Each question here either answers or raises :class:`Unlike`, whose text
becomes the note of a miss. Everything is asked by structure, never by names.
"""

import onnx_ir as ir

from m4c.rewrite import attribute
from m4c.weights import small

Dims = tuple[int | str, ...]


class Unlike(Exception):
    """What was read is not of the form asked for; the text is the first reason found."""


def is_op(node: ir.Node, op_type: str) -> bool:
    """Return whether ``node`` is that operator of ONNX itself."""
    return node.op_type == op_type and node.domain in ("", "ai.onnx")


def made_by(value: ir.Value | None, *op_types: str) -> bool:
    """Return whether ``value`` comes from an operator of one of the types."""
    maker = value.producer() if value is not None else None
    return maker is not None and any(is_op(maker, op_type) for op_type in op_types)


def known(value: ir.Value | None) -> ir.Value:
    """Return an operand that is there."""
    if value is None:
        raise Unlike("an operand is absent")
    return value


def producer_of(value: ir.Value | None, op_type: str, what: str, *readers: ir.Node) -> ir.Node:
    """Return the node of type ``op_type`` that makes ``value``; if ``readers`` are given, nobody else uses it."""
    value = known(value)
    maker = value.producer()
    if maker is None or not is_op(maker, op_type):
        raise Unlike(f"{what} {value.name} comes from {maker.op_type if maker else 'outside'}, not {op_type}")
    if readers and (value.is_graph_output() or any(use.node not in readers for use in value.uses())):
        raise Unlike(f"{what} {value.name} has other uses")
    return maker


def only_reader(value: ir.Value, op_type: str, what: str) -> ir.Node:
    """Return the one node that uses ``value``: as its first operand."""
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1:
        raise Unlike(f"{what} {value.name} has other uses")
    if not is_op(uses[0].node, op_type) or uses[0].idx != 0:
        raise Unlike(f"{what} {value.name} goes to {uses[0].node.op_type}, not {op_type}")
    return uses[0].node


def dims(value: ir.Value | None) -> Dims:
    """Return the numbers and names of the dimensions of ``value``.

    Raises:
        Unlike: if its shape is unknown, or a dimension has no name.
    """
    value = known(value)
    if value.shape is None:
        raise Unlike(f"the shape of {value.name} is unknown")
    named = [d if isinstance(d, int) else d.value for d in value.shape]
    found = tuple(d for d in named if d is not None)
    if len(found) != len(named):
        raise Unlike(f"a dimension of {value.name} has no name")
    return found


def expect(value: ir.Value | None, wanted: Dims, what: str) -> None:
    """Refuse a shape that is not ``wanted``."""
    if dims(value) != wanted:
        raise Unlike(f"{what} is {list(dims(value))}, not {list(wanted)}")


def expect_axis(node: ir.Node, wanted: int, what: str) -> None:
    """Refuse an axis that is not ``wanted``, of four; a softmax that states none has the last."""
    axis = attribute(node, "axis", -1)
    if len(dims(node.outputs[0])) != 4 or axis % 4 != wanted:
        raise Unlike(f"{what} is along axis {axis}, not axis {wanted} of 4")


def unscaled(value: ir.Value | None, reader: ir.Node) -> tuple[float, ir.Value, ir.Node]:
    """Return the product of the constants that ``value`` is scaled by, what is scaled, and the node that reads it.

    A constant is one number in memory that a ``Mul`` multiplies by or a ``Div`` divides by. A product that others read too
    counts as what is scaled.
    """
    factor, value = 1.0, known(value)
    while (node := value.producer()) is not None and (is_op(node, "Mul") or is_op(node, "Div")):
        data, other = node.inputs
        if node.op_type == "Mul" and small(data) is not None:
            data, other = other, data
        held = small(other)
        if held is None or held.size != 1 or held.ndim > len(dims(data)) or not held.item():
            break
        if value.is_graph_output() or any(use.node is not reader for use in value.uses()):
            break
        factor = factor * float(held.item()) if node.op_type == "Mul" else factor / float(held.item())
        value, reader = known(data), node
    return factor, value, reader
