"""Whether an ONNX file makes sense, before anything is computed from it: names, sizes, where its weights lie.

A file may come from anywhere. What is refused here would else end in an endless loop, a read outside of the file's folder, or
an allocation of exabytes.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import defs, helper

from m4c.errors import UsageError

LARGEST = 1 << 40
"""Elements of one tensor, at most; the largest of LLaMA-7B has 2^27."""

STANDARD = ("", "ai.onnx")


def require_sound(model: onnx.ModelProto, path: Path) -> None:
    """Refuse the file at ``path`` that ``model`` was read from, the values of large initializers left out.

    Raises:
        UsageError: if a value is made twice, never, or after it is read; a tensor has a negative or impossible size, an
            unknown type, or not the bytes that its shape needs; an operator lacks inputs; a function calls itself; or weights
            are said to lie outside of the file's folder.
    """
    problem = next(_problems(model), None)
    if problem is not None:
        raise UsageError(
            f"the model makes no sense: {problem}",
            where=str(path),
            fix="write the file again with the tool that made it, and do not use it if you do not know which",
        )


def _problems(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    for value in graph.input:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        if any(size < 0 for size in dims) or math.prod(dims) > LARGEST:
            yield f"the input {value.name} has shape {dims}"
    versions = {opset.domain: opset.version for opset in model.opset_import}
    yield from _of_graph(graph, set(), versions.get("") or versions.get("ai.onnx") or 1)
    yield from _calls(model)


def _of_graph(graph: onnx.GraphProto, outer: set[str], opset: int) -> Iterator[str]:
    """Yield what is wrong with a graph that sees the values ``outer``."""
    known = set(outer)
    given = [value.name for value in graph.input]
    stored = [tensor.name for tensor in graph.initializer]
    sparse = [tensor.values.name for tensor in graph.sparse_initializer]
    for names in (given, stored, sparse):
        yield from (f"{name} is there twice" for name in names if names.count(name) > 1)
    for tensor in graph.initializer:
        yield from _of_tensor(tensor)
    known.update(given, stored, sparse)
    for index, node in enumerate(graph.node):
        called = f"{node.op_type} {node.name or index}"
        for name in node.input:
            if name and name not in known:
                yield f"{called} reads {name}, which nothing before it makes"
        yield from _inputs(node, called, opset)
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _of_graph(inner, known, opset)
        for name in node.output:
            if name and name in known:
                yield f"{called} makes {name}, which is there already"
            known.add(name)
    for value in graph.output:
        if value.name not in known:
            yield f"nothing makes the output {value.name}"


def _of_tensor(tensor: onnx.TensorProto) -> Iterator[str]:
    """Yield what is wrong with a stored tensor."""
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > LARGEST:
        yield f"{tensor.name} has shape {list(tensor.dims)}"
    if tensor.data_type not in onnx.TensorProto.DataType.values() or not tensor.data_type:
        yield f"{tensor.name} is of the unknown type {tensor.data_type}"
        return
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield from _outside(tensor)
    elif tensor.raw_data and len(tensor.raw_data) != bytes_of(tensor):
        yield f"{tensor.name} has {len(tensor.raw_data)} bytes, its shape needs {bytes_of(tensor)}"


def bytes_of(tensor: onnx.TensorProto) -> int:
    """Return how many bytes the values of a tensor have in a file; two or four of the narrowest types share a byte."""
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    bits = 4 if kind in ("INT4", "UINT4", "FLOAT4E2M1") else 2 if kind in ("INT2", "UINT2") else 0
    count = int(math.prod(tensor.dims))
    bits = bits or 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return -(-count * bits // 8)


def _outside(tensor: onnx.TensorProto) -> Iterator[str]:
    """Yield what is wrong with where the values of a tensor lie."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    place = said.get("location", "")
    if not place or "\0" in place or Path(place).is_absolute() or ".." in Path(place).parts:
        yield f"the weight {tensor.name} is said to lie in {place!r}, outside of the folder"
    for name in ("offset", "length"):
        if not said.get(name, "0").isdecimal():
            yield f"the weight {tensor.name} has the {name} {said[name]!r}"
            return
    if "length" in said and int(said["length"]) != bytes_of(tensor):
        yield f"the weight {tensor.name} has {said['length']} bytes, its shape needs {bytes_of(tensor)}"


def _inputs(node: onnx.NodeProto, called: str, opset: int) -> Iterator[str]:
    """Yield what a node of the standard lacks."""
    if node.domain not in STANDARD or not defs.has(node.op_type):
        return
    try:
        schema = defs.get_schema(node.op_type, opset)
    except defs.SchemaError:
        return
    if not schema.min_input <= len(node.input) <= schema.max_input:
        yield f"{called} has {len(node.input)} inputs, {schema.min_input} to {schema.max_input} are allowed"
    if len(node.output) < schema.min_output:
        yield f"{called} has {len(node.output)} outputs, {schema.min_output} are needed"


def _calls(model: onnx.ModelProto) -> Iterator[str]:
    """Yield functions that call themselves, by whatever way."""
    calls = {(f.domain, f.name): {(node.domain, node.op_type) for node in f.node} for f in model.functions}
    for called in calls:
        reached, waiting = set[tuple[str, str]](), [called]
        while waiting:
            for further in calls.get(waiting.pop(), ()):
                if further == called:
                    yield f"the function {called[1]} calls itself"
                    return
                if further not in reached:
                    reached.add(further)
                    waiting.append(further)
