"""From the IR to a TFLite file: check and place everything first, then write."""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from m4c.errors import UnsupportedError
from m4c.rewrite import attribute
from m4c.targets.emit_tflite.arithmetic import Emit
from m4c.targets.emit_tflite.file import Progress, write
from m4c.targets.emit_tflite.flat import SIGNATURE, Codes, Flat
from m4c.targets.emit_tflite.halves import halve, too_large
from m4c.targets.emit_tflite.lowering import Lowering
from m4c.targets.emit_tflite.quantization import plan
from m4c.targets.emit_tflite.table import ALONG_LAST, CHANNELS_LAST, EMIT, FOLLOWS, INTEGER, MIXED
from m4c.targets.emit_tflite.units import Unit, units


def to_tflite(
    model: ir.Model | Mapping[str, ir.Model],
    path: Path,
    *,
    progress: Progress | None = None,
    operators: Mapping[str, Emit] = EMIT,
    half: bool = False,
) -> Mapping[str, float]:
    """Write ``model`` as a TFLite file with one signature whose inputs and outputs have the names of the IR.

    Several models, by the names of their signatures, are those of one source at different sizes: what they have in common is
    stored once. Weights are read one at a time while the file is written, scales of quantized ones before that. ``progress``
    hears the bytes written since its last call. ``operators`` has the function for each operator. With ``half``, weights are
    float16 (:mod:`m4c.targets.emit_tflite.halves`); those that have a number beyond it stay float32, and are returned with
    their largest. Equal models give equal bytes; a write that fails leaves no file.

    Raises:
        UnsupportedError: before anything is written, if an operator or a form of it is not known.
    """
    models = {SIGNATURE: model} if isinstance(model, ir.Model) else model
    codes: Codes = {}
    flats = {name: lower(one, codes, operators) for name, one in models.items()}
    wide: dict[str, float] = {}
    for flat in flats.values() if half else ():
        wide |= too_large(flat)
        halve(flat, wide)
    write(flats, path, progress)
    return wide


def lower(model: ir.Model, codes: Codes | None = None, operators: Mapping[str, Emit] = EMIT) -> Flat:
    """Return ``model`` as a sub-graph of a TFLite file that has ``codes``, with its weights unread."""
    graph = model.graph
    pieces = units(graph)
    for unit in pieces:
        _known(unit)
    if not pieces:
        raise UnsupportedError(
            "the graph has no operator",
            where=graph.name or "",
            fix="a graph that returns its inputs needs no file",
        )
    flat = Flat(graph.name or "main", codes={} if codes is None else codes)
    at = Lowering(flat, plan(graph, pieces, INTEGER, MIXED), pieces[0], _towards(graph))
    flat.inputs = [(value.name or "", at.port(value)) for value in graph.inputs]
    for unit in pieces:
        at.begin(unit, unit.operator in FOLLOWS)
        operators[unit.operator](at, unit)
    flat.outputs = [(value.name or "", at.port(value)) for value in graph.outputs]
    return flat


def _towards(graph: ir.Graph) -> frozenset[ir.Value]:
    """Return what goes into operators that want channels last, through those that take any layout or hand theirs on."""
    through = FOLLOWS | {"DequantizeLinear", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
    found: set[ir.Value] = set()
    for node in reversed(graph):
        if node.op_type in CHANNELS_LAST:
            found |= {value for value in node.inputs[:1] if value is not None}
        elif (node.op_type in through or _along_channels(node)) and not found.isdisjoint(node.outputs):
            found |= {value for value in node.inputs if value is not None}
    return frozenset(found)


def _along_channels(node: ir.Node) -> bool:
    """Return whether a softmax or a norm works along the channels of images, which its kernel wants last as well."""
    return (
        node.op_type in ALONG_LAST
        and attribute(node, "axis", -1) == 1
        and len(node.outputs[0].shape or ()) == 4
    )


def _known(unit: Unit) -> None:
    """Raise if there is no function for the operator of ``unit``."""
    if unit.operator not in EMIT:
        raise UnsupportedError(
            f"the TFLite emitter has no function for {unit.operator}",
            where=unit.where,
            fix="rewrite the operator with a pass, or add a function to EMIT in targets/emit_tflite/table.py",
        )
