"""Helpers over ``onnx_ir.Model``: where a node comes from, what a model is made of, whether it changed."""

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

NAME_SCOPES = "pkg.torch.onnx.name_scopes"


def module_path(node: ir.Node) -> str:
    """Return the torch module that ``node`` was captured from, such as ``blocks.1.fc``, or the node's name."""
    scopes = node.metadata_props.get(NAME_SCOPES)
    if scopes:
        path = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        if path:
            return str(path[-1]).removeprefix("source.")
    return node.name or node.op_type


def operator(node: ir.Node) -> str:
    """Return the operator type of ``node``, with its domain where that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node of the model: main graph, sub-graphs and functions."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def operator_counts(model: ir.Model) -> Counter[str]:
    """Return how often each operator type occurs; ``Constant`` and ``Identity`` count like any other."""
    return Counter(operator(node) for node in nodes(model))


def fingerprint(model: ir.Model) -> str:
    """Return a hash of the structure: nodes, attributes, names, types, initializer names. Reads no weight."""
    digest = hashlib.sha256()

    def put(text: str) -> None:
        digest.update(text.encode())
        digest.update(b"\0")

    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        put(f"{value.name} {value.dtype} {value.shape}")
    for node in nodes(model):
        put(f"{node.name} {node.domain} {node.op_type}")
        for value in (*node.inputs, *node.outputs):
            put(value.name or "?" if value is not None else "-")
        for name, attribute in sorted(node.attributes.items()):
            put(f"{name} {attribute.value if attribute.type != ir.AttributeType.GRAPH else 'graph'}")
    return digest.hexdigest()


def fresh_name(graph: ir.Graph, wanted: str) -> str:
    """Return ``wanted``, or ``wanted.2``, ``.3`` …, so that no value of ``graph`` has the name yet."""
    taken = {v.name for v in (*graph.inputs, *graph.initializers.values())}
    taken |= {output.name for node in graph for output in node.outputs}
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}.{count}"
    return name
