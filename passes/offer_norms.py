"""A second way to divide vectors by their lengths, beside the first, for calibration to see both.

L2_NORMALIZATION writes int8 in steps of 1/128, whatever it normalizes: of 64 channels, the typical one is 1/8, sixteen steps;
of 1024, four. A product with the reciprocal length has a scale of its own, but lengths in eight bits serve only vectors of
about one length. Which is the better is known when ranges are: :mod:`m4c.passes.choose_norms`.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from m4c.model import module_path
from m4c.pipeline import Note, Pass, Result
from m4c.quant import INSTEAD
from m4c.rewrite import Replacement, attribute, static

SMALLEST = 1e-24
"""Squares of lengths below this are taken for this, so that a vector of zeros has a length to divide by."""


@dataclass(frozen=True)
class OfferNorms(Pass):
    """Compute beside each LpNormalization, along the last axis of size K, what may take its place.

    Before: ``y = LpNormalization(d)``. After, beside it and without readers::

        z = d · Reciprocal(Sqrt(Clip(ReduceSum(d · d))))
    """

    name: ClassVar[str] = "offer-norms"

    def call(self, model: ir.Model) -> Result:
        """Add one form for each norm that qualifies; the others are misses."""
        offered = {value.metadata_props.get(INSTEAD) for node in model.graph for value in node.outputs}
        changes, misses = [], []
        for node in [n for n in model.graph if n.op_type == "LpNormalization" and not n.domain]:
            if node.outputs[0].name in offered:
                continue
            reason = _reason(node)
            if reason:
                misses.append(Note(module_path(node), reason))
                continue
            _offer(node)
            changes.append(Note(module_path(node), "a product with the reciprocal length is offered"))
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _reason(node: ir.Node) -> str:
    """Return why there is no other form of ``node``, or nothing."""
    output, shape = node.outputs[0], static(node.inputs[0])
    if shape is None:
        return f"the shape of {output.name} is {output.shape}, not static"
    if attribute(node, "axis", -1) % len(shape) != len(shape) - 1 or attribute(node, "p", 2) != 2:
        return f"{output.name} is no length along the last axis"
    return ""


def _offer(node: ir.Node) -> None:
    """Put the other form of ``node`` behind it."""
    edit, d = Replacement(node), node.inputs[0]
    shape = static(d)
    assert shape is not None
    one = (*shape[:-1], 1)
    axes, least = edit.constant("axes", [len(shape) - 1]), edit.constant("least", SMALLEST)
    total = edit.op("ReduceSum", [edit.op("Mul", [d, d], shape=shape), axes], {"keepdims": 1}, shape=one)
    square = edit.op("Clip", [total, least], shape=one)
    inverse = edit.op("Reciprocal", [edit.op("Sqrt", [square], shape=one)], shape=one)
    made = edit.op("Mul", [d, inverse], shape=shape)
    made.metadata_props[INSTEAD] = str(node.outputs[0].name)
    edit.before()
