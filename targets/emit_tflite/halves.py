"""Weights of a float sub-graph as float16, in the form that GPU delegates take whole: behind a DEQUANTIZE each.

What a runtime computes in is not in the file: LiteRT's GPU accelerator computes in float16 where the device can, XNNPACK and
LiteRT's own kernels in float32. Both read such weights as they are stored and take the DEQUANTIZE out.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.half import LARGEST, SUFFIX, ends, half
from m4c.targets.emit_tflite.flat import Content, Flat, Tensor
from m4c.targets.emit_tflite.versions import version

Op = tfl.BuiltinOperator


def too_large(flat: Flat) -> dict[str, float]:
    """Return the weights of ``flat`` that have a number beyond float16, with the largest; each is read once, in parts."""
    found = {}
    for tensor in flat.tensors:
        if _is_weight(tensor):
            assert tensor.content is not None
            low, high = ends(tensor.content.source)
            if max(-low, high) > LARGEST:
                found[str(tensor.content.source.name)] = max(-low, high)
    return found


def halve(flat: Flat, wide: Collection[str] = ()) -> None:
    """Store every float32 weight of ``flat`` in float16, those of a few numbers and those called ``wide`` apart.

    Nothing is read. A weight that two tensors hold as it is (a table that is a matrix too) is stored once. Rows are gathered as
    they are stored, and cast then: LiteRT's GPU delegate takes no GATHER of what was dequantized.
    """
    made = _Halves(flat)
    for index, tensor in list(enumerate(flat.tensors)):
        if _is_weight(tensor) and tensor.content is not None and tensor.content.source.name not in wide:
            made.store(index, tensor)
    computing, flat.operators = flat.operators, []
    behind = [made.rewired(operator) for operator in computing]
    for source, target in made.dequantized.items():
        made.emit(Op.DEQUANTIZE, source, target)
    for operator, cast in zip(computing, behind, strict=True):
        flat.operators.append(operator)
        if cast is not None:
            made.emit(Op.CAST, *cast)


@dataclass
class _Halves:
    """Where the weights of a sub-graph are in float16."""

    flat: Flat
    stored: dict[int, int] = field(default_factory=dict)
    """By the tensor that was a weight: the one that is now."""
    dequantized: dict[int, int] = field(default_factory=dict)
    """By the tensor that is a weight: the float32 one that is read instead, where one is."""
    known: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict)

    def store(self, index: int, tensor: Tensor) -> None:
        """Store tensor ``index`` in float16."""
        assert tensor.content is not None
        source, view = tensor.content.source, tensor.content.view
        key = (id(source), tensor.shape)
        made = self.known.get(key) if view is None else None
        if made is None:
            made = self.flat.tensor(_half(tensor))
            if view is None:
                self.known[key] = made
        self.stored[index] = made
        self.flat.tensors[index] = replace(tensor, content=None)

    def rewired(self, operator: Any) -> tuple[int, int] | None:
        """Let ``operator`` read what is stored now; return what is to be cast behind it, and to where."""
        reads = list(operator.inputs)
        gathers = self._code(operator) == Op.GATHER and reads[0] in self.stored
        if gathers:
            (target,) = operator.outputs
            wanted = self.flat.tensors[target]
            rows = self.flat.tensor(replace(wanted, name=wanted.name + SUFFIX, dtype=ir.DataType.FLOAT16))
            operator.inputs, operator.outputs = [self.stored[reads[0]], *reads[1:]], [rows]
            return rows, target
        operator.inputs = [self._read(index) for index in reads]
        return None

    def emit(self, code: int, source: int, target: int) -> None:
        """Append an operator that makes float32 of float16."""
        tensors = self.flat.tensors
        options = None
        if code == Op.CAST:
            options = tfl.CastOptionsT()
            options.inDataType, options.outDataType = tensors[source].kind, tensors[target].kind
        self.flat.operator(
            code, [source], [target], options, version(code, [tensors[source]], [tensors[target]])
        )

    def _read(self, index: int) -> int:
        """Return the float32 tensor to read for tensor ``index``: one for each that is stored."""
        if index not in self.stored:
            return index
        return self.dequantized.setdefault(self.stored[index], index)

    def _code(self, operator: Any) -> int:
        return next(code for (code, _), place in self.flat.codes.items() if place == operator.opcodeIndex)


def _is_weight(tensor: Tensor) -> bool:
    return tensor.dtype == ir.DataType.FLOAT and tensor.streamed


def _half(tensor: Tensor) -> Tensor:
    """Return the tensor that stores ``tensor``, to be read while the file is written."""
    assert tensor.content is not None
    content = tensor.content
    if content.view is None:
        content = Content(half(content.source))
    return replace(tensor, name=tensor.name + SUFFIX, dtype=ir.DataType.FLOAT16, content=content)
