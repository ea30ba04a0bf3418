"""Operators that work value by value: sums and products, functions of one value, comparisons, choices, casts."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.targets.emit_tflite.flat import STORED_AS, Affine
from m4c.targets.emit_tflite.lowering import Array, Lowering
from m4c.targets.emit_tflite.units import Unit

Op = tfl.BuiltinOperator
Emit = Callable[[Lowering, Unit], None]

BROADCAST_RANK = {Op.ADD: 6, Op.MUL: 6, Op.SUB: 6, Op.DIV: 5, Op.POW: 4, Op.MAXIMUM: 8, Op.MINIMUM: 8}
"""The most dimensions that LiteRT's kernels broadcast; 4 for the operators that are not listed."""

Writes = Mapping[ir.DataType, Affine]

INT8, INT16 = ir.DataType.INT8, ir.DataType.INT16
SIGNED_UNIT = Affine((1 / 32768,), (0,), dtype=INT16)

LOGISTIC: Writes = {INT8: Affine((1 / 256,), (-128,)), INT16: SIGNED_UNIT}
"""What LiteRT's LOGISTIC and SOFTMAX write (quantization specification of LiteRT)."""

TANH: Writes = {INT8: Affine((1 / 128,), (0,)), INT16: SIGNED_UNIT}
"""What LiteRT's TANH and L2_NORMALIZATION write."""


def binary(code: int, options: Callable[[], Any] | None = None) -> Emit:
    """Return the function for an operator of two operands that broadcasts as ONNX does."""

    def emit(at: Lowering, unit: Unit) -> None:
        left, right = at.read(unit.input(0)), at.read(unit.input(1))
        _broadcasts(at, code, (unit.input(0), unit.input(1)))
        with at.result(unit.outputs[0]) as target:
            at.emit(code, [left, right], [target], options() if options else None)

    return emit


def unary(code: int, options: Callable[[], Any] | None = None, writes: Writes | None = None) -> Emit:
    """Return the function for an operator of one operand; ``writes`` is the fixed scale of its integer result."""

    def emit(at: Lowering, unit: Unit) -> None:
        source = at.read(unit.input(0))
        if writes is not None:
            source = _as_wide(at, source)
        with at.result(unit.outputs[0], fixed(at, source, writes)) as target:
            at.emit(code, [source], [target], options() if options else None)

    return emit


def gelu(at: Lowering, unit: Unit) -> None:
    """Gelu is GELU, exact or by tanh as the node says."""
    options = tfl.GeluOptionsT()
    options.approximate = unit.attribute("approximate", "none") == "tanh"
    source = at.read(unit.input(0))
    with at.result(unit.outputs[0]) as target:
        at.emit(Op.GELU, [source], [target], options)


def rsqrt(at: Lowering, unit: Unit) -> None:
    """Pow(x, -0.5), or Reciprocal(Sqrt(x)) with nothing in between, is RSQRT."""
    unary(Op.RSQRT)(at, unit)


def square(at: Lowering, unit: Unit) -> None:
    """Pow(x, 2) is MUL(x, x), which has an integer kernel."""
    source = at.read(unit.input(0))
    with at.result(unit.outputs[0]) as target:
        at.emit(Op.MUL, [source, source], [target], tfl.MulOptionsT())


def reciprocal(at: Lowering, unit: Unit) -> None:
    """Reciprocal(x) is DIV(1, x)."""
    one, source = at.constant(*_one(at, 1)), at.read(unit.input(0))
    with at.result(unit.outputs[0]) as target:
        at.emit(Op.DIV, [one, source], [target], tfl.DivOptionsT())


def neg(at: Lowering, unit: Unit) -> None:
    """Neg is NEG; in integers, where that has no kernel, MUL(x, -1)."""
    source = at.read(unit.input(0))
    with at.result(unit.outputs[0]) as target:
        if at.integer:
            at.emit(Op.MUL, [source, at.constant(*_one(at, -1))], [target], tfl.MulOptionsT())
        else:
            at.emit(Op.NEG, [source], [target])


def leaky_relu(at: Lowering, unit: Unit) -> None:
    """LeakyRelu is LEAKY_RELU."""
    options = tfl.LeakyReluOptionsT()
    options.alpha = float(unit.attribute("alpha", 0.01))
    source = at.read(unit.input(0))
    with at.result(unit.outputs[0]) as target:
        at.emit(Op.LEAKY_RELU, [source], [target], options)


def p_relu(at: Lowering, unit: Unit) -> None:
    """PRelu is PRELU, whose slopes broadcast to the values."""
    binary(Op.PRELU)(at, unit)


def is_nan(at: Lowering, unit: Unit) -> None:
    """IsNaN(x) is NOT_EQUAL(x, x)."""
    source = at.read(unit.input(0))
    with at.result(unit.outputs[0]) as target:
        at.emit(Op.NOT_EQUAL, [source, source], [target])


def extreme(code: int) -> Emit:
    """Return the function for MAXIMUM or MINIMUM; the int8 kernels want all tensors in the scale of the result."""

    def emit(at: Lowering, unit: Unit) -> None:
        if len(unit.inputs) != 2:
            raise at.refuse(f"it has {len(unit.inputs)} operands", "chain operators of two operands")
        _broadcasts(at, code, (unit.input(0), unit.input(1)))
        sources = [at.read(unit.input(index)) for index in (0, 1)]
        with at.result(unit.outputs[0]) as target:
            operands = [rescaled(at, source, target, f"operand{i}") for i, source in enumerate(sources)]
            at.emit(code, operands, [target], tfl.MaximumMinimumOptionsT())

    return emit


def clip(at: Lowering, unit: Unit) -> None:
    """Clip(x, low, high) is RELU, RELU6, or MAXIMUM and MINIMUM with constants of x's own scale."""
    low, high = (_bound(at, unit.optional(i)) for i in (1, 2))
    source, output = at.read(unit.input(0)), unit.outputs[0]
    if low == 0 and high in (None, 6):
        with at.result(output) as target:
            at.emit(Op.RELU if high is None else Op.RELU6, [source], [target])
        return
    steps = [(code, b) for code, b in ((Op.MAXIMUM, low), (Op.MINIMUM, high)) if b is not None]
    if not steps:
        raise at.refuse("it has no bound", "simplify the model first: this Clip does nothing")
    affine = at.affine(source)
    with at.result(output, affine) as target:
        for code, bound in steps:
            made = target if (code, bound) == steps[-1] else at.like("low", at.extent(output), source)
            at.emit(code, [source, scalar(at, bound, source)], [made], tfl.MaximumMinimumOptionsT())
            source = made


def where(at: Lowering, unit: Unit) -> None:
    """Where(c, a, b) is SELECT_V2; its int8 kernel copies, so both operands get the result's scale."""
    condition = at.read(unit.input(0))
    output = unit.outputs[0]
    _broadcasts(at, Op.SELECT_V2, (unit.input(0), unit.input(1), unit.input(2)))
    with at.result(output) as target:
        chosen = [rescaled(at, at.read(unit.input(i)), target, f"choice{i}") for i in (1, 2)]
        at.emit(Op.SELECT_V2, [condition, *chosen], [target], tfl.SelectV2OptionsT())


def cast(at: Lowering, unit: Unit) -> None:
    """Cast is CAST between the types that the tensors have in the file."""
    source = at.read(unit.input(0))
    with at.result(unit.outputs[0]) as target:
        options = tfl.CastOptionsT()
        options.inDataType = at.flat.tensors[source].kind
        options.outDataType = at.flat.tensors[target].kind
        at.emit(Op.CAST, [source], [target], options)


def whole(at: Lowering, unit: Unit) -> None:
    """Cast(Round(x)) is ROUND and CAST, unless the integer stands for x at the border of the graph."""
    value, output = unit.input(0), unit.outputs[0]
    if at.plan.carrier.get(value) is output:
        return
    source = at.read(value)
    with at.result(output) as target:
        made = at.like("whole", at.extent(output), source)
        at.emit(Op.ROUND, [source], [made])
        options = tfl.CastOptionsT()
        options.inDataType, options.outDataType = at.flat.tensors[made].kind, at.flat.tensors[target].kind
        at.emit(Op.CAST, [made], [target], options)


def quantize(at: Lowering, unit: Unit) -> None:
    """QuantizeLinear is QUANTIZE, unless its input is carried by its output; of an int8 tensor it is a rescaling."""
    value, output = unit.input(0), unit.outputs[0]
    carrier = at.plan.carrier.get(value)
    if carrier is output:
        return
    source = at.place(value if carrier is None else carrier, at.layout)
    with at.result(output) as target:
        at.emit(Op.QUANTIZE, [source], [target])


def fixed(at: Lowering, source: int, writes: Writes | None) -> Affine | None:
    """Return the scale that a kernel with fixed scales writes: of int16 if it reads that or is asked for it."""
    wanted = at.wanted(at.unit.outputs[0])
    if writes is None or wanted is None or not at.integer:
        return None
    return writes[INT16 if INT16 in (wanted.dtype, at.flat.tensors[source].dtype) else INT8]


def rescaled(at: Lowering, source: int, target: int, name: str) -> int:
    """Return ``source`` in the scale of ``target``: itself, or the result of a QUANTIZE."""
    wanted, tensor = at.affine(target), at.flat.tensors[source]
    if wanted is None or tensor.affine is None or tensor.affine == wanted:
        return source
    made = at.scratch(f"{at.unit.outputs[0].name}.{name}", tensor.shape, wanted)
    at.emit(Op.QUANTIZE, [source], [made])
    return made


def _as_wide(at: Lowering, source: int) -> int:
    """Return an int8 ``source`` as int16 if the unit writes that: LOGISTIC and TANH read what they write."""
    wanted, held = at.wanted(at.unit.outputs[0]), at.flat.tensors[source]
    if (
        not at.integer
        or wanted is None
        or wanted.dtype != INT16
        or held.affine is None
        or held.dtype == INT16
    ):
        return source
    # every int8 number less its zero point, times 128, is an int16 number: nothing is lost
    made = at.scratch(
        f"{held.name}.wide", held.shape, Affine((held.affine.scale[0] / 128,), (0,), dtype=INT16)
    )
    at.emit(Op.QUANTIZE, [source], [made])
    return made


def _broadcasts(at: Lowering, code: int, operands: tuple[ir.Value, ...]) -> None:
    """Refuse what LiteRT does not broadcast: operands of different shapes and too many dimensions."""
    shapes = [at.shape(operand) for operand in operands]
    rank, most = max(map(len, shapes)), BROADCAST_RANK.get(code, 4)
    if rank > most and len(set(shapes)) > 1:
        listed = " and ".join(str(list(shape)) for shape in shapes)
        raise at.refuse(
            f"it broadcasts {listed}, LiteRT does so up to {most} dimensions",
            "reshape the operands to fewer dimensions, or expand the smaller one",
        )


def _one(at: Lowering, value: int) -> tuple[Array, Affine | None]:
    """Return 1 or -1 as the unit computes it: float, or an integer of scale 1."""
    wanted = at.wanted(at.unit.outputs[0]) if at.integer else None
    if wanted is None:
        return np.array(value, np.float32), None
    return np.array(value, wanted.dtype.numpy()), Affine((1.0,), (0,), dtype=wanted.dtype)


def _bound(at: Lowering, value: ir.Value | None) -> float | None:
    return None if value is None else float(at.values(value, "a bound").item())


def scalar(at: Lowering, value: float, index: int) -> int:
    """Return ``value`` as a constant of the type of tensor ``index``: saturated if that is quantized."""
    tensor = at.flat.tensors[index]
    if tensor.affine is None:
        return at.constant(np.array(value, STORED_AS[tensor.kind]))
    bounds = np.iinfo(tensor.affine.dtype.numpy())
    q = np.clip(np.rint(value / tensor.affine.scale[0]) + tensor.affine.zero_point[0], bounds.min, bounds.max)
    return at.constant(np.asarray(q, bounds.dtype), tensor.affine)
