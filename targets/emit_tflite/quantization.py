"""How pairs of QuantizeLinear and DequantizeLinear become quantized tensors.

The idea: a float value that is only ever read through a pair is *carried* by the integer value in the pair's middle, so
value, quantized value and dequantized value are one integer tensor of the file. A unit computes in integers if everything
it reads and writes is carried and LiteRT has an integer kernel for it; else it computes in float, and the pairs around it
are real QUANTIZE and DEQUANTIZE operators, which is what the model says.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from m4c.errors import UnsupportedError
from m4c.model import module_path
from m4c.quant import counted
from m4c.scales import CONVOLUTIONS
from m4c.targets.emit_tflite.flat import Affine
from m4c.targets.emit_tflite.units import Unit, computed_scales, rounded_weight
from m4c.weights import array, stored

ACTIVATIONS = (ir.DataType.INT8, ir.DataType.INT16)
"""What a float value may be carried by."""

PARAMETERS = {"Clip": (1, 2), "Pad": (2,), "Pow": (1,), "Resize": (1, 2, 3), "Bilinear": (1, 2, 3)}
"""Float inputs that say how to compute rather than what on: they are constants and stay float."""

WEIGHTED = ("Linear", *CONVOLUTIONS)
"""Operators whose further operands are int8 weights and int32 biases, whatever the width of the activations."""


INDEX = Affine((1.0,), (0,), dtype=ir.DataType.INT32)
"""How an input is stored that is only counted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which units compute in integers, and which integer value carries which float value.

    ``names`` gives a carrier the name of the graph port it stands for, or of the value that it carries.
    """

    integer: frozenset[Unit]
    carrier: dict[ir.Value, ir.Value] = field(default_factory=dict)
    affine: dict[ir.Value, Affine] = field(default_factory=dict)
    names: dict[ir.Value, str] = field(default_factory=dict)


Kernels = Mapping[ir.DataType, frozenset[str]]
"""By the type of what they read and write: the operators that have an integer kernel."""


def plan(graph: ir.Graph, units: Iterable[Unit], kernels: Kernels, mixed: frozenset[str]) -> Plan:
    """Decide what ``graph`` computes in integers; operators in ``mixed`` may read and write different widths.

    Reads scales and zero points, lazily computed ones too, but no other weight.
    """
    made = Plan(frozenset(unit for unit in units if _in_integers(unit, kernels, mixed)))
    for node in graph:
        if node.op_type == "DequantizeLinear" and not _weight_alone(node):
            source, result = node.inputs[0], node.outputs[0]
            assert source is not None
            made.carrier[result] = source
            _describe(made, source, node)
    if any(node.op_type == "QuantizeLinear" for node in graph):
        for value in graph.inputs:
            if (index := counted(value)) is not None:
                made.carrier[value], made.names[index], made.affine[index] = index, value.name or "", INDEX
    for value in (*graph.inputs, *(output for unit in made.integer for output in unit.outputs)):
        quantize = _quantized(value)
        if quantize is not None:
            made.carrier[value] = quantize.outputs[0]
            made.names[quantize.outputs[0]] = value.name or ""
            _describe(made, quantize.outputs[0], quantize)
    for node in graph:
        if node.op_type == "QuantizeLinear":
            _describe(made, node.outputs[0], node)
    for value in graph.outputs:
        if value in made.carrier:
            made.names[made.carrier[value]] = value.name or ""
    return made


def affine(node: ir.Node) -> Affine:
    """Return the parameters of a QuantizeLinear or DequantizeLinear; a zero point that is left out is 0."""
    held = node.inputs[1].const_value if node.inputs[1] is not None else None
    if held is None or ("block_size" in node.attributes and node.attributes["block_size"].as_int()):
        raise UnsupportedError(
            f"{node.op_type} has {'a computed scale' if held is None else 'scales of blocks'}, "
            "which the TFLite emitter does not know",
            where=f"{node.op_type} node {node.name or '?'} of {module_path(node)}",
            fix="quantize per tensor or per channel, with stored scales",
        )
    scale = array(held)
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    points = np.zeros(scale.shape, np.int64)
    if zero is not None and zero.const_value is not None:
        points = np.broadcast_to(array(zero.const_value), scale.shape)
    axis, rank = 0, _rank(node)
    if scale.size > 1:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        axis += rank if axis < 0 else 0
    return Affine(
        tuple(float(s) for s in scale.ravel()),
        tuple(int(p) for p in points.ravel()),
        axis,
    )


def _weight_alone(node: ir.Node) -> bool:
    """Return whether a DequantizeLinear is of a weight that is quantized without what it is multiplied by."""
    return computed_scales(node) or rounded_weight(node.outputs[0]) is not None


def _rank(node: ir.Node) -> int:
    value = node.inputs[0]
    return 0 if value is None or value.shape is None else len(value.shape)


def _describe(made: Plan, value: ir.Value, node: ir.Node) -> None:
    """Note the parameters of an integer value; biases are left out, theirs follow from what they are added to."""
    if value not in made.affine and value.dtype != ir.DataType.INT32:
        made.affine[value] = replace(affine(node), dtype=value.dtype or ir.DataType.INT8)


def _in_integers(unit: Unit, kernels: Kernels, mixed: frozenset[str]) -> bool:
    """Return whether all float operands are dequantized, all float results are quantized at once, and a kernel fits."""
    parameters = PARAMETERS.get(unit.operator, ())
    operands = [
        _carrier(value)
        for index, value in enumerate(unit.inputs)
        if value is not None and value.dtype == ir.DataType.FLOAT and index not in parameters
    ]
    results = [_quantized(value) for value in unit.outputs if value.dtype == ir.DataType.FLOAT]
    if not operands or None in operands or None in results:
        return False
    if unit.operator in WEIGHTED:
        operands = operands[:1]
    widths = {value.dtype for value in operands if value is not None}
    widths |= {node.outputs[0].dtype for node in results if node is not None}
    if not all(width in kernels and unit.operator in kernels[width] for width in widths if width is not None):
        return False
    return len(widths) == 1 or unit.operator in mixed


def _carrier(value: ir.Value) -> ir.Value | None:
    """Return the integer value that ``value`` is the dequantized form of."""
    producer = value.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or producer.inputs[0] is None:
        return None
    known = (*ACTIVATIONS, ir.DataType.INT32)
    return producer.inputs[0] if producer.inputs[0].dtype in known else None


def _quantized(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads ``value`` if it quantizes it to int8 or int16, per tensor."""
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type != "QuantizeLinear":
        return None
    node = uses[0].node
    scale = node.inputs[1]
    scalar = (
        scale is not None and stored(scale) and scale.shape is not None and scale.shape.numpy() in ((), (1,))
    )
    return node if scalar and node.outputs[0].dtype in ACTIVATIONS else None
