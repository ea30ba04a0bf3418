"""RMS norms as an L2 norm, which has an integer kernel that scales each row for itself."""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import Unlike, is_op, known, producer_of
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, static
from m4c.weights import derive, small, stored


@dataclass(frozen=True)
class LegalizeRms(Pass):
    """Rewrite every division by the root of the mean of squares of K channels.

    Before: ``y = x / Sqrt(ReduceMean(x · x) + epsilon) · gamma``. After: ``y = LpNormalization(x) · (√K · gamma)``, which
    leaves epsilon out: a relative change of epsilon / (2 · mean square).
    """

    name: ClassVar[str] = "legalize-rms"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each division that qualifies; every other is a miss."""
        changes, misses = [], []
        for node in [n for n in model.graph if is_op(n, "Div")]:
            try:
                x = _normalized(node)
            except Unlike as reason:
                misses.append(Note(module_path(node), f"the division stays as it is: {reason}"))
                continue
            _rewrite(node, x)
            changes.append(Note(module_path(node), "RMS norm as LpNormalization"))
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _normalized(node: ir.Node) -> ir.Value:
    """Return what ``node`` divides by the root of the mean of its squares along the last axis.

    Raises:
        Unlike: if it divides by something else.
    """
    x = known(node.inputs[0])
    shape = static(x)
    root = producer_of(node.inputs[1], "Sqrt", "the divisor")
    add = producer_of(root.inputs[0], "Add", "what the root is of")
    index = next((i for i, operand in enumerate(add.inputs) if small(operand) is not None), None)
    if index is None or shape is None:
        raise Unlike("no constant is added to the mean, or a shape is not static")
    mean = producer_of(add.inputs[1 - index], "ReduceMean", "the mean")
    square = producer_of(mean.inputs[0], "Mul", "the square")
    axes = small(mean.inputs[1]) if len(mean.inputs) > 1 else None
    if square.inputs[0] is not x or square.inputs[1] is not x:
        raise Unlike(f"the mean is of {square.inputs[0]}, not of squares of {x.name}")
    if axes is None or axes.size != 1 or axes.item() % len(shape) != len(shape) - 1:
        raise Unlike("the mean is not along the last axis")
    return x


def _rewrite(node: ir.Node, x: ir.Value) -> None:
    """Replace ``node``, or the product with a stored gamma that alone reads it."""
    shape = static(x)
    assert shape is not None
    product, gamma = _scaled(node)
    edit = Replacement(product or node)
    factor = np.float32(sqrt(shape[-1]))
    normal = edit.op("LpNormalization", [x], {"axis": -1, "p": 2}, shape=shape)
    if gamma is None:
        weight = edit.constant("root", np.asarray(factor))
    else:
        weight = edit.weight(derive(gamma, "norm", lambda held: held * factor, shape=static(gamma) or ()))
    edit.finish(edit.op("Mul", [normal, weight], shape=shape))


def _scaled(node: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """Return the Mul by a stored vector that alone reads ``node``, and the vector."""
    output = node.outputs[0]
    uses = tuple(output.uses())
    if len(uses) != 1 or output.is_graph_output() or not is_op(uses[0].node, "Mul"):
        return None, None
    product = uses[0].node
    gamma = product.inputs[1 - uses[0].idx]
    if gamma is None or not stored(gamma) or static(gamma) != (static(output) or ())[-1:]:
        return None, None
    return product, gamma
