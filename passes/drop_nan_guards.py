"""Guards against rows of attention without a key, which no integer build needs."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.reading import is_op
from m4c.pipeline import Note, Pass, Result
from m4c.rewrite import bypass


@dataclass(frozen=True)
class DropNanGuards(Pass):
    """Take out every choice by whether a value is a number, of that value: an integer is one.

    Before: ``y = Where(IsNaN(x), 0, x)``. After: ``x``. torch's attention has it behind each softmax, for queries that a mask
    leaves no key. Samples that have such a query are refused by calibration, which takes no NaN.
    """

    name: ClassVar[str] = "drop-nan-guards"

    def call(self, model: ir.Model) -> Result:
        """Take out each guard; one that is an output of the graph is a miss."""
        changes, misses = [], []
        for node in [n for n in model.graph if _is_guard(n)]:
            value = node.inputs[2]
            assert value is not None
            if bypass(node, value):
                changes.append(Note(module_path(node), f"{value.name} is a number"))
            else:
                misses.append(Note(module_path(node), f"{node.outputs[0].name} is an output of the graph"))
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _is_guard(node: ir.Node) -> bool:
    """Return whether ``node`` is a Where that takes a value unless the value is no number."""
    if not is_op(node, "Where"):
        return False
    asked = node.inputs[0].producer() if node.inputs[0] is not None else None
    if asked is None or not is_op(asked, "IsNaN") or asked.inputs[0] is not node.inputs[2]:
        return False
    return node.inputs[2] is not None and node.inputs[2].shape == node.outputs[0].shape
