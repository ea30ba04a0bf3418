"""A TFLite file opened for reading: its structure in memory, its weights where they are.

It can be cut: :meth:`Opened.piece` is a :class:`Flat` of some operators, which :mod:`m4c.targets.emit_tflite.file` writes.
"""

import copy
import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.errors import BundleError
from m4c.targets.emit_tflite.flat import (
    KIND,
    SIGNATURE,
    STORED_AS,
    Affine,
    Array,
    ByChannel,
    Content,
    Flat,
    Grouped,
    Tensor,
)
from m4c.targets.read_tflite import IDENTIFIER, start_of
from m4c.weights import Recipe, lazy

DTYPE = {kind: dtype for dtype, kind in KIND.items() if dtype != ir.DataType.INT64}
"""The dtype of each TFLite type that m4c writes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a tensor are in the file."""

    path: Path
    start: int

    def read(self, kind: np.dtype[Any], shape: tuple[int, ...], first: int) -> Array:
        """Return ``shape`` values after the ``first``, mapped and never written back."""
        if not math.prod(shape):
            return np.zeros(shape, kind)
        return np.memmap(self.path, kind, "c", self.start + first * kind.itemsize, shape)


class Opened:
    """One signature of a TFLite file."""

    def __init__(self, path: Path, signature: str = SIGNATURE) -> None:
        """Read the structure of the file at ``path``.

        Raises:
            BundleError: if it is no TFLite file, or lacks the signature.
        """
        self.path = path
        with path.open("rb") as file:
            self._held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._held[4:8] != IDENTIFIER:
            raise BundleError("this is not a TFLite file", where=str(path), fix="export the graph again")
        self._read(tfl.Model.GetRootAs(self._held, 0), signature)

    def _read(self, model: Any, signature: str) -> None:
        """Take over what the file says of its tensors and operators."""
        found = {model.SignatureDefs(i).SignatureKey(): i for i in range(model.SignatureDefsLength())}
        if signature.encode() not in found:
            raise BundleError(
                f"the file has no signature {signature}",
                where=str(self.path),
                fix=f"it has {', '.join(sorted(key.decode() for key in found)) or 'none'}",
            )
        chosen = model.SignatureDefs(found[signature.encode()])
        graph = model.Subgraphs(chosen.SubgraphIndex())
        self.inputs = {
            m.Name().decode(): m.TensorIndex() for m in map(chosen.Inputs, range(chosen.InputsLength()))
        }
        self.outputs = {
            m.Name().decode(): m.TensorIndex() for m in map(chosen.Outputs, range(chosen.OutputsLength()))
        }
        self.codes = [
            (model.OperatorCodes(i).BuiltinCode(), model.OperatorCodes(i).Version())
            for i in range(model.OperatorCodesLength())
        ]
        self.operators = [
            tfl.OperatorT.InitFromObj(graph.Operators(i)) for i in range(graph.OperatorsLength())
        ]
        for operator in self.operators:
            operator.inputs = [int(i) for i in operator.inputs]
            operator.outputs = [int(i) for i in operator.outputs]
        self.tensors: list[Tensor] = []
        for index in range(graph.TensorsLength()):
            self.tensors.append(self._tensor(model, graph.Tensors(index)))

    def _tensor(self, model: Any, found: Any) -> Tensor:
        """Return a tensor as :class:`Flat` has it, its content left in the file."""
        shape = tuple(int(d) for d in found.ShapeAsNumpy()) if found.ShapeLength() else ()
        made = Tensor(found.Name().decode(), DTYPE[found.Type()], shape)
        start = start_of(model.Buffers(found.Buffer()))
        if start is not None:
            made = replace(made, content=Content(_recipe(made, Place(self.path, start))))
        quantization = found.Quantization()
        if quantization is None:
            return made
        if quantization.DetailsType() == tfl.QuantizationDetails.BlockwiseQuantization:
            details = tfl.BlockwiseQuantizationT.InitFromObj(_details(quantization))
            return replace(made, weights=Grouped(details.scales, details.blockSize))
        if not quantization.ScaleLength():
            return made
        scales = quantization.ScaleAsNumpy().copy()
        points = quantization.ZeroPointAsNumpy()
        if start is not None and len(scales) == shape[0] and not points.any():
            return replace(made, weights=ByChannel(ir.tensor(scales, name=f"{made.name}.scales")))
        axis = quantization.QuantizedDimension()
        return replace(made, affine=Affine(tuple(scales.tolist()), tuple(points.tolist()), axis, made.dtype))

    def code(self, operator: Any) -> int:
        """Return the builtin code of an operator."""
        return int(self.codes[operator.opcodeIndex][0])

    def stored(self, index: int) -> bool:
        """Return whether the tensor ``index`` has its values in the file."""
        return index >= 0 and self.tensors[index].content is not None

    def source(self, index: int) -> ir.TensorProtocol:
        """Return the values of a stored tensor; 4-bit ones as bytes of two."""
        content = self.tensors[index].content
        assert content is not None
        return content.source

    def with_instead(self, instead: Mapping[int, int]) -> "Opened":
        """Return the same signature, which reads other tensors ``instead`` of some, without what nothing reads any more."""
        made = copy.copy(self)
        made.outputs = {name: instead.get(index, index) for name, index in self.outputs.items()}
        read, kept = set(made.outputs.values()), []
        for operator in reversed(self.operators):
            if not read.isdisjoint(operator.outputs):
                kept.append(copy.copy(operator))
                kept[-1].inputs = [instead.get(index, index) for index in operator.inputs]
                read.update(kept[-1].inputs)
        made.operators = kept[::-1]
        made.inputs = {name: index for name, index in self.inputs.items() if index in read}
        return made

    def piece(self, operators: Sequence[Any], outputs: Sequence[int]) -> Flat:
        """Return ``operators`` alone; inputs are what they read and do not make. Ports are named by indices of tensors."""
        flat = Flat("piece")
        places: dict[int, int] = {}
        made = {index for operator in operators for index in operator.outputs}
        for operator in operators:
            for index in (*operator.inputs, *operator.outputs):
                self._take(flat, places, index)
            for index in operator.inputs:
                known = {name for name, _ in flat.inputs}
                if index >= 0 and index not in made and not self.stored(index) and str(index) not in known:
                    flat.inputs.append((str(index), places[index]))
            code, version = self.codes[operator.opcodeIndex]
            inputs = [places[i] if i >= 0 else -1 for i in operator.inputs]
            options = operator.builtinOptions
            flat.operator(code, inputs, [places[i] for i in operator.outputs], options, version)
        flat.outputs = [(str(index), places[index]) for index in outputs]
        return flat

    def _take(self, flat: Flat, places: dict[int, int], index: int) -> None:
        """Add tensor ``index`` to ``flat``, and the scales that it refers to."""
        if index < 0 or index in places:
            return
        tensor = self.tensors[index]
        places[index] = flat.tensor(tensor)
        if isinstance(tensor.weights, Grouped):
            self._take(flat, places, tensor.weights.scales)
            held = Grouped(places[tensor.weights.scales], tensor.weights.size)
            flat.tensors[places[index]] = replace(tensor, weights=held)


def _details(quantization: Any) -> Any:
    """Return the table of the details of a quantization, which is a union."""
    found = tfl.BlockwiseQuantization()
    held = quantization.Details()
    found.Init(held.Bytes, held.Pos)
    return found


def _recipe(tensor: Tensor, place: Place) -> Recipe:
    """Return the values of a tensor of the file, to be read in parts; 4-bit ones as bytes of two."""
    shape, dtype = tensor.shape, tensor.dtype
    if dtype == ir.DataType.INT4:
        shape, dtype = (*shape[:-1], shape[-1] // 2), ir.DataType.UINT8
    kind = np.dtype("u1") if dtype == ir.DataType.UINT8 else STORED_AS[tensor.kind]
    row = math.prod(shape[1:])

    def part(rows: slice) -> Array:
        return place.read(kind, (rows.stop - rows.start, *shape[1:]), rows.start * row)

    return lazy(tensor.name, dtype, shape, lambda: place.read(kind, shape, 0), part if shape else None)
