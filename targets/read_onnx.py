"""An ONNX file as a graph to judge: the file is mapped, and the bytes of its weights are stepped over, never decoded.

A weight beyond :data:`m4c.onnx_file.HELD_BYTES` keeps its name, dtype and shape. What the file does not say of shapes and
types is inferred by ONNX itself, from the graph without those weights.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from m4c.onnx_file import read_proto
from m4c.scopes import NAME_SCOPES, module_of
from m4c.targets.view import Graph, Held, Node, Shape, Tensor

DEQUANTIZE = "DequantizeLinear"


def read_onnx(path: Path) -> tuple[Graph, ...]:
    """Return the main graph of an ONNX file; graphs inside ``If`` and ``Loop`` belong to their node.

    Raises:
        UsageError: if the file is unreadable or not an ONNX model.
    """
    return (_graph(read_proto(path), path.stem),)


def _graph(model: onnx.ModelProto, name: str) -> Graph:
    """Return the main graph of a model as it is judged."""
    types = _types(model)
    graph = model.graph
    constants = {t.name: _constant(t.name, t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and (made := _constant_node(node)) is not None:
            constants[node.output[0]] = made
    tensors: dict[str, Tensor] = {}
    dequantized = {n.output[0] for n in graph.node if n.op_type == DEQUANTIZE and n.input[0] in constants}

    def tensor(named: str) -> Tensor:
        if named not in tensors:
            dtype, shape = types.get(named, ("unknown", None))
            made = Tensor(named, dtype, shape, dequantized=named in dequantized)
            tensors[named] = constants.get(named) or made
        return tensors[named]

    versions = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    nodes = tuple(
        Node(
            index,
            node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}",
            "onnx",
            versions.get(node.domain or "ai.onnx", 1),
            tuple(tensor(i) if i else None for i in node.input),
            tuple(tensor(o) for o in node.output if o),
            {a.name: _attribute(a) for a in node.attribute},
            _where(node),
        )
        for index, node in enumerate(graph.node)
    )
    inputs = tuple(tensor(v.name) for v in graph.input if v.name not in constants)
    return Graph(name, "onnx", nodes, inputs, tuple(tensor(v.name) for v in graph.output))


def _where(node: onnx.NodeProto) -> str:
    """Return the module that torch's exporter noted, or the name of the node, or what it makes."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == NAME_SCOPES), None)
    return module_of(scopes) or node.name or (node.output[0] if node.output else node.op_type)


def _types(model: onnx.ModelProto) -> dict[str, tuple[str, Shape | None]]:
    """Return dtype and shape of every value that they are known of."""
    known = _stated(model)
    made = {name for node in model.graph.node for name in node.output if name}
    if made <= set(known):
        return known
    inferred = shape_inference.infer_shapes(_as_inputs(model), strict_mode=False)
    return {**_stated(inferred), **known}


def _as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which initializers without values are inputs of the graph, as inference wants them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = {value.name for value in copy.graph.input}
    kept = []
    for tensor in copy.graph.initializer:
        if _readable(tensor):
            kept.append(tensor)
        elif tensor.name not in given:
            copy.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


def _stated(model: onnx.ModelProto) -> dict[str, tuple[str, Shape | None]]:
    graph = model.graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if not value.type.HasField("tensor_type"):
            continue
        kind = value.type.tensor_type
        if kind.elem_type:
            found[value.name] = (_dtype(kind.elem_type), _shape(kind) if kind.HasField("shape") else None)
    return found


def _shape(kind: Any) -> Shape:
    return tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or f"?{axis}"
        for axis, d in enumerate(kind.shape.dim)
    )


@cache
def _dtype(number: int) -> str:
    """Return the name of an ONNX type as numpy writes it."""
    name = str(onnx.TensorProto.DataType.Name(number)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _readable(tensor: onnx.TensorProto) -> bool:
    """Return whether the values of a tensor are in hand."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    lists = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    return 0 in tensor.dims or bool(tensor.raw_data) or any(len(values) for values in lists)


def _constant(name: str, tensor: onnx.TensorProto) -> Tensor:
    held = Held(numpy_helper.to_array(tensor)) if _readable(tensor) else None
    return Tensor(name, _dtype(tensor.data_type), tuple(tensor.dims), constant=True, content=held)


def _constant_node(node: onnx.NodeProto) -> Tensor | None:
    """Return what a ``Constant`` makes, if it holds a tensor or numbers."""
    for attribute in node.attribute:
        value = _attribute(attribute)
        if attribute.name == "value":
            return _constant(node.output[0], attribute.t)
        if attribute.name in ("value_int", "value_ints"):
            array = np.array(value, np.int64)
            return Tensor(node.output[0], "int64", array.shape, constant=True, content=Held(array))
        if attribute.name in ("value_float", "value_floats"):
            array = np.array(value, np.float32)
            return Tensor(node.output[0], "float32", array.shape, constant=True, content=Held(array))
    return None


def _attribute(attribute: onnx.AttributeProto) -> Any:
    """Return the value of an attribute; a graph or a tensor is told by its kind alone."""
    kinds = onnx.AttributeProto
    match attribute.type:
        case kinds.INT | kinds.FLOAT | kinds.INTS | kinds.FLOATS:
            value = onnx.helper.get_attribute_value(attribute)
            return tuple(value) if attribute.type in (kinds.INTS, kinds.FLOATS) else value
        case kinds.STRING:
            return attribute.s.decode()
        case _:
            return kinds.AttributeType.Name(attribute.type).lower()
