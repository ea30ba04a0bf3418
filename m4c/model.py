"""Helpers over ``onnx_ir.Model``: where a node comes from, what a model is made of, whether it changed."""

import hashlib
from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from m4c.scopes import NAME_SCOPES, module_of


def module_path(node: ir.Node) -> str:
    """Return the torch module that ``node`` was captured from, such as ``blocks.1.fc``, or the node's name."""
    return module_of(node.metadata_props.get(NAME_SCOPES)) or node.name or node.op_type


def branches(graph: ir.Graph) -> ir.Node | None:
    """Return the first node of ``graph`` that has graphs inside it, an ``If`` or a ``Loop``, None if there is none."""
    inner = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return next((node for node in graph if any(a.type in inner for a in node.attributes.values())), None)


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
    """Return a hash of the structure: nodes, attributes, names, types of the interface and of initializers.

    Reads no weight: of an initializer only name, dtype and shape count.
    """
    digest = hashlib.sha256()

    def put(text: str) -> None:
        digest.update(text.encode())
        digest.update(b"\0")

    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        put(f"{value.name} {value.dtype} {value.shape}")
    for node in nodes(model):
        put(f"{node.name} {node.domain} {node.op_type}")
        for operand in (*node.inputs, *node.outputs):
            put(operand.name or "?" if operand is not None else "-")
        for name, attribute in sorted(node.attributes.items()):
            put(f"{name} {text_of(attribute)}")
    return digest.hexdigest()


def text_of(attribute: ir.Attr) -> str:
    """Return a text that tells one value of an attribute from another; graphs are told by their nodes."""
    match attribute.type:
        case _ if attribute.is_ref():
            return f"of the caller: {attribute.ref_attr_name}"
        case ir.AttributeType.GRAPH | ir.AttributeType.GRAPHS:
            return "graph"
        case ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            return f"{tensor.dtype} {tensor.shape} {hashlib.sha256(tensor.tobytes()).hexdigest()}"
        case _:
            return str(attribute.value)


def value_names(graph: ir.Graph) -> set[str]:
    """Return the names of all values of ``graph``: inputs, initializers and what its nodes make."""
    taken = {v.name for v in (*graph.inputs, *graph.initializers.values())}
    taken |= {output.name for node in graph for output in node.outputs}
    return {name for name in taken if name}


def fresh_name(taken: set[str], wanted: str) -> str:
    """Return ``wanted``, or ``wanted.2``, ``.3`` …, so that it is none of the ``taken`` names; from now on it is."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}.{count}"
    taken.add(name)
    return name
