"""Keep divisors from being rounded to nothing: a division by zero has no number, whatever the sample was."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from m4c.model import module_path
from m4c.pipeline import Note, Pass, Property, Result
from m4c.quant import CALIBRATED, NARROW, activations, from_range, get_range, set_range
from m4c.rewrite import Replacement


@dataclass(frozen=True)
class GuardDivisors(Pass):
    """Let no divisor be smaller than one step of its range in ``bits``.

    Before: ``y = Div(x, d)``, where ``d`` was never negative. After: ``y = Div(x, Max(d, step))``.

    Divisions compute in float, but what they divide by is rounded: the root mean square of a trained LLaMA's tokens spans a
    range of thirty to one, and in eight bits the smallest becomes 0. A divisor that was negative, or stored, is left.
    """

    bits: int = NARROW

    name: ClassVar[str] = "guard-divisors"
    needs: ClassVar[tuple[Property, ...]] = (CALIBRATED,)
    gives: ClassVar[tuple[Property, ...]] = (CALIBRATED,)

    def call(self, model: ir.Model) -> Result:
        """Guard each divisor once, for all who divide by it."""
        computed, guarded = set(activations(model.graph)), dict[ir.Value, ir.Value]()
        changes = []
        for node in [n for n in model.graph if n.op_type == "Div" and not n.domain]:
            divisor = node.inputs[1]
            known = get_range(divisor) if divisor in computed and divisor is not None else None
            if divisor is None or known is None or known[0] < 0 or known[1] <= 0:
                continue
            if divisor not in guarded:
                guarded[divisor] = self._guarded(node, divisor, known)
                changes.append(
                    Note(module_path(node), f"no divisor under a step of its range, {known[1]:.3g}")
                )
            node.replace_input_with(1, guarded[divisor])
        return Result(model, modified=bool(changes), changes=tuple(changes))

    def _guarded(self, node: ir.Node, divisor: ir.Value, known: tuple[float, float]) -> ir.Value:
        """Put the larger of ``divisor`` and a step before ``node``, and return it, with the divisor's range."""
        made = Replacement(node)
        step = made.constant("step", from_range(*known, self.bits).scale)
        larger = made.op("Max", [divisor, step], shape=divisor.shape, dtype=divisor.dtype)
        made.before()
        set_range(larger, *known)
        return larger
