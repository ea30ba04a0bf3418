"""Stamping: what is known of one captured block makes further blocks of a graph, with their weights and ports.

:mod:`m4c.repeat` finds what is stamped, and sees that it fits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from m4c.errors import CaptureError
from m4c.model import operator
from m4c.models.graph import Graph, Port

CAPTURED = 3
"""Blocks that are captured: the first, which reads what is not a block; the stamp; and the one that proves it."""

FIX = "make the blocks equal, or state no repetition for this graph"

STALE = ("pkg.torch.onnx.fx_node", "pkg.torch.onnx.original_node_name")
"""Metadata of torch that names other values of the captured block, and so is wrong for a stamped one."""

Place = tuple[int, int]
"""Where in a block a value is made: the position of its node, and which output."""


@dataclass(frozen=True, slots=True)
class Inner:
    """An operand made in the same block."""

    place: Place


@dataclass(frozen=True, slots=True)
class Carried:
    """An operand made in the block before."""

    place: Place


@dataclass(frozen=True, slots=True)
class Own:
    """An input or initializer of the block; ``value`` is block 1's."""

    value: ir.Value


@dataclass(frozen=True, slots=True)
class Shared:
    """An operand that is the same for all blocks, or absent."""

    value: ir.Value | None


Operand = Inner | Carried | Own | Shared
Stamp = tuple[tuple[ir.Node, tuple[Operand, ...]], ...]


class Block:
    """The nodes of one captured block, and where each of its values is made."""

    def __init__(self, nodes: list[ir.Node]) -> None:
        """Take the nodes in the order of the graph."""
        self.nodes = nodes
        self.places: dict[ir.Value, Place] = {
            value: (k, j) for k, node in enumerate(nodes) for j, value in enumerate(node.outputs)
        }

    def ordinal(self, value: ir.Value) -> tuple[str, int, int | None]:
        """Return which of the results of its operator ``value`` is: blocks may differ in the constants between them."""
        maker = value.producer()
        assert maker is not None
        same = [node for node in self.nodes if node.op_type == maker.op_type]
        return operator(maker), same.index(maker) - len(same), value.index()


@dataclass(frozen=True, slots=True)
class Numbers:
    """How the names of block 1 become those of another block."""

    prefix: str

    def path(self, text: str, number: int) -> str:
        """Return ``text`` with every path into block 1 leading into block ``number``."""
        return re.sub(rf"(?<!\w){re.escape(self.prefix)}\.1(?!\w)", f"{self.prefix}.{number}", text)

    def port(self, name: str, number: int) -> str:
        """Return the name of a port of block 1 for block ``number``."""
        return re.sub(r"(?<!\d)1(?!\d)", str(number), name)


class Stamping:
    """Adds blocks to a graph, one after another."""

    def __init__(self, graph: ir.Graph, numbers: Numbers, blocks: list[Block], made: Stamp) -> None:
        """Take the three captured ``blocks`` of ``graph``, and ``made`` of the second."""
        self.graph, self.numbers, self.made = graph, numbers, made
        self.ports: dict[str, ir.Value] = {str(v.name): v for v in (*graph.inputs, *graph.outputs)}
        """Inputs and outputs of the graph by name, those of stamped blocks among them."""
        self.stamped: dict[str, str] = {}
        """The name of each stamped input and output → that of block 1's."""
        self._one, self._two = blocks[1], blocks[2]
        self._results = set(graph.outputs)
        self._before = self._two.nodes

    def add(self, number: int) -> None:
        """Stamp block ``number`` after the last."""
        nodes: list[ir.Node] = []
        for node, operands in self.made:
            inputs = [self._find(operand, nodes, number) for operand in operands]
            made = ir.Node(
                node.domain,
                node.op_type,
                inputs,
                attributes=list(node.attributes.values()),
                overload=node.overload,
                outputs=[self._result(value, number) for value in node.outputs],
                version=node.version,
                name=_stamped(node.name, number),
                metadata_props=self._metadata(node.metadata_props, number),
            )
            nodes.append(made)
        self.graph.insert_after(self._before[-1], nodes)
        self._before = nodes

    def pass_on(self, readers: list[tuple[ir.Node, int, Place]]) -> None:
        """Let what read the last captured block read the last block; so also outputs that only the last block gives."""
        for node, i, (k, j) in readers:
            node.replace_input_with(i, self._before[k].outputs[j])
        for value, (k, j) in self._two.places.items():
            first = self._one.nodes[k].outputs[j]
            if value in self._results and first not in self._results:
                last = self._before[k].outputs[j]
                self.ports[str(value.name)] = last
                last.name, value.name = value.name, _stamped(first.name, 2)

    def _find(self, operand: Operand, nodes: list[ir.Node], number: int) -> ir.Value | None:
        """Return what ``operand`` is in block ``number``, of which ``nodes`` are made already."""
        match operand:
            case Inner((k, j)):
                return nodes[k].outputs[j]
            case Carried((k, j)):
                return self._before[k].outputs[j]
            case Own(value) if value.is_initializer():
                return self.graph.initializers[self.numbers.path(str(value.name), number)]
            case Own(value):
                return self._port(value, number)
            case Shared(value):
                return value

    def _result(self, value: ir.Value, number: int) -> ir.Value:
        """Return the output in block ``number`` that is ``value`` in block 1."""
        if value in self._results:
            return self._port(value, number)
        return _like(value, _stamped(value.name, number))

    def _port(self, value: ir.Value, number: int) -> ir.Value:
        """Return the input or output of the graph in block ``number`` that is ``value`` in block 1."""
        name = self.numbers.port(str(value.name), number)
        if name not in self.ports:
            self.ports[name] = _like(value, name)
            self.stamped[name] = str(value.name)
        return self.ports[name]

    def _metadata(self, given: Mapping[str, str], number: int) -> dict[str, str]:
        return {k: self.numbers.path(text, number) for k, text in given.items() if k not in STALE}


def _stamped(name: str | None, number: int) -> str | None:
    """Return the name in block ``number`` of what is ``name`` in block 1; what has no name stays without."""
    return f"{name}.block{number}" if name else name


def _like(value: ir.Value, name: str | None) -> ir.Value:
    """Return a new value of the type and shape of ``value``."""
    shape = value.shape.copy() if value.shape is not None else None
    return ir.Value(name=name, type=value.type, shape=shape, metadata_props=dict(value.metadata_props))


def stamp_weights(model: ir.Graph, graph: Graph, numbers: Numbers) -> None:
    """Add the initializers of stamped blocks after those of the last captured one; as yet they share block 1's tensors.

    Raises:
        CaptureError: if one is no entry of the state dict, so that its values are not known for other blocks.
    """
    assert graph.repeats is not None
    state = set(graph.module.state_dict())
    held = list(model.initializers.values())
    own = [v for v in held if numbers.path(str(v.name), 2) != v.name]
    last = max(
        (i for i, v in enumerate(held) if v.name in {numbers.path(str(w.name), 2) for w in own}), default=-1
    )
    made = []
    for number in range(CAPTURED, graph.repeats.count):
        for value in own:
            name = numbers.path(str(value.name), number)
            if name not in state:
                raise CaptureError(
                    f"{value.name} is a buffer of one block, and no checkpoint tells it for the others",
                    where=graph.name,
                    fix="keep what is the same for all blocks outside of them",
                )
            made.append(_like(value, name))
            made[-1].const_value = value.const_value
    model.initializers.clear()
    for value in (*held[: last + 1], *made, *held[last + 1 :]):
        model.register_initializer(value)


def set_interface(model: ir.Graph, graph: Graph, stamping: Stamping) -> None:
    """Give the graph all stated inputs and outputs, in their order.

    Raises:
        CaptureError: if no block has one of them, or it is stated otherwise than block 1's.
    """
    sides: tuple[tuple[Any, tuple[Port, ...]], ...] = (
        (model.inputs, graph.inputs),
        (model.outputs, graph.outputs),
    )
    for values, ports in sides:
        stated = {port.name: (port.dtype, port.shape) for port in ports}
        for name in stated:
            if name not in stamping.ports or stated[name] != stated[stamping.stamped.get(name, name)]:
                what = f"no block has the stated {name}, or it is stated otherwise than block 1's"
                raise CaptureError(what, where=graph.name, fix=FIX)
        values.clear()
        values.extend([stamping.ports[name] for name in stated])
