"""A TFLite file in the making: tensors, operator codes and buffers, and how they become bytes.

The idea: the flatbuffer holds the structure only. The bytes of every weight stand behind it, at an offset that the
flatbuffer names (``Buffer.offset`` and ``Buffer.size``, which LiteRT maps), so they are read, changed and written one at a
time, and a file may be of any size. ``Flat`` knows nothing of ONNX operators or of targets.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import flatbuffers
import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.errors import Bug, UnsupportedError
from m4c.weights import array

Array = np.ndarray
Progress = Callable[[int], None]

ALIGNMENT = 64
"""Where weights start in the file, in bytes: a cache line, and more than the 16 that the schema asks of a buffer."""

CHUNK_BYTES = 1 << 24
"""How much of a weight is laid out and written at once, so that a transposed weight is never held twice."""

INLINE_BYTES = 256
"""Constants up to this size stay in the flatbuffer."""

LARGEST_OLD_CODE = 127
"""Operator codes above this one do not fit the 8-bit field that old readers look at; it then holds this value."""

KIND: dict[ir.DataType, int] = {
    ir.DataType.FLOAT: tfl.TensorType.FLOAT32,
    ir.DataType.INT8: tfl.TensorType.INT8,
    ir.DataType.INT32: tfl.TensorType.INT32,
    ir.DataType.INT64: tfl.TensorType.INT32,  # LiteRT's kernels take 32-bit indices
    ir.DataType.BOOL: tfl.TensorType.BOOL,
}
"""The TFLite type of each dtype that a model may hold."""

STORED_AS: dict[int, np.dtype[Any]] = {
    tfl.TensorType.FLOAT32: np.dtype("<f4"),
    tfl.TensorType.INT8: np.dtype("i1"),
    tfl.TensorType.INT32: np.dtype("<i4"),
    tfl.TensorType.BOOL: np.dtype("?"),
}


@dataclass(frozen=True, slots=True)
class Affine:
    """Quantization parameters: ``x = (q - zero_point) * scale``, per tensor, or per index of ``axis``."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0

    @property
    def per_tensor(self) -> bool:
        """Return whether one scale serves the whole tensor."""
        return len(self.scale) == 1


@dataclass(frozen=True, slots=True)
class Content:
    """What a stored tensor holds: ``source``, read while the file is written and then laid out by ``view``."""

    source: ir.TensorProtocol
    view: Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file; ``content`` is None for one that is computed."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    affine: Affine | None = None
    content: Content | None = None

    @property
    def kind(self) -> int:
        """Return the ``TensorType`` it has in the file."""
        return KIND[self.dtype]

    @property
    def nbytes(self) -> int:
        """Return how many bytes its content takes in the file."""
        return math.prod(self.shape) * STORED_AS[self.kind].itemsize

    @property
    def behind(self) -> bool:
        """Return whether its content stands behind the flatbuffer rather than in it."""
        if self.content is None or self.nbytes == 0:
            return False
        held = isinstance(self.content.source, ir.LazyTensor | ir.ExternalTensor)
        return held or self.nbytes > INLINE_BYTES

    def chunks(self) -> Iterator[bytes]:
        """Read the content and yield its bytes, some rows at a time."""
        assert self.content is not None
        values = self.content.view(array(self.content.source))
        if tuple(values.shape) != self.shape:
            raise Bug(f"{self.name} was laid out as {list(values.shape)}, declared was {list(self.shape)}")
        kind = STORED_AS[self.kind]
        if not self.shape:
            yield values.astype(kind).tobytes()
            return
        rows = max(1, CHUNK_BYTES * self.shape[0] // max(1, self.nbytes))
        for start in range(0, self.shape[0], rows):
            yield np.ascontiguousarray(values[start : start + rows], dtype=kind).tobytes()


@dataclass
class Flat:
    """The one sub-graph of a TFLite file, built tensor by tensor and operator by operator, then written."""

    name: str
    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    codes: dict[tuple[int, int], int] = field(default_factory=dict)
    inputs: list[tuple[str, int]] = field(default_factory=list)
    outputs: list[tuple[str, int]] = field(default_factory=list)

    def tensor(self, tensor: Tensor) -> int:
        """Add ``tensor`` and return its index."""
        if tensor.dtype not in KIND:
            raise UnsupportedError(
                f"{tensor.name} is {tensor.dtype}, which the TFLite emitter has no type for",
                where=tensor.name,
                fix=f"cast it to one of {', '.join(sorted(str(kind) for kind in KIND))}",
            )
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(
        self, code: int, inputs: Sequence[int], outputs: Sequence[int], options: Any, version: int
    ) -> None:
        """Append an operator; ``inputs`` holds -1 for one that is left out, ``options`` is its table or None."""
        made = tfl.OperatorT()
        made.opcodeIndex = self.codes.setdefault((code, version), len(self.codes))
        made.inputs, made.outputs = list(inputs), list(outputs)
        if options is not None:
            made.builtinOptionsType = getattr(tfl.BuiltinOptions, type(options).__name__.removesuffix("T"))
            made.builtinOptions = options
        self.operators.append(made)

    def write(self, path: Path, signature: str, progress: Progress | None = None) -> None:
        """Write the file to ``path`` at once or not at all; ``progress`` hears the bytes written since its last call."""
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                self._stream(file, signature, progress or (lambda count: None))
            part.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)  # noqa: PTH108

    def _stream(self, file: BinaryIO, signature: str, progress: Progress) -> None:
        behind = {index: tensor for index, tensor in enumerate(self.tensors) if tensor.behind}
        header = self._pack(signature, dict.fromkeys(behind, 1))
        offsets, end = {}, len(header)
        for index, tensor in behind.items():
            offsets[index] = start = -(-end // ALIGNMENT) * ALIGNMENT
            end = start + tensor.nbytes
        # an offset's value does not change the length of the flatbuffer that holds it, unless it is 0
        file.write(self._pack(signature, offsets))
        progress(len(header))
        for index, tensor in behind.items():
            file.write(bytes(offsets[index] - file.tell()))
            for chunk in tensor.chunks():
                file.write(chunk)
                progress(len(chunk))

    def _pack(self, signature: str, offsets: dict[int, int]) -> bytes:
        graph = tfl.SubGraphT()
        graph.name = self.name
        graph.operators = self.operators
        graph.inputs = [index for _, index in self.inputs]
        graph.outputs = [index for _, index in self.outputs]
        model = tfl.ModelT()
        model.version = 3
        model.description = "made by m4c"
        model.operatorCodes = [_code(code, version) for code, version in self.codes]
        model.buffers = [tfl.BufferT()]  # buffer 0 is empty by convention
        graph.tensors = [
            _tensor(tensor, model.buffers, offsets.get(index)) for index, tensor in enumerate(self.tensors)
        ]
        model.subgraphs = [graph]
        model.signatureDefs = [_signature(signature, self.inputs, self.outputs)]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _code(code: int, version: int) -> Any:
    made = tfl.OperatorCodeT()
    made.builtinCode, made.version = code, version
    made.deprecatedBuiltinCode = min(code, LARGEST_OLD_CODE)
    return made


def _tensor(tensor: Tensor, buffers: list[Any], offset: int | None) -> Any:
    made = tfl.TensorT()
    made.name, made.type, made.hasRank = tensor.name, tensor.kind, True
    made.shape = np.array(tensor.shape, np.int32)
    if tensor.content is not None:
        buffer = tfl.BufferT()
        if offset is not None:
            buffer.offset, buffer.size = offset, tensor.nbytes
        else:
            buffer.data = np.frombuffer(b"".join(tensor.chunks()), np.uint8)
        made.buffer = len(buffers)
        buffers.append(buffer)
    if tensor.affine is not None:
        made.quantization = tfl.QuantizationParametersT()
        made.quantization.scale = np.array(tensor.affine.scale, np.float32)
        made.quantization.zeroPoint = np.array(tensor.affine.zero_point, np.int64)
        made.quantization.quantizedDimension = tensor.affine.axis
    return made


def _signature(key: str, inputs: Sequence[tuple[str, int]], outputs: Sequence[tuple[str, int]]) -> Any:
    made = tfl.SignatureDefT()
    made.signatureKey, made.subgraphIndex = key, 0
    made.inputs, made.outputs = _maps(inputs), _maps(outputs)
    return made


def _maps(ports: Sequence[tuple[str, int]]) -> list[Any]:
    maps = []
    for name, index in ports:
        made = tfl.TensorMapT()
        made.name, made.tensorIndex = name, index
        maps.append(made)
    return maps
