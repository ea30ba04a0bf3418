"""Functions of a single whole number as tables.

A diffusion model is told its step as a number between 0 and 999, and computes sines and cosines of it. Eight bits hold
neither the number nor its multiples; the sines they hold well, and there are only a thousand.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnxruntime

from m4c.model import module_path, operator
from m4c.passes.properties import typed
from m4c.pipeline import Note, Pass, Property, Result
from m4c.quant import counted, get_whole
from m4c.rewrite import Replacement, static
from m4c.scales import RULES
from m4c.weights import Array, lazy, small, stored_value

LARGEST = 4096
"""The most rows that a table is made of."""


@dataclass(frozen=True)
class Tabulate(Pass):
    """Replace what is computed from one whole number alone by rows of a table, where it has no integer kernel.

    Before: ``y = Sin(step · f)``, where ``step`` is an input that holds whole numbers from 0 on. After::

        y = Gather(table, Cast(Round(step), to int64))

    What lies between two whole numbers is rounded. Rows are computed by ONNX Runtime when they are read.
    """

    name: ClassVar[str] = "tabulate"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Tabulate what depends on each such input."""
        changes, misses = [], []
        for value in model.graph.inputs:
            region = _region(value)
            foreign = next((node for node in region if operator(node) not in RULES), None)
            if foreign is None:
                continue
            where = module_path(foreign)
            if reason := _reason(value, region):
                misses.append(Note(where, reason))
                continue
            count = _tabulate(value, region, _program(model, value, region))
            changes.append(Note(where, f"{len(region)} nodes became {count} tables"))
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _region(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that depend on ``value``, a single number, and on constants alone, in order."""
    if value.dtype != ir.DataType.FLOAT or value.graph is None or static(value) != (1,) or counted(value):
        return []
    known, region = {value}, list[ir.Node]()
    for node in value.graph:
        operands = [operand for operand in node.inputs if operand is not None]
        follows = any(operand in known for operand in operands) and len(node.outputs) == 1
        follows = follows and node.outputs[0].dtype == ir.DataType.FLOAT
        if follows and all(operand in known or small(operand) is not None for operand in operands):
            known.add(node.outputs[0])
            region.append(node)
    return region


def _reason(value: ir.Value, region: list[ir.Node]) -> str:
    """Return why ``value`` is no index of a table, or nothing."""
    whole = get_whole(value)
    if whole is None:
        return f"{value.name} may hold any number"
    if whole[0] < 0 or whole[1] >= LARGEST:
        return f"{value.name} holds {whole[0]} to {whole[1]}, a table has 0 to {LARGEST - 1}"
    others = [use.node for use in value.uses() if use.node not in region]
    if others:
        return f"{value.name} is read by {operator(others[0])} too"
    unsized = [node.outputs[0].name for node in region if static(node.outputs[0]) is None]
    return f"the shape of {unsized[0]} is not static" if unsized else ""


def _ends(region: list[ir.Node]) -> list[ir.Node]:
    """Return the nodes of ``region`` whose results are needed outside."""
    inside = set(region)
    made = [(node, node.outputs[0]) for node in region]
    return [n for n, v in made if v.is_graph_output() or any(use.node not in inside for use in v.uses())]


def _program(model: ir.Model, value: ir.Value, region: list[ir.Node]) -> bytes:
    """Return what computes the ends of ``region`` from ``value``, as an ONNX file."""
    ends = [node.outputs[0] for node in _ends(region)]
    graph = ir.convenience.extract(model.graph, [value], ends)
    program: bytes = ir.to_proto(ir.Model(graph, ir_version=model.ir_version)).SerializeToString()
    return program


def _tabulate(value: ir.Value, region: list[ir.Node], program: bytes) -> int:
    """Replace the nodes of ``region`` whose results are needed by tables; return how many these are."""
    whole, index = get_whole(value), None
    assert whole is not None
    ends = _ends(region)
    for number, node in enumerate(ends):
        edit, shape = Replacement(node), static(node.outputs[0])
        assert shape is not None
        if index is None:
            index = _index(edit, value)
        rows = _rows(program, number, whole[1] + 1, prod(shape), str(node.outputs[0].name))
        made = edit.op(
            "Gather", [edit.weight(stored_value(rows)), index], {"axis": 0}, shape=(1, prod(shape))
        )
        if shape != (1, prod(shape)):
            made = edit.op("Reshape", [made, edit.constant("shape", shape)], shape=shape)
        edit.finish(made)
    return len(ends)


def _index(edit: Replacement, value: ir.Value) -> ir.Value:
    """Return ``value`` as an int64 [1], rounded; see :func:`m4c.quant.counted`."""
    whole = edit.op("Round", [value], shape=(1,))
    return edit.op("Cast", [whole], {"to": ir.DataType.INT64}, shape=(1,), dtype=ir.DataType.INT64)


def _rows(program: bytes, output: int, count: int, width: int, name: str) -> ir.LazyTensor:
    """Return the table [count, width] of an output of ``program`` at 0 … count - 1."""

    def read() -> Array:
        session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        wanted = [session.get_outputs()[output].name]
        numbers = np.arange(count, dtype=np.float32)
        return np.stack(
            [session.run(wanted, {given.name: numbers[i : i + 1]})[0].ravel() for i in range(count)]
        )

    return lazy(f"{name}.table", ir.DataType.FLOAT, (count, width), read)
