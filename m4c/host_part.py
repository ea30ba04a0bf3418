"""Cut off what a host does before an accelerator begins: looking up rows by numbers.

An accelerator of 8-bit tensors takes no token and no position. Whatever a graph computes from whole numbers is therefore a
part of its own, run by the host's CPU from a file of its own; what it makes are inputs of the accelerator's part, under the
same names and with the same scales.
"""

from collections.abc import Callable, Iterable

import onnx_ir as ir

from m4c.errors import UnsupportedError
from m4c.model import module_path
from m4c.quant import counted
from m4c.rewrite import drop_unused, static
from m4c.weights import stored

LOOKED_UP = "all of it is a step of the host: rows looked up by numbers"
"""Why a graph has nothing for an accelerator."""

PAIR = ("QuantizeLinear", "DequantizeLinear")
INNER = 3
"""So many of the last dimensions may be larger than 1."""

DIMENSIONS = 4
"""So many dimensions a GPU's tensors have (LiteRT 2.3.0 on WebGPU: "Tensor dimensions must be less than 5")."""


def split(
    model: ir.Model, asked: Callable[[ir.Node], bool] | None = None
) -> tuple[ir.Model | None, ir.Model]:
    """Return the host's part of ``model``, None if there is none, and the accelerator's.

    The host's are the nodes that are ``asked`` for (:func:`of_numbers`). A graph that is all of it the host's stays whole.
    ``model`` is left as it is.

    Raises:
        UnsupportedError: if a step of the host needs what the accelerator computes.
    """
    steps = host_nodes(model.graph, asked or of_numbers)
    borders = [value for value in _borders(model.graph, steps) if value.name]
    if not borders or all(value.is_graph_output() for value in map(_rounded, borders)):
        return None, model
    names = [str(value.name) for value in borders]
    return _before(model.clone(), names), _after(model.clone(), names)


def is_step(graph: ir.Graph) -> bool:
    """Return whether all that a quantized ``graph`` computes is the host's."""
    steps = host_nodes(graph, of_numbers)
    return bool(steps) and all(node in steps or node.op_type in PAIR for node in graph)


def of_numbers(node: ir.Node) -> bool:
    """Return whether ``node`` of a quantized graph is the host's, for an accelerator of 8-bit tensors in three dimensions.

    It reads or makes whole numbers, or it is a Reshape of an input with more than three dimensions larger than 1.
    """
    return _reads_numbers(node) or _reads_unmappable(node)


def of_many_dimensions(node: ir.Node) -> bool:
    """Return whether ``node`` is a Reshape of an input with more than four dimensions, as a GPU leaves it to the host."""
    return len(_given_shape(node)) > DIMENSIONS


def host_nodes(graph: ir.Graph, asked: Callable[[ir.Node], bool]) -> frozenset[ir.Node]:
    """Return the nodes that are steps of the host: those ``asked`` for, with nothing computed before them but such."""
    found: set[ir.Node] = set()
    for node in graph:
        if node.op_type in PAIR or not asked(node):
            continue
        for value in node.inputs:
            if value is None or stored(value) or not _computed(value, found):
                continue
            raise UnsupportedError(
                f"{node.op_type} reads {value.name}, which the accelerator computes, and is a step of the host",
                where=module_path(node),
                fix="rewrite it with a pass, or export this graph for cpu",
            )
        found.add(node)
    return frozenset(found)


def _reads_numbers(node: ir.Node) -> bool:
    """Return whether ``node`` reads or makes whole numbers, or reads a float that only stands for one."""
    return any(map(_is_number, node.outputs)) or any(
        value is not None and not stored(value) and (_is_number(value) or counted(value) is not None)
        for value in node.inputs
    )


def _is_number(value: ir.Value) -> bool:
    maker = value.producer()
    integer = value.dtype in (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL)
    return integer and (maker is None or maker.op_type not in PAIR)


def _reads_unmappable(node: ir.Node) -> bool:
    """Return whether ``node`` reshapes an input of the graph that is larger than 1 outside of its inner dimensions."""
    return any(size > 1 for size in _given_shape(node)[:-INNER])


def _given_shape(node: ir.Node) -> tuple[int, ...]:
    """Return the shape of the input of the graph that ``node`` reshapes; of anything else, nothing."""
    value = _real(node.inputs[0]) if node.op_type == "Reshape" else None
    given = value is not None and value.graph is not None and value in value.graph.inputs
    return static(value) or () if given else ()


def _real(value: ir.Value | None) -> ir.Value | None:
    """Return what ``value`` is the rounded form of, or ``value`` itself."""
    for op_type in reversed(PAIR):
        maker = value.producer() if value is not None else None
        if maker is not None and maker.op_type == op_type:
            value = maker.inputs[0]
    return value


def _computed(value: ir.Value, steps: set[ir.Node]) -> bool:
    """Return whether ``value`` is made by something else than ``steps``, inputs and constants."""
    real = _real(value)
    maker = real.producer() if real is not None else None
    return maker is not None and maker not in steps


def _borders(graph: ir.Graph, steps: frozenset[ir.Node]) -> Iterable[ir.Value]:
    """Yield the float results of ``steps`` that other nodes read."""
    for node in graph:
        for value in node.outputs if node in steps else ():
            readers = _rounded(value).uses()
            if value.dtype == ir.DataType.FLOAT and any(use.node not in steps for use in readers):
                yield value


def _rounded(value: ir.Value) -> ir.Value:
    """Return the dequantized form of ``value``, if it is rounded, else itself."""
    for op_type in PAIR:
        readers = [use.node for use in value.uses()]
        if len(readers) == 1 and readers[0].op_type == op_type:
            value = readers[0].outputs[0]
    return value


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    return {str(value.name): value for node in graph for value in node.outputs}


def _before(model: ir.Model, names: list[str]) -> ir.Model:
    """Return ``model`` cut down to what makes the values called ``names``."""
    graph = model.graph
    values = _values(graph)
    made = [values[name] for name in names]
    graph.outputs.clear()
    for name, value in zip(names, made, strict=True):
        result = _rounded(value)
        if result is not value:
            value.name, result.name = f"{name}.float", name
        graph.outputs.append(result)
    drop_unused(model)
    return model


def _after(model: ir.Model, names: list[str]) -> ir.Model:
    """Return ``model`` with inputs in place of the values called ``names``."""
    graph = model.graph
    values = _values(graph)
    for name in names:
        old = values[name]
        given = ir.Value(name=name, type=old.type, shape=old.shape)
        old.name = f"{name}.host"
        old.replace_all_uses_with(given)
        graph.inputs.append(given)
    drop_unused(model)
    return model
