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
from m4c.qdq import Placer
from m4c.quant import CALIBRATED, NARROW, WIDE, PerChannel, activations, from_range
from m4c.scales import RULES, WIDE_KERNELS, Fixed, Rule, Rules, Same, Scales, float_operands, stored_range
from m4c.weights import stored


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Quantize the whole graph to int8.

    Before: ``y = Add(MatMul(x, W), b)``. After, with DQ(Q(·)) a pair::

        y' = Add(MatMul(DQ(Q(x)), DQ(W.int8, axis=1)), DQ(b.int32, axis=0));  y = DQ(Q(y'))

    Operators named in ``wide`` compute in int16, where eight bits are too few: softmax over a thousand keys rounds most
    of its outputs to zero at the fixed scale of 1/256. Values are converted where widths meet.

    What the rules do not know stays float between two pairs, and is a miss; with ``strict`` it is an error.
    """

    strict: bool = False
    wide: tuple[str, ...] = ()
    rules: Rules = field(default_factory=lambda: RULES, repr=False, compare=False)

    name: ClassVar[str] = "quantize-static"
    needs: ClassVar[tuple[Property, ...]] = (CALIBRATED,)
    breaks: ClassVar[tuple[Property, ...]] = (CALIBRATED,)

    def __str__(self) -> str:
        """Return the name and the options; the wide operators joined by plus signs."""
        options = [*(["strict"] * self.strict), *([f"wide={'+'.join(self.wide)}"] * bool(self.wide))]
        return self.name + (f"{{{','.join(options)}}}" if options else "")

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
        plan = _plan(model.graph, self.rules, self.wide)
        pairs = _place(model.graph, plan)
        ir.passes.common.RemoveUnusedNodesPass()(model)
        if self.wide:
            model.graph.opset_imports[""] = max(21, model.graph.opset_imports[""])
        return Result(model, modified=pairs > 0, changes=(Note("graph", f"{pairs} pairs"),), misses=misses)

    def _misses(self, graph: ir.Graph) -> list[Note]:
        notes = []
        for node in graph:
            values = [*node.inputs, *node.outputs]
            floats = any(v is not None and v.dtype == ir.DataType.FLOAT for v in values)
            if floats and (reason := _unquantizable(node, self.rules)):
                notes.append(Note(module_path(node), reason))
        return notes


@dataclass(frozen=True)
class _Plan:
    """What was decided before anything is edited."""

    scales: Scales
    rules: dict[ir.Node, Rule]
    bits: dict[ir.Node, int]
    inner: frozenset[ir.Value]
    linear_of: dict[ir.Node, ir.Node]


def _plan(graph: ir.Graph, rules: Rules, wide: tuple[str, ...]) -> _Plan:
    """Find the units, the values inside them, and the scales of all others."""
    linear_of = {add: node for node in graph if (add := _bias_add(node)) is not None}
    inner = {linear.outputs[0] for linear in linear_of.values()}
    known = {node: rules[operator(node)] for node in graph if not _unquantizable(node, rules)}
    for node in graph:
        if node.op_type == "Reciprocal" and node in known and node.inputs[0] is not None:
            inner.add(node.inputs[0])
        inner |= {output for output in node.outputs if _in_island(output, known)}
    scales, bits = Scales(), {}
    for value in activations(graph):
        if value not in inner:
            scales.add(value)
    for node, rule in known.items():
        unit = node in linear_of or _is_linear(node)
        root = node.op_type == "Sqrt" and node.outputs[0] in inner
        name = "Reciprocal" if root else operator(node)
        bits[node] = WIDE if name in wide and not unit else NARROW
        scales.place(node, rule, bits[node])
    return _Plan(scales, known, bits, frozenset(inner), linear_of)


def _unquantizable(node: ir.Node, rules: Rules) -> str:
    """Return why ``node`` has no integer form, or nothing."""
    if operator(node) not in rules:
        return f"{operator(node)} has no integer kernel"
    if node.op_type == "Reciprocal" and not _is_rsqrt(node):
        return "Reciprocal has no integer kernel, unless it is the only reader of a Sqrt"
    return ""


def _is_rsqrt(node: ir.Node) -> bool:
    root = node.inputs[0].producer() if node.inputs[0] is not None else None
    return root is not None and root.op_type == "Sqrt" and _only_reader(root.outputs[0]) is node


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _is_linear(node: ir.Node) -> bool:
    """Return whether ``node`` multiplies by a stored matrix."""
    if node.op_type != "MatMul":
        return False
    matrix = node.inputs[1]
    return matrix is not None and stored(matrix) and matrix.shape is not None and len(matrix.shape) == 2


def _bias_add(node: ir.Node) -> ir.Node | None:
    """Return the Add that gives a linear ``node`` its stored bias, one number a column."""
    add = _only_reader(node.outputs[0]) if _is_linear(node) else None
    if add is None or add.op_type != "Add":
        return None
    matrix, bias = node.inputs[1], next(v for v in add.inputs if v is not node.outputs[0])
    assert matrix is not None
    assert matrix.shape is not None
    return add if bias is not None and stored(bias) and bias.shape == matrix.shape[1:] else None


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
        if node in plan.linear_of:
            _place_bias(placer, plan, node)
        else:
            for index in float_operands(node, rule):
                _place_operand(placer, plan, node, index)
    return placer.pairs


def _place_bias(placer: Placer, plan: _Plan, add: ir.Node) -> None:
    linear = plan.linear_of[add]
    index = next(i for i, value in enumerate(add.inputs) if value is not linear.outputs[0])
    _place_unit_bias(placer, plan, add, index, linear, PerChannel(1))


def _place_unit_bias(
    placer: Placer, plan: _Plan, node: ir.Node, index: int, linear: ir.Node, granularity: PerChannel
) -> None:
    data = linear.inputs[0]
    assert data is not None
    scale = plan.scales.of(placer.source(data), NARROW).scale
    placer.bias(node, index, linear, scale, granularity)


def _place_operand(placer: Placer, plan: _Plan, node: ir.Node, index: int) -> None:
    """Give one operand of ``node`` the form that its kernel reads."""
    value, rule = node.inputs[index], plan.rules[node]
    assert value is not None
    if not stored(value):
        _convert(placer, plan, node, index)
    elif _is_linear(node) and index == 1:
        placer.weight(node, index, PerChannel(1))
    elif node.op_type == "Conv" and index == 1:
        placer.weight(node, index, PerChannel(0))
    elif node.op_type == "Conv" and index == 2:
        _place_unit_bias(placer, plan, node, index, node, PerChannel(0))
    elif isinstance(rule, Same):
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
