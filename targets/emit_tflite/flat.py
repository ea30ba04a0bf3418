"""A TFLite file in the making: tensors, operators and their codes.

The idea: a stored tensor is a promise of bytes (:class:`Content`), kept only while the file is written. ``Flat`` knows
nothing of ONNX operators or of targets.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.ahead import ahead
from m4c.errors import Bug, UnsupportedError
from m4c.weight_file import PIECE, data
from m4c.weights import array, stretches

Array = np.ndarray

SIGNATURE = "serving_default"
"""What runtimes call the only signature of a file."""

CHUNK_BYTES = 1 << 24
"""How much of a weight is laid out and written at once, so that a transposed weight is never held twice."""

INLINE_BYTES = 256
"""Constants up to this size are packed with the structure of the file."""

KIND: dict[ir.DataType, int] = {
    ir.DataType.FLOAT: tfl.TensorType.FLOAT32,
    ir.DataType.FLOAT16: tfl.TensorType.FLOAT16,
    ir.DataType.INT4: tfl.TensorType.INT4,
    ir.DataType.INT8: tfl.TensorType.INT8,
    ir.DataType.INT16: tfl.TensorType.INT16,
    ir.DataType.INT32: tfl.TensorType.INT32,
    ir.DataType.INT64: tfl.TensorType.INT32,  # LiteRT's kernels take 32-bit indices
    ir.DataType.BOOL: tfl.TensorType.BOOL,
}
"""The TFLite type of each dtype that a model may hold."""

Codes = dict[tuple[int, int], int]
"""The place of each (builtin code, version) in the table of a file."""

STORED_AS: dict[int, np.dtype[Any]] = {
    tfl.TensorType.FLOAT32: np.dtype("<f4"),
    tfl.TensorType.FLOAT16: np.dtype("<f2"),
    tfl.TensorType.INT8: np.dtype("i1"),
    tfl.TensorType.INT16: np.dtype("<i2"),
    tfl.TensorType.INT32: np.dtype("<i4"),
    tfl.TensorType.BOOL: np.dtype("?"),
}


@dataclass(frozen=True, slots=True)
class Affine:
    """Quantization of ``dtype``: ``x = (q - zero_point) * scale``, per tensor, or per index of ``axis``."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0
    dtype: ir.DataType = ir.DataType.INT8

    @property
    def per_tensor(self) -> bool:
        """Return whether one scale serves the whole tensor."""
        return len(self.scale) == 1


@dataclass(frozen=True, slots=True)
class Grouped:
    """Quantization of a matrix [outputs, inputs] around 0 with a scale for each group of ``size`` inputs."""

    scales: int
    """The index of the float16 tensor [outputs, inputs / size] that holds them."""
    size: int


@dataclass(frozen=True, slots=True)
class ByChannel:
    """Quantization around 0 with a scale for each index of axis 0, float32, read after what it scales."""

    scales: ir.TensorProtocol


@dataclass(frozen=True, slots=True)
class Content:
    """What a stored tensor holds: ``source``, read while the file is written.

    It is laid out whole by ``view``; without one it is as it lies in ``source``, and read in parts.
    """

    source: ir.TensorProtocol
    view: Callable[[Array], Array] | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file; ``content`` is None for one that is computed."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    affine: Affine | None = None
    content: Content | None = None
    weights: Grouped | ByChannel | None = None
    """How a matrix is quantized that float values are multiplied by."""

    @property
    def kind(self) -> int:
        """Return the ``TensorType`` it has in the file."""
        return KIND[self.dtype]

    @property
    def nbytes(self) -> int:
        """Return how many bytes its content takes in the file."""
        count = math.prod(self.shape)
        return count // 2 if self.dtype == ir.DataType.INT4 else count * STORED_AS[self.kind].itemsize

    @property
    def streamed(self) -> bool:
        """Return whether its content is written after the structure of the file, rather than with it."""
        if self.content is None or self.nbytes == 0:
            return False
        return self.lazy or self.nbytes > INLINE_BYTES

    @property
    def lazy(self) -> bool:
        """Return whether its content is not in memory."""
        return self.content is not None and isinstance(self.content.source, ir.LazyTensor | ir.ExternalTensor)

    @property
    def identity(self) -> tuple[object, ...]:
        """Return what is the same for a tensor with the same bytes in a model of the same source at other sizes.

        As within a model (:func:`m4c.weights.register`), equal names of weights stand for equal recipes, so none is read,
        and integers by other scales are others. What is in memory is told by its bytes.
        """
        assert self.content is not None
        if self.lazy:
            return self.content.source.name, self.name, self.dtype, self.shape, self.affine
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return self.dtype, digest.digest()

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Read the content and yield its bytes, some rows at a time; what has no view is read ahead, by all cores."""
        assert self.content is not None
        source, view = self.content.source, self.content.view
        if view is None and source.dtype != ir.DataType.INT64:
            yield from ahead(partial(data, source), stretches(source, PIECE))
            return
        values = array(source) if view is None else view(array(source))
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
    """A sub-graph of a TFLite file, built tensor by tensor and operator by operator; those of a file share ``codes``."""

    name: str
    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    codes: Codes = field(default_factory=dict)
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
