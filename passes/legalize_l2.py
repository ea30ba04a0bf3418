"""L2 norms in operators that GPUs have."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import is_op, known
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, attribute, static

LEAST = np.float32(2**-24)
"""The smallest sum of squares that is divided by: the smallest positive number of float16."""


@dataclass(frozen=True)
class LegalizeL2(Pass):
    """Rewrite every LpNormalization with p = 2.

    Before: ``y = LpNormalization(x)``. After: ``y = x · Reciprocal(Sqrt(Max(ReduceSum(x · x), 2^-24)))``, which is the same
    wherever ‖x‖₂ is at least 2^-12, and 0 at x = 0 in both.
    """

    name: ClassVar[str] = "legalize-l2"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each node that qualifies; the others are misses."""
        changes, misses = [], []
        for node in [n for n in model.graph if is_op(n, "LpNormalization")]:
            shape, power = static(node.inputs[0]), attribute(node, "p", 2)
            if shape is None or power != 2:
                misses.append(Note(module_path(node), f"p is {power}, the shape {shape}"))
                continue
            _rewrite(node, shape)
            changes.append(Note(module_path(node), "L2 norm by a product"))
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _rewrite(node: ir.Node, shape: tuple[int, ...]) -> None:
    """Replace ``node``."""
    edit, x = Replacement(node), known(node.inputs[0])
    axis = attribute(node, "axis", -1) % len(shape)
    column = [1 if place == axis else size for place, size in enumerate(shape)]
    squares = edit.op("Mul", [x, x], shape=shape)
    total = edit.op("ReduceSum", [squares, edit.constant("axes", [axis])], {"keepdims": 1}, shape=column)
    held = edit.op("Max", [total, edit.constant("least", np.asarray(LEAST))], shape=column)
    root = edit.op("Sqrt", [held], shape=column)
    edit.finish(edit.op("Mul", [x, edit.op("Reciprocal", [root], shape=column)], shape=shape))
