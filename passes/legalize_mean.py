"""Means over channels whose number a target does not take."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import is_op
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, attribute, static
from m4c.weights import small


@dataclass(frozen=True)
class LegalizeMean(Pass):
    """Rewrite every mean over the last axis, of size K, if K is no multiple of ``multiple``.

    Before: ``y = ReduceMean(x)``. After: ``y = ReduceSum(x · 1/K)``: scaled first, the sum has the range of the mean.
    """

    multiple: int = 4

    name: ClassVar[str] = "legalize-mean"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each mean that qualifies; of others nothing is said."""
        changes = []
        for node in [n for n in model.graph if is_op(n, "ReduceMean")]:
            shape, axes = static(node.inputs[0]), small(node.inputs[1]) if len(node.inputs) > 1 else None
            if shape is None or axes is None or len(shape) - 1 not in axes % len(shape):
                continue
            if shape[-1] % self.multiple == 0:
                continue
            count = 1
            for axis in axes.tolist():
                count *= shape[axis]
            edit = Replacement(node)
            scaled = edit.op("Mul", [node.inputs[0], edit.constant("share", 1 / count)], shape=shape)
            keep = {"keepdims": attribute(node, "keepdims", 1)}
            edit.finish(edit.op("ReduceSum", [scaled, node.inputs[1]], keep, shape=node.outputs[0].shape))
            changes.append(Note(module_path(node), f"mean of {count} values as a sum"))
        return Result(model, modified=bool(changes), changes=tuple(changes))
