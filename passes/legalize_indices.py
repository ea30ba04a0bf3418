"""Rows looked up by a list of indices, for runtimes that take no other."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import is_op, known
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, attribute, static
from m4c.weights import stored


@dataclass(frozen=True)
class LegalizeIndices(Pass):
    """Give every Gather by computed indices a list of them.

    Before: ``y = Gather(table, indices [B, T])``. After: ``y = Reshape(Gather(table, Reshape(indices, [B·T])))``.
    """

    name: ClassVar[str] = "legalize-indices"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each Gather whose indices have not one dimension; where a shape is not static it is a miss."""
        changes, misses = [], []
        for node in [n for n in model.graph if is_op(n, "Gather") and not stored(n.inputs[1])]:
            data, indices = static(node.inputs[0]), static(node.inputs[1])
            if data is None or indices is None:
                misses.append(Note(module_path(node), f"it gathers {indices} of {data}, not static"))
            elif len(indices) != 1:
                _rewrite(node, data, indices)
                changes.append(Note(module_path(node), f"indices {list(indices)} as a list"))
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _rewrite(node: ir.Node, data: tuple[int, ...], indices: tuple[int, ...]) -> None:
    """Replace ``node``."""
    edit, table, given = Replacement(node), known(node.inputs[0]), known(node.inputs[1])
    axis, count = attribute(node, "axis", 0) % len(data), prod(indices)
    before, behind = data[:axis], data[axis + 1 :]
    flat = edit.op("Reshape", [given, edit.constant("list", [count])], shape=(count,), dtype=given.dtype)
    rows = edit.op("Gather", [table, flat], {"axis": axis}, shape=(*before, count, *behind))
    shape = (*before, *indices, *behind)
    edit.finish(edit.op("Reshape", [rows, edit.constant("shape", list(shape))], shape=shape))
