"""Changes of LLaMA's attention that keep its meaning, or take it away while it looks the same."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from m4c.weights import array, constant, lazy

Edit = Callable[[ir.Graph], None]


def array_of(source: ir.Model, name: str) -> np.ndarray:
    tensor = source.graph.initializers[name].const_value
    assert tensor is not None
    return array(tensor)


def node_of(graph: ir.Graph, op_type: str, index: int = 0) -> ir.Node:
    """Return a node by its type; a negative ``index`` counts from the end."""
    return [node for node in graph if node.op_type == op_type][index]


def softmax_of(graph: ir.Graph) -> tuple[ir.Node, ir.Node, ir.Node]:
    """Return the softmax, the addition of the mask and the product of queries and keys."""
    softmax = node_of(graph, "Softmax")
    added = made(softmax.inputs[0])
    return softmax, added, made(added.inputs[0])


def made(value: ir.Value | None) -> ir.Node:
    assert value is not None
    node = value.producer()
    assert node is not None
    return node


def before(node: ir.Node, op_type: str, operands: list[ir.Value | None], like: ir.Value | None) -> ir.Value:
    """Put a node before another and return its result, typed like another value."""
    assert like is not None
    new = ir.node(op_type, operands, name=f"new_{op_type}_{like.name}")
    new.outputs[0].name, new.outputs[0].type, new.outputs[0].shape = f"{new.name}.out", like.type, like.shape
    assert isinstance(node.graph, ir.Graph)
    node.graph.insert_before(node, new)
    return new.outputs[0]


def number(graph: ir.Graph, value: float) -> ir.Value:
    return constant(graph, f"number_{value}", np.array(value, np.float32))


def without_scale(graph: ir.Graph) -> None:
    dot = softmax_of(graph)[2]
    scale = made(dot.inputs[0])
    dot.replace_input_with(0, scale.inputs[0])
    graph.remove(scale, safe=True)


def scaled_late(graph: ir.Graph) -> None:
    """Divide the scores too, and let the mask come first."""
    _, added, dot = softmax_of(graph)
    score = before(added, "Div", [dot.outputs[0], number(graph, 3.0)], dot.outputs[0])
    mask = added.inputs[1]
    added.replace_input_with(1, score)
    added.replace_input_with(0, mask)


def scaled_keys(graph: ir.Graph) -> None:
    dot = softmax_of(graph)[2]
    dot.replace_input_with(1, before(dot, "Mul", [number(graph, 0.3), dot.inputs[1]], dot.inputs[1]))


def computed_inputs(graph: ir.Graph) -> None:
    """Compute mask and positions, with the mask first in its addition."""
    _, added, _ = softmax_of(graph)
    first = graph[0]
    mask, positions = graph.inputs[2], graph.inputs[1]
    half = before(first, "Mul", [mask, number(graph, 0.5)], mask)
    seen = before(first, "Neg", [positions], positions)
    turned = before(first, "Abs", [seen], positions)
    for use in list(positions.uses()):
        if use.node.op_type == "Gather":
            use.node.replace_input_with(1, turned)
    added.replace_input_with(1, added.inputs[0])
    added.replace_input_with(0, half)


def attend_elsewhere(graph: ir.Graph) -> None:
    """Let the weights of the softmax be used once more."""
    softmax = softmax_of(graph)[0]
    read_again(graph, softmax.outputs[0])


def read_again(graph: ir.Graph, value: ir.Value | None) -> None:
    """Give ``value`` another reader, whose result is added to the hidden states as a zero."""
    assert value is not None
    last = graph[-1]
    dot = before(last, "ReduceSum", [value], value)
    dot.shape = ir.Shape([1] * len(value.shape or ()))
    none = before(last, "Mul", [dot, number(graph, 0.0)], dot)
    flat = before(last, "Reshape", [none, constant(graph, "one", np.array([1], np.int64))], none)
    flat.shape = ir.Shape([1])
    last.replace_input_with(0, before(last, "Add", [last.inputs[0], flat], last.inputs[0]))


def set_axis(op_type: str, index: int, axis: int) -> Edit:
    def edit(graph: ir.Graph) -> None:
        node_of(graph, op_type, index).attributes["axis"] = ir.AttrInt64("axis", axis)

    return edit


def turn(op_type: str, index: int, perm: tuple[int, ...]) -> Edit:
    def edit(graph: ir.Graph) -> None:
        node_of(graph, op_type, index).attributes["perm"] = ir.AttrInt64s("perm", perm)

    return edit


def other_table(graph: ir.Graph) -> None:
    """Turn by sines where cosines belong."""
    node_of(graph, "Gather", 0).replace_input_with(0, graph.initializers["sin"])


def lone_table(graph: ir.Graph) -> None:
    """Give the second half of the cosines other values."""
    values = array_in(graph, "cos").copy()
    values[3, 9] += 1
    graph.initializers["cos"].const_value = ir.tensor(values, name="cos")


def lazy_table(graph: ir.Graph) -> None:
    tensor = graph.initializers["sin"].const_value
    assert tensor is not None
    graph.initializers["sin"].const_value = sealed("sin", tensor)


def array_in(graph: ir.Graph, name: str) -> np.ndarray:
    tensor = graph.initializers[name].const_value
    assert tensor is not None
    return array(tensor)


def unswapped(graph: ir.Graph) -> None:
    """Join the halves of the queries in their old order."""
    joined = node_of(graph, "Concat", 0)
    first, second = joined.inputs
    joined.replace_input_with(0, second)
    joined.replace_input_with(1, first)


def turned_the_other_way(graph: ir.Graph) -> None:
    """Exchange cosines and sines of the key alone."""
    adds = [made(value) for value in made(node_of(graph, "Concat", 2).inputs[1]).inputs]
    tables = [node.inputs[1] for node in adds]
    adds[0].replace_input_with(1, tables[1])
    adds[1].replace_input_with(1, tables[0])


def key_elsewhere(graph: ir.Graph) -> None:
    """Turn the key by the angles of other positions."""
    chosen = before(graph[0], "Abs", [graph.inputs[1]], graph.inputs[1])
    for product in [made(value) for value in made(node_of(graph, "Concat", 2).inputs[1]).inputs]:
        row = made(product.inputs[1])
        gather = made(row.inputs[0])
        rows = before(product, "Gather", [gather.inputs[0], chosen], gather.outputs[0])
        product.replace_input_with(1, before(product, "Reshape", [rows, row.inputs[1]], row.outputs[0]))


def other_positions(graph: ir.Graph) -> None:
    """Take the sines of other positions than the cosines."""
    gather = node_of(graph, "Gather", 1)
    gather.replace_input_with(1, before(gather, "Abs", [gather.inputs[1]], gather.inputs[1]))


def past_last(graph: ir.Graph) -> None:
    """Put the new values before the past ones."""
    grown = node_of(graph, "Concat", 3)
    first, second = grown.inputs
    grown.replace_input_with(0, second)
    grown.replace_input_with(1, first)


def unrotated_key(graph: ir.Graph) -> None:
    grown = node_of(graph, "Concat", 2)
    grown.replace_input_with(1, made(made(grown.inputs[1]).inputs[0]).inputs[0])


def scale_after_mask(graph: ir.Graph) -> None:
    """Scale the masked scores."""
    softmax, added, _ = softmax_of(graph)
    softmax.replace_input_with(
        0, before(softmax, "Mul", [added.outputs[0], number(graph, 0.5)], added.outputs[0])
    )


def subtract_mask(graph: ir.Graph) -> None:
    softmax, added, _ = softmax_of(graph)
    softmax.replace_input_with(0, before(softmax, "Sub", list(added.inputs), added.outputs[0]))


def unequal_mask(graph: ir.Graph) -> None:
    """Give one of the heads that share a key another mask."""
    repeated = next(n for n in graph if n.op_type == "Concat" and n.inputs[0] in graph.inputs[2:3])
    repeated.replace_input_with(1, before(repeated, "Abs", [repeated.inputs[1]], repeated.inputs[1]))


def wide_mask(graph: ir.Graph) -> None:
    graph.inputs[2].shape = ir.Shape([1, 1, 1, "sequence + past"])


def other_past(graph: ir.Graph) -> None:
    graph.inputs[4].shape = ir.Shape([1, 4, "elsewhere", 16])


def shared_cache(graph: ir.Graph) -> None:
    read_again(graph, node_of(graph, "Concat", 2).outputs[0])


def scaled_to_nothing(graph: ir.Graph) -> None:
    """Scale twice, by numbers whose product is 0 in float32."""
    rescale(graph, 1e-30)
    _, added, dot = softmax_of(graph)
    added.replace_input_with(0, before(added, "Mul", [dot.outputs[0], number(graph, 1e-30)], dot.outputs[0]))


def batched(graph: ir.Graph) -> None:
    """Call the batch dynamic."""
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(["batch", *value.shape[1:]])


def sealed(name: str, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor like another that raises when it is read."""

    def read() -> np.ndarray:
        raise AssertionError(f"{name} was read")

    return lazy(name, tensor.dtype, tensor.shape.numpy(), read)


def rescale(graph: ir.Graph, value: float) -> None:
    """Scale the queries by another factor."""
    scale = made(softmax_of(graph)[2].inputs[0])
    scale.replace_input_with(1, number(graph, value))
