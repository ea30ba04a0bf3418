"""A model in hand as a graph to judge: no weight of it is read."""

import onnx_ir as ir

from m4c.model import module_path, operator
from m4c.targets.view import Graph, Held, Node, Shape, Tensor
from m4c.weights import small

DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}
"""What the view calls the dtypes that onnx_ir names otherwise."""


def view_model(model: ir.Model, name: str) -> Graph:
    """Return the main graph of ``model``; graphs inside ``If`` and ``Loop`` belong to their node."""
    tensors: dict[ir.Value, Tensor] = {}

    def tensor(value: ir.Value) -> Tensor:
        if value not in tensors:
            tensors[value] = _tensor(value)
        return tensors[value]

    graph = model.graph
    nodes = tuple(
        Node(
            index,
            operator(node),
            "onnx",
            graph.opset_imports.get("" if node.domain == "ai.onnx" else node.domain, 1),
            tuple(None if value is None else tensor(value) for value in node.inputs),
            tuple(tensor(value) for value in node.outputs),
            {name: _plain(attribute) for name, attribute in node.attributes.items()},
            module_path(node),
        )
        for index, node in enumerate(graph)
    )
    inputs = tuple(tensor(value) for value in graph.inputs)
    return Graph(name, "onnx", nodes, inputs, tuple(tensor(value) for value in graph.outputs))


def _tensor(value: ir.Value) -> Tensor:
    """Return a value as rules see it."""
    dtype = "unknown" if value.dtype is None else DTYPES.get(value.dtype, value.dtype.name.lower())
    shape: Shape | None = None
    if value.shape is not None:
        shape = tuple(
            d if isinstance(d, int) else str(d.value or f"?{axis}") for axis, d in enumerate(value.shape)
        )
    held = small(value)
    constant, maker = value.const_value is not None, value.producer()
    source = maker.inputs[0] if maker is not None and operator(maker) == "DequantizeLinear" else None
    return Tensor(
        value.name or "",
        dtype,
        shape,
        constant,
        content=None if held is None else Held(held),
        dequantized=source is not None and source.const_value is not None,
    )


def _plain(attribute: ir.Attr) -> object:
    """Return a number, a text or some of them; what is larger is told by its kind alone."""
    match attribute.type:
        case ir.AttributeType.INTS | ir.AttributeType.FLOATS | ir.AttributeType.STRINGS:
            return tuple(attribute.value)
        case ir.AttributeType.INT | ir.AttributeType.FLOAT | ir.AttributeType.STRING:
            return attribute.value
        case _:
            return attribute.type.name.lower()
