"""Norms of vectors where a target has no L2_NORMALIZATION."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.offers import offers, take
from m4c.pipeline import Note, Pass, Result


@dataclass(frozen=True)
class LegalizeLengths(Pass):
    """Let what :class:`m4c.passes.offer_norms.OfferNorms` offered take the place of each norm, whatever its ranges.

    Before: ``y = LpNormalization(d)``, and beside it ``z = d · Reciprocal(Sqrt(Clip(ReduceSum(d · d))))``. After:
    ``y = d · Reciprocal(Sqrt(ReduceSum(d · d)))``. It stands where :class:`m4c.passes.choose_norms.ChooseNorms` stands else.
    """

    name: ClassVar[str] = "legalize-lengths"

    def call(self, model: ir.Model) -> Result:
        """Replace each norm that something was offered for."""
        changes = []
        for kept, offer in offers(model):
            changes.append(Note(module_path(kept.producer()), "a product with the reciprocal length"))  # type: ignore[arg-type]
            take(kept, offer)
        if changes:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes))
