"""Which scale each value of an integer graph has: kernels fix some, force others to be equal, and leave the rest free."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from m4c.errors import Bug
from m4c.model import operator
from m4c.quant import NARROW, WIDE, Quantization, from_range, get_range
from m4c.weights import array, is_weight, stored


@dataclass(frozen=True, slots=True)
class Own:
    """The output has its own calibrated scale."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """The kernel writes its output with this scale, whatever was calibrated; another one if it computes wide."""

    narrow: Quantization
    wide: Quantization | None = None


@dataclass(frozen=True, slots=True)
class Same:
    """The kernel copies values: outputs and the given operands (all, if None) have one scale."""

    operands: tuple[int, ...] | None = (0,)


Rule = Own | Fixed | Same
Rules = Mapping[str, Rule]

CONVOLUTIONS: Mapping[str, int] = {"Conv": 0, "ConvTranspose": 1}
"""Operators that multiply by a stored kernel, and the axis of the output channels in it."""

_PROBABILITY = Fixed(Quantization(1 / 256, -128), Quantization(1 / 32768, 0, WIDE))
_CALCULATED = (
    "MatMul",
    "Conv",
    "ConvTranspose",
    "Add",
    "Sub",
    "Mul",
    "ReduceMean",
    "ReduceSum",
    "Sqrt",
    "Reciprocal",
    "Gelu",
    "Relu",
    "Neg",
    "Exp",
    "LeakyRelu",
    "PRelu",
    "GlobalAveragePool",
)
_COPIED = (
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
    "ReduceMax",
    "MaxPool",
    "AveragePool",
    "GlobalMaxPool",
    "Pad",
    "DepthToSpace",
    "GatherElements",
)

RULES: Rules = {
    **dict.fromkeys((*_CALCULATED, "ArgMax"), Own()),
    **dict.fromkeys(_COPIED, Same()),
    **dict.fromkeys(("Concat", "Max", "Min"), Same(None)),
    "Where": Same((1, 2)),
    "Softmax": _PROBABILITY,
    "Sigmoid": _PROBABILITY,
    "LogSoftmax": Fixed(Quantization(1 / 16, 127)),
    "Tanh": Fixed(Quantization(1 / 128, 0), Quantization(1 / 32768, 0, WIDE)),
    "LpNormalization": Fixed(Quantization(1 / 128, 0)),
}
"""Integer operators and their output scales, after LiteRT's 8-bit quantization specification; ai-edge-litert 2.3 runs them.

There is no integer kernel for division, powers, sine and cosine. ``Reciprocal`` stands for ``Reciprocal(Sqrt(x))``, RSQRT.
"""

WIDE_KERNELS = frozenset(
    {"Softmax", "Sigmoid", "Tanh", "MatMul", "Linear", "Conv", "ConvTranspose", "Add", "Sub", "Mul"}
    | {"ReduceMean", "Reciprocal", "Gelu", "Relu", "Exp", "LeakyRelu", "GlobalAveragePool"}
)
"""What can compute in int16 too, tried with ai-edge-litert 2.3; operators that copy follow their operand.

``Linear`` is a ``MatMul`` by a stored matrix with its bias (int16 by int8), ``MatMul`` one of two computed values.
"""


MOST_WIDENED = 1.25
"""How much the range of a value may grow for one reader's sake, while others read it too.

A U-Net hands early values to late layers, side by side with ranges several times as wide.
"""

WIDE_RULES: Rules = {
    kind: rule
    for kind, rule in RULES.items()
    if isinstance(rule, Same) or kind in WIDE_KERNELS or kind == "Sqrt"
}
"""The rules of a graph in int16 throughout: what has no such kernel (L2_NORMALIZATION, say) stays float, never int8.

``Sqrt`` is there as the inner part of ``Reciprocal``.
"""


def float_operands(node: ir.Node, rule: Rule) -> list[int]:
    """Return which operands of ``node`` are float data; bounds, sizes and indices are not."""
    count = len(node.inputs)
    chosen = range(count) if not isinstance(rule, Same) or rule.operands is None else rule.operands
    present = [(i, node.inputs[i]) for i in chosen if i < count]
    return [i for i, value in present if value is not None and value.dtype == ir.DataType.FLOAT]


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
    """Groups of values that share one quantization; the first value of a group leads it."""

    def __init__(self) -> None:
        """Start without groups."""
        self._parent: dict[ir.Value, ir.Value] = {}
        self._range: dict[ir.Value, tuple[float, float]] = {}
        self._fixed: dict[ir.Value, Quantization] = {}
        self._wide: set[ir.Value] = set()

    def add(self, value: ir.Value) -> None:
        """Start a group with ``value`` and its calibrated range.

        Raises:
            Bug: if it has none.
        """
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

    def bits(self, value: ir.Value) -> int:
        """Return the width in which ``value`` is stored."""
        return WIDE if self.leader(value) in self._wide else NARROW

    def of(self, value: ir.Value, bits: int | None = None) -> Quantization:
        """Return how the group of ``value`` is stored, or how it is when converted to ``bits``."""
        first = self.leader(value)
        fixed = self._fixed.get(first)
        if fixed is not None and bits in (None, fixed.bits):
            return fixed
        low, high = fixed.range if fixed is not None else self._range[first]
        return from_range(low, high, bits or self.bits(value))

    def add_wide(self, value: ir.Value) -> None:
        """Start a group with ``value`` that is stored in int16, whoever makes it."""
        self.add(value)
        self._wide.add(value)

    def place(self, node: ir.Node, rule: Rule, bits: int) -> None:
        """Apply the rule of ``node``, which computes in ``bits``, to its values; nodes come in topological order."""
        outputs = [o for o in node.outputs if o in self._parent]
        if isinstance(rule, Same):
            self._join(node, rule, outputs)
            return
        for output in outputs:
            if bits == WIDE:
                self._wide.add(output)
            if isinstance(rule, Fixed):
                self._fixed[output] = self._fix(node, rule, bits)

    def _fix(self, node: ir.Node, rule: Fixed, bits: int) -> Quantization:
        quantization = rule.narrow if bits == NARROW else rule.wide
        if quantization is None:
            raise Bug(f"{operator(node)} has no {bits}-bit scale", where=str(node.name))
        return quantization

    def _join(self, node: ir.Node, rule: Same, outputs: list[ir.Value]) -> None:
        """Give ``outputs`` the scale of the operands; of several, those are converted that should keep their own."""
        operands = [v for i in float_operands(node, rule) if (v := node.inputs[i]) is not None]
        alone = len(operands) == 1
        for operand in operands:
            for output in outputs:
                if stored(operand):
                    self._widen(output, stored_range(operand))
                elif alone or not self._keeps(operand, output):
                    self._merge(operand, output)
                else:
                    self._widen(output, self.of(operand).range)

    def _keeps(self, operand: ir.Value, output: ir.Value) -> bool:
        """Return whether ``operand`` keeps its scale: it is fixed, wide, or finer than others should read it from then on."""
        first = self.leader(operand)
        if first in self._fixed or first in self._wide:
            return True
        (low, high), (least, most) = self._range[first], self._range[self.leader(output)]
        widened = max(high, most) - min(low, least) > MOST_WIDENED * (high - low)
        return widened and len(operand.uses()) > 1

    def _widen(self, value: ir.Value, more: tuple[float, float]) -> None:
        first = self.leader(value)
        low, high = self._range[first]
        self._range[first] = min(low, more[0]), max(high, more[1])

    def _merge(self, one: ir.Value, other: ir.Value) -> None:
        first, second = self.leader(one), self.leader(other)
        if first is not second:
            self._widen(first, self._range[second])
            self._parent[second] = first
