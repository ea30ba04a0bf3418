"""Fully-integer quantization, said in the IR by QuantizeLinear and DequantizeLinear pairs.

Every node keeps its float meaning; what changes is that each float value is rounded to an integer and back before anyone
reads it. A lowering fuses ``Dequantize → op → Quantize`` into the integer kernel. Scales come from calibration, from the
table of rules where a kernel fixes them, and from the weights themselves, in recipes that nothing reads here.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from m4c.errors import UnsupportedError, UsageError
from m4c.model import module_path, operator
from m4c.pipeline import Note, Pass, Property, Result
from m4c.qdq import Placer, Unit
from m4c.quant import CALIBRATED, NARROW, WIDE, activations, from_range
from m4c.rewrite import attribute, static
from m4c.scales import (
    CONVOLUTIONS,
    RULES,
    WIDE_KERNELS,
    WIDE_RULES,
    Fixed,
    Rule,
    Rules,
    Same,
    Scales,
    float_operands,
    stored_range,
)
from m4c.weights import stored


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Quantize the whole graph to int8.

    Before: ``y = Add(MatMul(x, W), b)``. After, with DQ(Q(·)) a pair::

        y' = Add(MatMul(DQ(Q(x)), DQ(W.int8, axis=1)), DQ(b.int32, axis=0));  y = DQ(Q(y'))

    Operators named in ``wide`` compute in int16, where eight bits are too few: softmax over a thousand keys rounds most
    of its outputs to zero at the fixed scale of 1/256. Values are converted where widths meet. With all of
    :data:`WIDE_KERNELS`, no value is int8 (weights are): what has no such kernel stays float.

    What the rules do not know stays float between two pairs, and is a miss; with ``strict`` it is an error.
    """

    strict: bool = False
    wide: tuple[str, ...] = ()
    rules: Rules = field(default_factory=lambda: RULES, repr=False, compare=False)

    name: ClassVar[str] = "quantize-static"
    needs: ClassVar[tuple[Property, ...]] = (CALIBRATED,)
    breaks: ClassVar[tuple[Property, ...]] = (CALIBRATED,)

    @property
    def _known(self) -> Rules:
        """The rules that apply: in int16 throughout, those of kernels that can."""
        if not set(self.wide) >= WIDE_KERNELS:
            return self.rules
        return {kind: rule for kind, rule in self.rules.items() if kind in WIDE_RULES}

    def __str__(self) -> str:
        """Return the name and the options; the wide operators joined by plus signs."""
        options = [*(["strict=True"] * self.strict), *([f"wide={self._widths()}"] * bool(self.wide))]
        return self.name + (f"{{{','.join(options)}}}" if options else "")

    def _widths(self) -> str:
        return "all" if set(self.wide) >= WIDE_KERNELS else "+".join(self.wide)

    def call(self, model: ir.Model) -> Result:
        """Choose the scales, then place the pairs; opset 21 if any value is int16, which opset 20 cannot say."""
        if unknown := sorted(set(self.wide) - WIDE_KERNELS):
            raise UsageError(
                f"{', '.join(unknown)} cannot compute in int16",
                fix=f"choose from {', '.join(sorted(WIDE_KERNELS))}",
            )
        misses = tuple(self._misses(model.graph))
        if misses and self.strict:
            more = f", and {len(misses) - 1} more" if misses[1:] else ""
            raise UnsupportedError(
                misses[0].text + more,
                where=misses[0].where,
                fix="rewrite these operators into others before, or quantize without strict",
            )
        plan = _plan(model.graph, self._known, self.wide)
        pairs = _place(model.graph, plan)
        ir.passes.common.RemoveUnusedNodesPass()(model)
        if self.wide:
            model.graph.opset_imports[""] = max(21, model.graph.opset_imports[""])
        return Result(model, modified=pairs > 0, changes=(Note("graph", f"{pairs} pairs"),), misses=misses)

    def _misses(self, graph: ir.Graph) -> list[Note]:
        notes, computed = [], set(activations(graph))
        for node in graph:
            values = [v for v in (*node.inputs, *node.outputs) if v is not None]
            floats = any(v in computed or (stored(v) and v.dtype == ir.DataType.FLOAT) for v in values)
            if floats and (reason := _unquantizable(node, self._known)):
                notes.append(Note(module_path(node), reason))
        return notes


@dataclass(frozen=True)
class _Plan:
    """What was decided before anything is edited: ``inner`` values stay as they are, inside of one kernel."""

    scales: Scales
    rules: dict[ir.Node, Rule]
    bits: dict[ir.Node, int]
    inner: frozenset[ir.Value]
    units: dict[ir.Node, Unit]
    biased: frozenset[ir.Node]


def _plan(graph: ir.Graph, rules: Rules, wide: tuple[str, ...]) -> _Plan:
    """Find the units, the values inside them, and the scales of all others."""
    known = {node: rules[operator(node)] for node in graph if not _unquantizable(node, rules)}
    units = {node: unit for node in known if (unit := _unit(node)) is not None}
    biased = frozenset(unit.biased for unit in units.values() if unit.biased is not unit.node)
    inner = {unit.node.outputs[0] for unit in units.values() if unit.biased is not unit.node}
    for node in graph:
        if node.op_type == "Reciprocal" and node in known and node.inputs[0] is not None:
            inner.add(node.inputs[0])
        inner |= {output for output in node.outputs if _in_island(output, known)}
    scales, bits, everywhere = Scales(), {}, set(wide) >= WIDE_KERNELS
    for value in activations(graph):
        if value not in inner:
            (scales.add_wide if everywhere else scales.add)(value)
    for node, rule in known.items():
        linear = node in biased or (node in units and node.op_type == "MatMul")
        root = node.op_type == "Sqrt" and node.outputs[0] in inner
        kernel = "Linear" if linear else "Reciprocal" if root else operator(node)
        bits[node] = WIDE if kernel in wide else NARROW
        scales.place(node, rule, bits[node])
    return _Plan(scales, known, bits, frozenset(inner), units, biased)


def _unquantizable(node: ir.Node, rules: Rules) -> str:
    """Return why ``node`` has no integer form, or nothing."""
    if operator(node) not in rules:
        return f"{operator(node)} has no integer kernel"
    if node.op_type == "Reciprocal" and not _is_rsqrt(node):
        return "Reciprocal has no integer kernel, unless it is the only reader of a Sqrt"
    if node.op_type in CONVOLUTIONS and not stored(node.inputs[1]):
        return "its kernel is computed, not stored"
    if node.op_type in CONVOLUTIONS and len(static(node.inputs[1]) or ()) == 5:
        return f"{node.op_type} of a volume has no integer kernel"
    if node.op_type == "ConvTranspose" and attribute(node, "group", 1) > 1:
        return "ConvTranspose in groups has no integer kernel"
    return ""


def _is_rsqrt(node: ir.Node) -> bool:
    root = node.inputs[0].producer() if node.inputs[0] is not None else None
    return root is not None and root.op_type == "Sqrt" and _only_reader(root.outputs[0]) is node


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _unit(node: ir.Node) -> Unit | None:
    """Return the linear layer or convolution that ``node`` is the product of."""
    if node.op_type in CONVOLUTIONS and stored(node.inputs[1]):
        bias = 2 if len(node.inputs) > 2 and stored(node.inputs[2]) else None
        return Unit(node, node, bias, axis=CONVOLUTIONS[node.op_type])
    matrix = node.inputs[1] if node.op_type == "MatMul" else None
    if matrix is None or not stored(matrix) or stored(node.inputs[0]):
        return None
    if matrix.shape is None or len(matrix.shape) != 2:
        return None
    add = _only_reader(node.outputs[0])
    if add is not None and add.op_type == "Add":
        index = 1 if add.inputs[0] is node.outputs[0] else 0
        bias_value = add.inputs[index]
        if bias_value is not None and stored(bias_value) and bias_value.shape == matrix.shape[1:]:
            return Unit(node, add, index, axis=1)
    return Unit(node, node, None, axis=1)


def _in_island(value: ir.Value, known: dict[ir.Node, Rule]) -> bool:
    """Return whether only float nodes touch ``value``: rounding it would be for nothing."""
    touching = [node for node in (value.producer(), *value.consumers()) if node is not None]
    return len(touching) > 1 and not value.is_graph_output() and not any(node in known for node in touching)


def _place(graph: ir.Graph, plan: _Plan) -> int:
    """Edit ``graph`` as planned; return how many pairs were placed."""
    placer = Placer(graph)
    for value in activations(graph):
        if value not in plan.inner:
            placer.activation(value, plan.scales.of(value), str(plan.scales.leader(value).name))
    for node, rule in plan.rules.items():
        unit = plan.units.get(node)
        if unit is not None:
            _place_unit(placer, plan, unit)
        elif node not in plan.biased:
            for index in float_operands(node, rule):
                _place_operand(placer, plan, node, index)
    return placer.pairs


def _place_unit(placer: Placer, plan: _Plan, unit: Unit) -> None:
    _convert(placer, plan, unit.node, 0)
    data = unit.node.inputs[0]
    assert data is not None
    placer.linear(unit, plan.scales.of(placer.source(data), plan.bits[unit.node]).scale)


def _place_operand(placer: Placer, plan: _Plan, node: ir.Node, index: int) -> None:
    """Give one operand of ``node`` the form that its kernel reads."""
    value = node.inputs[index]
    assert value is not None
    if not stored(value):
        _convert(placer, plan, node, index)
    elif isinstance(plan.rules[node], Same):
        output = node.outputs[0]
        placer.operand(node, index, plan.scales.of(output), str(plan.scales.leader(output).name))
    else:
        placer.operand(node, index, from_range(*stored_range(value), plan.bits[node]), str(value.name))


def _convert(placer: Placer, plan: _Plan, node: ir.Node, index: int) -> None:
    """Convert a computed operand whose scale or width is not the one that the kernel needs."""
    value, rule, scales = node.inputs[index], plan.rules[node], plan.scales
    assert value is not None
    source = placer.source(value)
    if source in plan.inner:
        return
    if isinstance(rule, Same):
        output = node.outputs[0]
        placer.convert(node, index, scales.of(output), str(scales.leader(output).name))
    elif not (isinstance(rule, Fixed) and plan.bits[node] == WIDE):
        # Softmax, Sigmoid and Tanh write int16 from either width.
        wanted = scales.of(source, plan.bits[node])
        placer.convert(node, index, wanted, str(scales.leader(source).name))
