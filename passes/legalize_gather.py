"""A row that is chosen at run time, among computed ones, by a product with zeros and a one."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import is_op, known
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, attribute, static
from m4c.weights import stored


@dataclass(frozen=True)
class LegalizeGather(Pass):
    """Rewrite every Gather of one row of a computed matrix [T, C] by a computed index.

    Before: ``y = Gather(x, i)``. After: ``y = ReduceSum(x · Gather(identity matrix [T, T], i))``: what is left to look up is
    stored, and a step for the host.
    """

    name: ClassVar[str] = "legalize-gather"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each Gather that qualifies; others of computed values are misses."""
        changes, misses = [], []
        for node in [n for n in model.graph if is_op(n, "Gather") and not any(map(stored, n.inputs))]:
            shape, index = static(node.inputs[0]), static(node.inputs[1])
            if shape is None or len(shape) != 2 or index != (1,) or attribute(node, "axis", 0) != 0:
                misses.append(Note(module_path(node), f"it gathers {index} rows of {shape}"))
                continue
            _rewrite(node, *shape)
            changes.append(Note(module_path(node), f"one of {shape[0]} rows by a product"))
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _rewrite(node: ir.Node, rows: int, columns: int) -> None:
    """Replace ``node``."""
    edit, x, index = Replacement(node), known(node.inputs[0]), known(node.inputs[1])
    identity = edit.constant(f"identity{rows}", np.eye(rows, dtype=np.float32))
    chosen = edit.op("Gather", [identity, index], {"axis": 0}, shape=(1, rows))
    column = edit.op("Reshape", [chosen, edit.constant("column", [1, rows, 1])], shape=(1, rows, 1))
    held = edit.op("Reshape", [x, edit.constant("rows", [1, rows, columns])], shape=(1, rows, columns))
    product = edit.op("Mul", [held, column], shape=(1, rows, columns))
    axes = edit.constant("axes", [1])
    edit.finish(edit.op("ReduceSum", [product, axes], {"keepdims": 0}, shape=(1, columns)))
