"""Which scale each value of an int8 graph has: kernels fix some, force others to be equal, and leave the rest free."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from m4c.errors import Bug
from m4c.quant import Quantization, from_range, get_range
from m4c.weights import array, is_weight, stored


@dataclass(frozen=True, slots=True)
class Own:
    """The output has its own calibrated scale."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """The kernel writes its output with this scale, whatever was calibrated."""

    output: Quantization


@dataclass(frozen=True, slots=True)
class Same:
    """The kernel copies values: outputs and the given operands (all, if None) have one scale."""

    operands: tuple[int, ...] | None = (0,)


Rule = Own | Fixed | Same

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(
        ("MatMul", "Conv", "Add", "Sub", "Mul", "ReduceMean", "Gelu", "Relu", "Neg", "Exp"), Own()
    ),
    "Softmax": Fixed(Quantization(1 / 256, -128)),
    "Sigmoid": Fixed(Quantization(1 / 256, -128)),
    "Tanh": Fixed(Quantization(1 / 128, 0)),
    "LpNormalization": Fixed(Quantization(1 / 128, 0)),
    **dict.fromkeys(
        (
            "Reshape",
            "Transpose",
            "Slice",
            "Split",
            "Gather",
            "Expand",
            "Squeeze",
            "Unsqueeze",
            "Resize",
            "Clip",
        ),
        Same(),
    ),
    "Concat": Same(None),
    "Max": Same(None),
    "Min": Same(None),
    "Where": Same((1, 2)),
    "Sqrt": Own(),
    "Reciprocal": Own(),
    "ArgMax": Own(),
}
"""Int8 operators and their output scales: LiteRT's 8-bit quantization specification (ai.google.dev/edge/litert).

Each kernel's existence was tried with ai-edge-litert 2.3. ``Reciprocal`` is there for ``Reciprocal(Sqrt(x))``, which is RSQRT;
there is no int8 kernel for division, powers, sine and cosine.
"""


def float_operands(node: ir.Node, rule: Rule) -> list[int]:
    """Return which operands of ``node`` are float data; bounds, sizes and indices are not."""
    chosen = range(len(node.inputs))
    if isinstance(rule, Same) and rule.operands is not None:
        chosen = [i for i in rule.operands if i < len(node.inputs)]  # type: ignore[assignment]
    return [i for i in chosen if (v := node.inputs[i]) is not None and v.dtype == ir.DataType.FLOAT]


def stored_range(value: ir.Value) -> tuple[float, float]:
    """Return the range of a stored operand: from calibration, or of its values if it is a constant in memory.

    Raises:
        Bug: for a weight that calibration did not see.
    """
    known = get_range(value)
    if known is not None:
        return known
    if value.const_value is None or is_weight(value):
        raise Bug(
            f"{value.name} has no range",
            where=str(value.name),
            fix="calibrate after the last pass that adds weights",
        )
    values = array(value.const_value)
    return float(values.min(initial=0.0)), float(values.max(initial=0.0))


class Scales:
    """Groups of values that share one quantization."""

    def __init__(self) -> None:
        """Start without groups."""
        self._parent: dict[ir.Value, ir.Value] = {}
        self._range: dict[ir.Value, tuple[float, float]] = {}
        self._fixed: dict[ir.Value, Quantization] = {}

    def add(self, value: ir.Value) -> None:
        """Start a group with ``value`` and its calibrated range."""
        known = get_range(value)
        if known is None:
            raise Bug(f"{value.name} has no range", where=str(value.name))
        self._parent[value], self._range[value] = value, known

    def leader(self, value: ir.Value) -> ir.Value:
        """Return the value after which the group of ``value`` is named."""
        while self._parent[value] is not value:
            self._parent[value] = self._parent[self._parent[value]]
            value = self._parent[value]
        return value

    def of(self, value: ir.Value) -> Quantization:
        """Return the quantization of ``value``'s group."""
        first = self.leader(value)
        return self._fixed.get(first) or from_range(*self._range[first])

    def place(self, node: ir.Node, rule: Rule) -> None:
        """Apply the rule of ``node`` to the groups of its values."""
        outputs = [o for o in node.outputs if o in self._parent]
        match rule:
            case Own():
                return
            case Fixed(quantization):
                for output in outputs:
                    self._fixed[self.leader(output)] = quantization
            case Same():
                self._join(node, rule, outputs)

    def _join(self, node: ir.Node, rule: Same, outputs: list[ir.Value]) -> None:
        operands = [v for i in float_operands(node, rule) if (v := node.inputs[i]) is not None]
        for operand in operands:
            for output in outputs:
                if stored(operand):
                    self._widen(output, stored_range(operand))
                elif len(operands) == 1 or self.leader(operand) not in self._fixed:
                    self._merge(operand, output)

    def _widen(self, value: ir.Value, more: tuple[float, float]) -> None:
        first = self.leader(value)
        low, high = self._range[first]
        self._range[first] = min(low, more[0]), max(high, more[1])

    def _merge(self, one: ir.Value, other: ir.Value) -> None:
        first, second = self.leader(one), self.leader(other)
        if first is second:
            return
        self._widen(first, self._range[second])
        self._parent[second] = first
