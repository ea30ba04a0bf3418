"""Bring every operator that has several spellings to one, so that what follows has few forms to know.

One function an operator: it either replaces the node and says how, or leaves it. The functions run over the graph until
nothing changes. What they leave behind is the canonical set; anything else in a graph is there because no simpler form is
exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from m4c.errors import Bug
from m4c.model import module_path
from m4c.passes import arithmetic_forms as arithmetic
from m4c.passes import shape_forms as shapes
from m4c.passes import window_forms as windows
from m4c.passes.properties import typed
from m4c.pipeline import Note, Pass, Property, Result

ROUNDS = 8
"""More rounds than any chain of rewrites here needs; reaching it is a bug."""

FORMS: dict[str, Callable[[ir.Node], str | None]] = {
    "BatchNormalization": arithmetic.batch_normalization,
    "Cast": shapes.cast,
    "Conv": windows.explicit_pads,
    "ConvTranspose": windows.explicit_pads,
    "Div": arithmetic.divide,
    "Expand": shapes.broadcast,
    "Flatten": shapes.reshape_like,
    "Gather": shapes.gather,
    "GatherND": shapes.gather_nd,
    "Gemm": arithmetic.gemm,
    "Identity": shapes.identity,
    "Mul": arithmetic.multiply,
    "Neg": arithmetic.negate,
    "Pow": arithmetic.power,
    "Reciprocal": arithmetic.reciprocal,
    "Reshape": shapes.reshape,
    "Split": shapes.split,
    "Squeeze": shapes.reshape_like,
    "Tile": shapes.broadcast,
    "Unsqueeze": shapes.reshape_like,
}


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Rewrite each operator that has a simpler exact form.

    Before: ``Gemm``, ``Squeeze``, ``Pow(x, 2)``, ``x · 1/√v``. After: ``MatMul + Add``, ``Reshape``, ``x · x``, ``x / √v``.
    Convolutions get their padding as numbers.
    """

    only: tuple[str, ...] = ()
    """The operators whose forms are applied, where it is not all."""

    name: ClassVar[str] = "canonicalize"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Apply the forms until none applies."""
        changes: list[Note] = []
        for _ in range(ROUNDS):
            made = [note for node in model.graph if (note := self._apply(node)) is not None]
            if not made:
                return Result(model, modified=bool(changes), changes=tuple(changes))
            changes += made
            ir.passes.common.RemoveUnusedNodesPass()(model)
        raise Bug(f"still changing after {ROUNDS} rounds: {changes[-1].text}", where=changes[-1].where)

    def _apply(self, node: ir.Node) -> Note | None:
        """Try the form of one node."""
        form = FORMS.get(node.op_type)
        if (
            form is None
            or node.domain not in ("", "ai.onnx")
            or (self.only and node.op_type not in self.only)
        ):
            return None
        where = module_path(node)
        text = form(node)
        return Note(where, text) if text is not None else None
