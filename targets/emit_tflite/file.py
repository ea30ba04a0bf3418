"""How sub-graphs become a file: the structure is packed once, then the weights follow one at a time.

The idea: a flatbuffer refers forward by relative positions, so the vector of a weight may lie after everything else, and
its reference is set once the length of the structure is known. Any TFLite reader reads that. Such references end at 2 GiB;
a larger file names the absolute place and size of each weight instead (``Buffer.offset``, ``Buffer.size``), which LiteRT
maps and which has no limit.
"""

import contextlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tfl

from m4c.errors import Bug
from m4c.targets.emit_tflite.flat import Array, ByChannel, Flat, Grouped, Tensor
from m4c.targets.read_tflite import IDENTIFIER
from m4c.weights import array

Progress = Callable[[int], None]

ALIGNMENT = 64
"""Where weights start in the file, in bytes: a cache line, and more than the 16 that the schema asks of a buffer."""

LARGEST_FLATBUFFER = 2**31 - 1
"""The largest flatbuffer in bytes: its references are 31 bits wide."""

LARGEST_OLD_CODE = 127
"""Operator codes above this one do not fit the 8-bit field that old readers look at; it then holds this value."""

DUMMY = 1
"""Stands for an offset that is not known yet; 0 would leave the field out."""

DATA_SLOT, OFFSET_SLOT = 4, 6
"""Where the table of a ``Buffer`` keeps the places of its fields ``data`` and ``offset``."""

SCALE_SLOT = 8
"""Where the table of ``QuantizationParameters`` keeps the place of its scales."""


@dataclass(frozen=True)
class _Contents:
    """Sub-graphs by the names of their signatures, and what their tensors hold."""

    flats: Mapping[str, Flat]
    stored: list[Tensor] = field(default_factory=list)
    """A tensor for each buffer; the first is for buffer 1."""
    buffers: list[dict[int, int]] = field(default_factory=list)
    """Of each sub-graph: the buffer of each of its tensors that is stored."""

    @classmethod
    def of(cls, flats: Mapping[str, Flat]) -> "_Contents":
        """Give each stored tensor a buffer, or that of an equal one in a sub-graph before."""
        made = cls(flats)
        known: dict[tuple[object, ...], int] = {}
        for flat in flats.values():
            places, own = {}, {}
            for index, tensor in enumerate(flat.tensors):
                if tensor.content is None:
                    continue
                identity = tensor.identity if len(flats) > 1 else ()
                if identity not in known:
                    made.stored.append(tensor)
                    own[identity] = len(made.stored)
                places[index] = known.get(identity, len(made.stored))
            known |= own
            made.buffers.append(places)
        return made


def write(flats: Mapping[str, Flat], path: Path, progress: Progress | None = None) -> None:
    """Write sub-graphs, by the names of their signatures, to ``path`` completely or not at all.

    ``progress`` hears the bytes written since its last call.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            _stream(_Contents.of(flats), file, progress or (lambda count: None))
        part.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _stream(contents: _Contents, file: BinaryIO, progress: Progress) -> None:
    numbered = [(n, t) for n, t in enumerate(contents.stored, start=1) if t.streamed]
    streamed = [tensor for _, tensor in numbered]
    header = _pack(contents, inside=True)
    offsets, end = _places(len(header), streamed)
    inside = end <= LARGEST_FLATBUFFER
    if not inside:
        header = _pack(contents, inside=False)
        offsets, end = _places(len(header), streamed)
    _point(header, contents.stored, offsets, inside)
    file.write(header)
    progress(len(header))
    scales = {}
    for (number, tensor), offset in zip(numbered, offsets, strict=True):
        length = struct.pack("<I", tensor.nbytes) if inside else b""
        file.write(bytes(offset - len(length) - file.tell()) + length)
        for chunk in tensor.chunks():
            file.write(chunk)
            progress(len(chunk))
        if file.tell() != offset + tensor.nbytes:
            raise Bug(f"{tensor.name} has {file.tell() - offset} bytes, declared were {tensor.nbytes}")
        if isinstance(tensor.weights, ByChannel):
            scales[number] = array(tensor.weights.scales)
    if scales:
        _scale(header, contents, scales)
        file.seek(0)
        file.write(header)


def _places(end: int, streamed: Sequence[Tensor]) -> tuple[list[int], int]:
    """Return where each tensor's bytes start, with room for a length before them, and where the file ends."""
    offsets = []
    for tensor in streamed:
        offsets.append(-(-(end + 4) // ALIGNMENT) * ALIGNMENT)
        end = offsets[-1] + tensor.nbytes
    return offsets, end


def _point(header: bytearray, stored: Sequence[Tensor], offsets: Sequence[int], inside: bool) -> None:
    """Set the references to the weights in the packed ``header``."""
    model = tfl.Model.GetRootAs(header, 0)
    places = iter(offsets)
    for index, tensor in enumerate(stored, start=1):
        if not tensor.streamed:
            continue
        table, offset = model.Buffers(index)._tab, next(places)
        if inside:
            field = table.Pos + table.Offset(DATA_SLOT)
            struct.pack_into("<I", header, field, offset - 4 - field)
        else:
            struct.pack_into("<Q", header, table.Pos + table.Offset(OFFSET_SLOT), offset)


def _scale(header: bytearray, contents: _Contents, scales: Mapping[int, Array]) -> None:
    """Set the scales of matrices that were read with them, by buffer, in the packed ``header``."""
    model = tfl.Model.GetRootAs(header, 0)
    for number, places in enumerate(contents.buffers):
        graph = model.Subgraphs(number)
        for index, buffer in places.items():
            if buffer in scales:
                table = graph.Tensors(index).Quantization()._tab
                place = table.Vector(table.Offset(SCALE_SLOT))
                np.frombuffer(header, "<f4", len(scales[buffer]), place)[:] = scales[buffer]


def _pack(contents: _Contents, inside: bool) -> bytearray:
    """Return the flatbuffer, with references to the weights that are not set yet."""
    model = tfl.ModelT()
    model.version = 3
    model.description = "made by m4c"
    codes, *others = [flat.codes for flat in contents.flats.values()]
    if any(other is not codes for other in others):
        raise Bug("sub-graphs of one file with different tables of operator codes")
    model.operatorCodes = [_code(code, version) for code, version in codes]
    # buffer 0 is empty by convention
    model.buffers = [tfl.BufferT(), *(_buffer(tensor, inside) for tensor in contents.stored)]
    model.subgraphs, model.signatureDefs = [], []
    for number, (signature, flat) in enumerate(contents.flats.items()):
        model.subgraphs.append(_graph(flat, contents.buffers[number]))
        model.signatureDefs.append(_signature(signature, number, flat))
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytearray(builder.Output())


def _graph(flat: Flat, buffers: Mapping[int, int]) -> Any:
    made = tfl.SubGraphT()
    made.name = flat.name
    made.operators = flat.operators
    made.inputs = [index for _, index in flat.inputs]
    made.outputs = [index for _, index in flat.outputs]
    made.tensors = [_tensor(tensor, buffers.get(index, 0)) for index, tensor in enumerate(flat.tensors)]
    return made


def _code(code: int, version: int) -> Any:
    made = tfl.OperatorCodeT()
    made.builtinCode, made.version = code, version
    made.deprecatedBuiltinCode = min(code, LARGEST_OLD_CODE)
    return made


def _buffer(tensor: Tensor, inside: bool) -> Any:
    made = tfl.BufferT()
    if tensor.streamed and inside:
        made.data = np.empty(0, np.uint8)
    elif tensor.streamed:
        made.offset, made.size = DUMMY, tensor.nbytes
    else:
        made.data = np.frombuffer(b"".join(bytes(chunk) for chunk in tensor.chunks()), np.uint8)
    return made


def _tensor(tensor: Tensor, buffer: int) -> Any:
    made = tfl.TensorT()
    made.name, made.type, made.hasRank = tensor.name, tensor.kind, True
    made.shape = np.array(tensor.shape, np.int32)
    made.buffer = buffer
    if tensor.affine is not None:
        made.quantization = tfl.QuantizationParametersT()
        made.quantization.scale = np.array(tensor.affine.scale, np.float32)
        made.quantization.zeroPoint = np.array(tensor.affine.zero_point, np.int64)
        made.quantization.quantizedDimension = tensor.affine.axis
    if tensor.weights is not None:
        made.quantization = _of_weights(tensor.weights, tensor.shape[0])
    return made


def _of_weights(weights: Grouped | ByChannel, outputs: int) -> Any:
    """Return the quantization of a matrix; scales of channels are not known yet."""
    made = tfl.QuantizationParametersT()
    if isinstance(weights, ByChannel):
        made.scale, made.zeroPoint = np.zeros(outputs, np.float32), np.zeros(outputs, np.int64)
        return made
    made.detailsType = tfl.QuantizationDetails.BlockwiseQuantization
    made.details = tfl.BlockwiseQuantizationT()
    made.details.scales, made.details.blockSize = weights.scales, weights.size
    return made


def _signature(key: str, graph: int, flat: Flat) -> Any:
    made = tfl.SignatureDefT()
    made.signatureKey, made.subgraphIndex = key, graph
    made.inputs, made.outputs = _maps(flat.inputs), _maps(flat.outputs)
    return made


def _maps(ports: Sequence[tuple[str, int]]) -> list[Any]:
    maps = []
    for name, index in ports:
        made = tfl.TensorMapT()
        made.name, made.tensorIndex = name, index
        maps.append(made)
    return maps
