"""An ONNX file without its weights: the file is mapped, and the bytes of large initializers are stepped over, never decoded."""

import mmap
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from m4c.errors import UsageError
from m4c.sound_onnx import bytes_of, require_sound

FIX = "give an .onnx file"
HELD_BYTES = 1 << 16
"""Constants up to this size are read: shapes, axes, pads, scales."""

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
"""Field numbers of ``ModelProto.graph``, ``GraphProto.initializer`` and ``TensorProto.raw_data`` in onnx.proto."""

PACKED_DATA = frozenset({4, 5, 6, 7, 10, 11})
"""Field numbers of a ``TensorProto`` that hold values one by one: float_data, int32_data, string_data, …"""

VARINT, LENGTH = 0, 2
FIXED = {1: 8, 5: 4}
"""Wire types of protobuf, and the bytes of those that have a fixed size."""


def read_proto(path: Path) -> onnx.ModelProto:
    """Return an ONNX file without the values of its large initializers; external files are not opened.

    Raises:
        UsageError: if the file is unreadable, not an ONNX model, or one that makes no sense.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            proto = onnx.ModelProto()
            proto.ParseFromString(_without_weights(content))
    except OSError as error:
        raise UsageError(f"cannot read the graph: {error.strerror}", where=str(path), fix=FIX) from error
    except (ValueError, IndexError, DecodeError) as error:
        raise UsageError(f"not an ONNX model: {error}", where=str(path), fix=FIX) from error
    # Almost any few bytes parse as some message: a model says its version and has a graph.
    if not proto.ir_version or not proto.HasField("graph"):
        raise UsageError("not an ONNX model: it has no graph", where=str(path), fix=FIX)
    require_sound(proto, path)
    return proto


def _without_weights(content: mmap.mmap) -> bytes:
    """Return the bytes of a model, the values of large initializers left out."""
    made = bytearray()
    for number, start, body, end in _fields(content, 0, len(content)):
        if number == GRAPH:
            made += _message(GRAPH, b"".join(_graph_fields(content, body, end)))
        else:
            made += content[start:end]
    return bytes(made)


def _graph_fields(content: mmap.mmap, start: int, end: int) -> Iterator[bytes]:
    for number, at, body, after in _fields(content, start, end):
        if number == INITIALIZER and after - body > HELD_BYTES:
            yield _message(INITIALIZER, _tensor_fields(content, body, after))
        else:
            yield content[at:after]


def _tensor_fields(content: mmap.mmap, start: int, end: int) -> bytes:
    """Return the bytes of a tensor without its values, of which there must be as many as its shape says."""
    kept, held = bytearray(), None
    for number, at, body, after in _fields(content, start, end):
        if number == RAW_DATA:
            held = after - body
        elif number not in PACKED_DATA:
            kept += content[at:after]
    tensor = onnx.TensorProto.FromString(bytes(kept))
    known = tensor.data_type in onnx.TensorProto.DataType.values()
    if held is not None and known and held != bytes_of(tensor):
        raise ValueError(f"{tensor.name} has {held} bytes, its shape needs {bytes_of(tensor)}")
    return bytes(kept)


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of a message: number, where it starts, where its content starts, where it ends."""
    at = start
    while at < end:
        key, body = _varint(content, at)
        kind = key & 7
        if kind == LENGTH:
            length, body = _varint(content, body)
            after = body + length
        elif kind == VARINT:
            after = _varint(content, body)[1]
        elif kind in FIXED:
            after = body + FIXED[kind]
        else:
            raise ValueError(f"wire type {kind} at byte {at} is no field of a model")
        if after > end:
            raise ValueError(f"the field at byte {at} is longer than the file")
        yield key >> 3, at, body, after
        at = after


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    """Return a number of variable length, and where it ends."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError(f"the number at byte {at} has no end")


def _message(number: int, body: bytes) -> bytes:
    """Return a field with a message in it."""
    return _number(number << 3 | LENGTH) + _number(len(body)) + body


def _number(value: int) -> bytes:
    """Return a number of variable length as bytes."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
