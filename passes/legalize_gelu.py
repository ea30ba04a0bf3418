"""GELU from operators that an accelerator without it has."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import is_op, known
from m4c.pipeline import Note, Pass, Property, Result
from m4c.quant import set_bounds
from m4c.rewrite import Replacement

LINEAR, CUBIC = 1.5957691216, 0.0713548163
"""2 · √(2/π), and that times 0.044715: the approximation by tanh is x · σ(LINEAR · x + CUBIC · x³)."""

QUICK = 1.702
"""What the argument of a sigmoid is multiplied by to be near the normal distribution."""

CUT = 5.0
"""σ(LINEAR · 5 + CUBIC · 125) is within 5e-8 of 1: beyond, GELU is x or 0."""

SATURATED = 6.0
"""σ(±6) is within a step of 1/256 of its limits."""


@dataclass(frozen=True)
class LegalizeGelu(Pass):
    """Rewrite every GELU.

    Before: ``y = Gelu(x)``. After: ``y = x · Sigmoid(c · (1.596 + 0.0714 · c · c))`` with ``c = Clip(x, -5, 5)``, the
    approximation by tanh, within 5e-4 of the exact one; ``quick``: ``y = x · Sigmoid(1.702 · x)``, within 0.021. Without the
    Clip, LiteRT's product of a wide x and its wider square overflows where a few values are far out.
    """

    form: Literal["tanh", "quick"] = "tanh"

    name: ClassVar[str] = "legalize-gelu"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each."""
        changes = []
        for node in [n for n in model.graph if is_op(n, "Gelu")]:
            edit, x = Replacement(node), known(node.inputs[0])
            argument = self._argument(edit, x)
            set_bounds(argument, -SATURATED, SATURATED)
            share = edit.op("Sigmoid", [argument], shape=x.shape)
            edit.finish(edit.op("Mul", [x, share], shape=x.shape))
            changes.append(Note(module_path(node), f"Gelu as {self.form}"))
        return Result(model, modified=bool(changes), changes=tuple(changes))

    def _argument(self, edit: Replacement, x: ir.Value) -> ir.Value:
        """Return what the sigmoid is of."""
        if self.form == "quick":
            return edit.op("Mul", [x, edit.constant("quick", QUICK)], shape=x.shape)
        low, high = (edit.constant(name, bound) for name, bound in (("low", -CUT), ("high", CUT)))
        cut = edit.op("Clip", [x, low, high], shape=x.shape)
        square = edit.op("Mul", [cut, cut], shape=x.shape)
        scaled = edit.op("Mul", [square, edit.constant("cubic", CUBIC)], shape=x.shape)
        slope = edit.op("Add", [scaled, edit.constant("linear", LINEAR)], shape=x.shape)
        return edit.op("Mul", [cut, slope], shape=x.shape)
