"""Deep models in constant time: three blocks are captured, and the others are stamped after them.

The second of the three (block 1) is the stamp. That it fits is not believed but seen: stamped as block 2 it must give the
captured block 2, node for node. So each operand of the stamp is of one of four kinds, and is known for every further block:
made in the block, made at some place of the block before, its own (an input or a weight whose name has the block's number),
or shared by all blocks.
"""

import re
from collections.abc import Mapping

import onnx_ir as ir
import torch

from m4c.errors import Bug, CaptureError
from m4c.model import module_path, operator, text_of
from m4c.models.graph import Graph, Repetition
from m4c.stamping import (
    CAPTURED,
    FIX,
    Block,
    Carried,
    Inner,
    Numbers,
    Operand,
    Own,
    Place,
    Shared,
    Stamp,
    Stamping,
    set_interface,
    stamp_weights,
)

SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature"
"""Metadata of torch that lists the inputs and outputs of the captured graph."""


def is_deep(graph: Graph) -> bool:
    """Return whether ``graph`` states more blocks than have to be captured."""
    return graph.repeats is not None and graph.repeats.count > CAPTURED


def stamp(model: ir.Model, captured: Graph, graph: Graph, root: str) -> None:
    """Turn ``model``, made from ``captured``, into that of ``graph``, which has more blocks of the same kind.

    ``root`` precedes the paths of all modules. Ports have their names, and initializers those of the module's state dict.
    Stamped values are called like block 1's, with ``.block<number>`` added.

    Raises:
        CaptureError: if block 2 is not block 1 again, naming the first node that differs; or the module's blocks are not equal.
    """
    repeats = graph.repeats
    assert repeats is not None
    numbers = Numbers(repeats.prefix)
    _check_modules((captured, graph), root + repeats.prefix)
    blocks, tail = _blocks(model.graph, repeats)
    made = _stamp_of(model.graph, blocks, numbers)
    readers = _readers(tail, blocks)
    stamp_weights(model.graph, graph, numbers)
    stamping = Stamping(model.graph, numbers, blocks, made)
    for number in range(CAPTURED, repeats.count):
        stamping.add(number)
    stamping.pass_on(readers)
    set_interface(model.graph, graph, stamping)
    model.graph.metadata_props.pop(SIGNATURE, None)


def stamped_names(program: ir.Model, stamped: ir.Model) -> dict[str, str]:
    """Return, for each value of torch's translation of a whole graph, its name in the stamped model of the same graph."""
    found: dict[str, str] = {}
    for a, b in zip(program.graph, stamped.graph, strict=False):  # what follows are copies for the interface
        if (operator(a), len(a.outputs)) != (operator(b), len(b.outputs)):
            raise Bug(
                f"the stamped graph has {operator(b)} where torch has {operator(a)}", where=module_path(b)
            )
        found |= {str(x.name): str(y.name) for x, y in zip(a.outputs, b.outputs, strict=True)}
    return found


def _check_modules(graphs: tuple[Graph, ...], prefix: str) -> None:
    """Raise unless all blocks of all modules have the same modules, options and weights."""
    first = None
    for graph in graphs:
        assert graph.repeats is not None
        state = graph.module.state_dict()
        for number in range(graph.repeats.count):
            path = f"{prefix}.{number}"
            found = _described(graph.module.get_submodule(path), state, f"{path}.")
            first = first or found
            if found != first:
                where = f"{graph.name}: {graph.repeats.prefix}.{number}"
                raise CaptureError("a block is not built like the first", where=where, fix=FIX)


def _described(
    block: torch.nn.Module, state: Mapping[str, torch.Tensor], path: str
) -> tuple[str, dict[str, tuple[torch.dtype, torch.Size]]]:
    """Return the modules of a block with their options, and its weights: their dtypes and shapes by name."""
    return repr(block), {
        key.removeprefix(path): (value.dtype, value.shape)
        for key, value in state.items()
        if key.startswith(path)
    }


def _blocks(graph: ir.Graph, repeats: Repetition) -> tuple[list[Block], list[ir.Node]]:
    """Return the three captured blocks, which follow each other, and the nodes after them."""
    nodes = list(graph)
    pattern = re.compile(rf"{re.escape(repeats.prefix)}\.(\d+)(?!\w)")
    found = [pattern.match(module_path(node)) for node in nodes]
    at = [[i for i, m in enumerate(found) if m is not None and int(m[1]) == n] for n in range(CAPTURED)]
    if not all(at):
        raise CaptureError(
            f"{repeats.prefix} has no nodes in some of its blocks", where=repeats.prefix, fix=FIX
        )
    for n, after in ((0, at[1][0]), (1, at[2][0])):
        if at[n][-1] + 1 != after:
            stray = nodes[min(at[n][-1] + 1, after)]
            raise CaptureError(
                f"{operator(stray)} {stray.outputs[0].name} is between two blocks and in none",
                where=module_path(stray),
                fix=FIX,
            )
    return [Block(nodes[i[0] : i[-1] + 1]) for i in at], nodes[at[-1][-1] + 1 :]


def _stamp_of(graph: ir.Graph, blocks: list[Block], numbers: Numbers) -> Stamp:
    """Return block 1 with the kind of each operand, having seen that it gives block 2."""
    _, one, two = blocks
    made = []
    for k, a in enumerate(one.nodes):
        if k == len(two.nodes):
            raise _differs(a, f"{operator(a)} {a.outputs[0].name} has none like it in the next block")
        b = two.nodes[k]
        if _signature(a, numbers, 2) != _signature(b, numbers, 2):
            raise _differs(
                b, f"{operator(b)} {b.outputs[0].name} is not {operator(a)} {a.outputs[0].name} again"
            )
        _check_results(graph, a, b, numbers)
        made.append((a, tuple(_operand(graph, blocks, k, i, numbers) for i in range(len(a.inputs)))))
    if len(two.nodes) > len(one.nodes):
        b = two.nodes[len(one.nodes)]
        raise _differs(b, f"{operator(b)} {b.outputs[0].name} has none like it in the block before")
    return tuple(made)


def _check_results(graph: ir.Graph, a: ir.Node, b: ir.Node, numbers: Numbers) -> None:
    """Raise if the graph returns a value of block 1 whose like in block 2 it does not return, under its number."""
    for first, second in zip(a.outputs, b.outputs, strict=True):
        if first in graph.outputs and (
            second not in graph.outputs or numbers.port(str(first.name), 2) != second.name
        ):
            raise _differs(b, f"{operator(b)} {second.name} is no output as {first.name} is")


def _differs(node: ir.Node, what: str) -> CaptureError:
    return CaptureError(f"two blocks are not the same: {what}", where=module_path(node), fix=FIX)


def _signature(node: ir.Node, numbers: Numbers, number: int) -> tuple[object, ...]:
    """Return all of a node but which values it reads and makes; of paths, those into block 1 are renumbered."""
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        raise _differs(
            node, f"{operator(node)} {node.outputs[0].name} holds a graph, which cannot be stamped"
        )
    return (
        operator(node),
        node.overload,
        numbers.path(module_path(node), number),
        {name: text_of(value) for name, value in node.attributes.items()},
        len(node.inputs),
        [(str(value.type), str(value.shape)) for value in node.outputs],
    )


def _operand(graph: ir.Graph, blocks: list[Block], k: int, i: int, numbers: Numbers) -> Operand:
    """Return what operand ``i`` of node ``k`` is to block 1, from what it is in blocks 1 and 2."""
    zero, one, two = blocks
    a, b = one.nodes[k].inputs[i], two.nodes[k].inputs[i]
    if a is None or b is None or a is b:
        if a is b and (a not in one.places):
            return Shared(a)
    elif a in one.places:
        if one.places[a] == two.places.get(b):
            return Inner(one.places[a])
    elif b in one.places:
        if a in zero.places and zero.ordinal(a) == one.ordinal(b):
            return Carried(one.places[b])
    elif a.is_initializer() and b.is_initializer():
        if numbers.path(str(a.name), 2) == b.name:
            return Own(a)
    elif a in graph.inputs and b in graph.inputs and numbers.port(str(a.name), 2) == b.name:
        return Own(a)
    node = two.nodes[k]
    before, after = (v.name if v is not None else "nothing" for v in (a, b))
    raise _differs(
        node, f"{operator(node)} {node.outputs[0].name} reads {after} where block 1 reads {before}"
    )


def _readers(tail: list[ir.Node], blocks: list[Block]) -> list[tuple[ir.Node, int, Place]]:
    """Return which operands of the nodes after the blocks are made in the last block.

    Raises:
        CaptureError: if they read another block, so that it is unknown what they would read of a stamped one.
    """
    zero, one, two = blocks
    readers = []
    for node in tail:
        for i, value in enumerate(node.inputs):
            if value is None:
                continue
            if value in two.places:
                readers.append((node, i, two.places[value]))
            maker = value.producer()
            if value in one.places or (value in zero.places and maker is not None and maker.inputs):
                raise CaptureError(
                    f"{operator(node)} {node.outputs[0].name} reads {value.name}, which is not of the last block",
                    where=module_path(node),
                    fix=FIX,
                )
    return readers
