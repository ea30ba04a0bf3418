"""A TFLite graph that was never written, as a graph to judge: what an export would hold, without any weight.

Before calibration it is a float graph. :func:`as_if` gives it the types that a build of another precision would have.
"""

from dataclasses import replace
from typing import Any

import onnx_ir as ir

from m4c.targets.emit_tflite.flat import Affine, Flat
from m4c.targets.emit_tflite.flat import Tensor as Stored
from m4c.targets.read_tflite import builtin_names, plain, snake
from m4c.targets.view import Graph, Held, Node, Quantization, Tensor
from m4c.weights import array

DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64", ir.DataType.INT64: "int32"}
"""What a file has for dtypes that it names otherwise."""

BIAS = {"FULLY_CONNECTED": 2, "CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "TRANSPOSE_CONV": 3}
"""Where an operator has its bias."""

ASSUMED = Quantization((1.0,), (0,))
"""Some scale: which, only calibration tells."""


def view_flat(flat: Flat, name: str) -> Graph:
    """Return a sub-graph of a TFLite file in the making; weights are not read."""
    names = {place: (builtin_names()[code], version) for (code, version), place in flat.codes.items()}
    tensors = [_tensor(tensor) for tensor in flat.tensors]
    nodes = tuple(
        Node(
            index,
            names[made.opcodeIndex][0],
            "tflite",
            names[made.opcodeIndex][1],
            tuple(tensors[i] if i >= 0 else None for i in made.inputs),
            tuple(tensors[i] for i in made.outputs),
            _options(made.builtinOptions),
            tensors[made.outputs[0]].name,
        )
        for index, made in enumerate(flat.operators)
    )
    inputs = tuple(tensors[i] for _, i in flat.inputs)
    return Graph(name, "tflite", nodes, inputs, tuple(tensors[i] for _, i in flat.outputs))


def as_if(graph: Graph, precision: str) -> Graph:
    """Return a float graph as if every number in it had the type of ``precision``, and biases 32 bits."""
    kind = {"int8": "int8", "int16x8": "int16"}.get(precision)
    if kind is None:
        return graph
    biases = {node.input(BIAS[node.operator]) for node in graph.nodes if node.operator in BIAS}
    weights = {node.input(1) for node in graph.nodes if node.operator in BIAS}
    made: dict[Tensor, Tensor] = {}

    def typed(tensor: Tensor) -> Tensor:
        if tensor not in made:
            narrow = "int8" if tensor.constant and tensor in weights else kind
            dtype = "int32" if tensor.constant and tensor in biases else narrow
            made[tensor] = (
                replace(tensor, dtype=dtype, quantization=ASSUMED, content=_zeros(tensor))
                if tensor.dtype == "float32"
                else tensor
            )
        return made[tensor]

    nodes = tuple(
        replace(
            node,
            inputs=tuple(None if t is None else typed(t) for t in node.inputs),
            outputs=tuple(map(typed, node.outputs)),
        )
        for node in graph.nodes
    )
    return Graph(
        graph.name, graph.format, nodes, tuple(map(typed, graph.inputs)), tuple(map(typed, graph.outputs))
    )


def _zeros(tensor: Tensor) -> Held | None:
    """Return the values of a constant of zeros, the only ones that are known before there is a scale."""
    return tensor.content if isinstance(tensor.content, Held) and not tensor.content().any() else None


def _tensor(found: Stored) -> Tensor:
    dtype = DTYPES.get(found.dtype, found.dtype.name.lower())
    held = None
    if found.content is not None and not found.lazy and found.content.view is None:
        held = Held(array(found.content.source))
    return Tensor(
        found.name,
        dtype,
        found.shape,
        found.content is not None,
        _quantization(found.affine) if found.weights is None else Quantization((), ()),
        held,
    )


def _quantization(affine: Affine | None) -> Quantization | None:
    return None if affine is None else Quantization(affine.scale, affine.zero_point, affine.axis)


def _options(table: Any) -> dict[str, Any]:
    return {} if table is None else {snake(key): plain(value) for key, value in vars(table).items()}
