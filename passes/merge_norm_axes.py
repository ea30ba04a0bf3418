"""LayerNormalization over several axes as one over a single axis, which is all that the forms in integers know."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import is_op, known
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, attribute, static
from m4c.weights import derive, stored


@dataclass(frozen=True)
class MergeNormAxes(Pass):
    """Rewrite every LayerNormalization of x [..., A, B] over more than its last axis.

    Before: ``LayerNormalization(x, gamma [A, B], beta, axis = -2)``. After:
    ``Reshape(LayerNormalization(Reshape(x, [..., A·B]), gamma [A·B], beta, axis = -1), shape of x)``.
    """

    name: ClassVar[str] = "merge-norm-axes"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each node that qualifies; one whose scale or bias is computed stays, and is a miss."""
        changes, misses = [], []
        for node in [n for n in model.graph if is_op(n, "LayerNormalization")]:
            shape, axis = static(node.inputs[0]), attribute(node, "axis", -1)
            if shape is None or axis % len(shape) == len(shape) - 1:
                continue
            if len(node.outputs) > 1 or not all(
                stored(value) for value in node.inputs[1:] if value is not None
            ):
                misses.append(Note(module_path(node), "its scale or bias is computed, or its mean is used"))
                continue
            _rewrite(node, shape, axis % len(shape))
            changes.append(
                Note(module_path(node), f"LayerNormalization over {len(shape[axis:])} axes as over one")
            )
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _rewrite(node: ir.Node, shape: tuple[int, ...], axis: int) -> None:
    edit, size = Replacement(node), prod(shape[axis:])
    merged = (*shape[:axis], size)
    x = edit.op("Reshape", [known(node.inputs[0]), edit.constant("merged", merged)], shape=merged)
    operands = [
        edit.weight(derive(value, "merged", lambda held: held.reshape(-1), shape=(size,)))
        for value in node.inputs[1:]
        if value is not None
    ]
    attributes = {name: found.value for name, found in node.attributes.items()} | {"axis": -1}
    normal = edit.op("LayerNormalization", [x, *operands], attributes, shape=merged)
    edit.finish(edit.op("Reshape", [normal, edit.constant("whole", shape)], shape=shape))
