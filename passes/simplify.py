"""Drop what is not needed: constants folded, dead nodes and duplicates removed, shapes inferred.

The work is onnxscript's optimizer's. It would read every weight, so weights are hidden from it while it runs.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnxscript.optimizer import optimize_ir

from m4c.model import fingerprint
from m4c.passes.properties import typed
from m4c.pipeline import Note, Pass, Property, Result
from m4c.quiet import quiet
from m4c.weights import hidden

DEDUPLICATION = "onnx_ir.passes.common.initializer_deduplication"
"""Warns of every weight that has no value: that they are hidden is the purpose."""


@dataclass(frozen=True)
class Simplify(Pass):
    """Fold constants, remove dead and duplicate nodes, infer every shape; weights are left as they are.

    Before: ``Constant(2) · x``, ``Shape(x) → Gather → Concat → Reshape``. After: ``Reshape(x, [1, 17, 64])``.
    """

    name: ClassVar[str] = "simplify"
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Run the optimizer with the weights hidden."""
        before, count = fingerprint(model), len(model.graph)
        with hidden(model), quiet(DEDUPLICATION):
            optimize_ir(model)
        modified = fingerprint(model) != before
        notes = (Note("graph", f"{count} nodes became {len(model.graph)}"),) if modified else ()
        return Result(model, modified=modified, changes=notes)
