"""Means over channels where a target takes rows of them one below the other alone."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import is_op, known
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, static
from m4c.weights import small


@dataclass(frozen=True)
class LegalizeRows(Pass):
    """Rewrite every mean over the last axis, of size K, of a value with more than one other axis larger than 1.

    Before: ``y = ReduceMean(x)``. After: ``y = Reshape(ReduceMean(Reshape(x, [1, N, K])))``: the same numbers, and neither
    Reshape moves any.
    """

    name: ClassVar[str] = "legalize-rows"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each mean that qualifies; one over other axes besides the last is a miss."""
        changes, misses = [], []
        for node in [n for n in model.graph if is_op(n, "ReduceMean")]:
            shape, axes = static(node.inputs[0]), small(node.inputs[1]) if len(node.inputs) > 1 else None
            if shape is None or axes is None or len(shape) - 1 not in axes % len(shape):
                continue
            if sum(size > 1 for size in shape[:-1]) < 2:
                continue
            if axes.size != 1:
                misses.append(Note(module_path(node), f"the mean is over axes {axes.tolist()} of {shape}"))
                continue
            _rewrite(node, shape)
            changes.append(Note(module_path(node), f"mean over {prod(shape[:-1])} rows of one sample"))
        if changes:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _rewrite(node: ir.Node, shape: tuple[int, ...]) -> None:
    """Replace ``node``, the mean of a value of ``shape`` over its last axis."""
    edit, x, result = Replacement(node), known(node.inputs[0]), static(node.outputs[0])
    assert result is not None
    rows = (1, prod(shape[:-1]), shape[-1])
    flat = edit.op("Reshape", [x, edit.constant("rows", rows)], shape=rows)
    one = (*rows[:2], 1)
    mean = edit.op("ReduceMean", [flat, edit.constant("last", [2])], {"keepdims": 1}, shape=one)
    edit.finish(edit.op("Reshape", [mean, edit.constant("whole", result)], shape=result))
