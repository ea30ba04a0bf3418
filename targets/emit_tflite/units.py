"""What one emit function sees: a node, or a few nodes that TFLite has one operator for.

Three groups are formed, because their inner value has no quantization of its own: a product by a stored matrix with its bias
(``Linear``), the reciprocal of a square root (``Rsqrt``), and a number rounded to an integer (``Whole``). Everything else is a
unit of one node, a linear Resize (``Bilinear``) and some powers under names of their own.
"""

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from m4c.blockwise import BlockwiseWeight
from m4c.model import module_path, operator
from m4c.quant import counted
from m4c.rewrite import attribute
from m4c.weights import small, stored

POWERS = {-0.5: "Rsqrt", 0.5: "Sqrt", 2.0: "Square"}
"""Powers by a constant that are operators of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A piece of the graph that becomes one operator or a few; ``operator`` is its key in the table of emit functions.

    ``node`` is its first node. ``Linear`` has the inputs x, W and, if there is one, bias.
    """

    operator: str
    node: ir.Node
    inputs: tuple[ir.Value | None, ...]
    outputs: tuple[ir.Value, ...]

    @property
    def where(self) -> str:
        """Return the place of the unit for messages: the operator, the node and the module it was captured from."""
        return f"{operator(self.node)} node {self.node.name or '?'} of {module_path(self.node)}"

    def input(self, index: int) -> ir.Value:
        """Return an input that ONNX does not allow to be left out."""
        value = self.inputs[index]
        assert value is not None
        return value

    def optional(self, index: int) -> ir.Value | None:
        """Return an input, or None if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attribute(self, name: str, default: Any) -> Any:
        """Return the value of an attribute, or ``default``, which is ONNX's own."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value


def behind(value: ir.Value | None) -> ir.Value | None:
    """Return what ``value`` is the dequantized form of, or ``value`` itself."""
    producer = value.producer() if value is not None else None
    return producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else value


def rounded_weight(value: ir.Value | None) -> BlockwiseWeight | None:
    """Return the matrix on a grid that ``value`` is the dequantized form of, where only weights are quantized."""
    codes = behind(value)
    if value is None or codes is value or codes is None:
        return None
    origin = getattr(codes.const_value, "origin", None)
    return origin if isinstance(origin, BlockwiseWeight) else None


def computed_scales(node: ir.Node) -> bool:
    """Return whether a DequantizeLinear has scales that are computed: gathered rows of a table, not a quantized tensor."""
    return not stored(node.inputs[1])


def units(graph: ir.Graph) -> tuple[Unit, ...]:
    """Group the nodes of ``graph``, in order, leaving out every DequantizeLinear that says how a tensor is quantized."""
    made: list[Unit] = []
    taken: set[ir.Node] = set()
    for node in graph:
        if node not in taken and (operator(node) != "DequantizeLinear" or computed_scales(node)):
            unit, tail = _unit(node)
            taken.update(tail)
            made.append(unit)
    return tuple(made)


def _unit(node: ir.Node) -> tuple[Unit, tuple[ir.Node, ...]]:
    """Return the unit that starts at ``node`` and its further nodes."""
    name, tail, inputs = operator(node), _follower(node), tuple(node.inputs)
    match name:
        case "MatMul" if _stored_matrix(inputs[1]) and not stored(behind(inputs[0])):
            bias = _bias(node, tail) if tail is not None else None
            if tail is None or bias is None:
                return Unit("Linear", node, inputs, tuple(node.outputs)), ()
            return Unit("Linear", node, (*inputs, bias), tuple(tail.outputs)), (tail,)
        case "Sqrt" if tail is not None and operator(tail) == "Reciprocal":
            return Unit("Rsqrt", node, inputs, tuple(tail.outputs)), (tail,)
        case "Round" if tail is not None and (index := counted(inputs[0])) is not None:
            return Unit("Whole", node, inputs, (index,)), (tail,)
        case "Resize" if attribute(node, "mode", "nearest") == "linear":
            return Unit("Bilinear", node, inputs, tuple(node.outputs)), ()
        case "Pow":
            exponent = small(inputs[1])
            power = None if exponent is None or exponent.size != 1 else POWERS.get(float(exponent.item()))
            if power is not None:
                return Unit(power, node, inputs[:1], tuple(node.outputs)), ()
    return Unit(name, node, inputs, tuple(node.outputs)), ()


def _follower(node: ir.Node) -> ir.Node | None:
    """Return the one node that reads the one output of ``node``, if nothing else does."""
    if len(node.outputs) != 1 or node.outputs[0].is_graph_output():
        return None
    uses = tuple(node.outputs[0].uses())
    return uses[0].node if len(uses) == 1 else None


def _stored_matrix(value: ir.Value | None) -> bool:
    weight = behind(value)
    return weight is not None and stored(weight) and weight.shape is not None and len(weight.shape) == 2


def _bias(product: ir.Node, tail: ir.Node) -> ir.Value | None:
    """Return the stored vector, one value a column of the matrix, that ``tail`` adds to ``product``."""
    if operator(tail) != "Add":
        return None
    bias = next((v for v in tail.inputs if v is not product.outputs[0]), None)
    vector, matrix = behind(bias), behind(product.inputs[1])
    if vector is None or not stored(vector) or vector.shape is None or matrix is None or matrix.shape is None:
        return None
    return bias if tuple(vector.shape) == (matrix.shape[1],) else None
