"""CTranslate2's ``model.bin`` of a Whisper model, under the names that transformers uses.

The file is a list of named arrays; queries, keys and values are stacked, and key biases, which Whisper does not have, are
stored as zeros. Layout (little-endian, unaligned): version, specification name, revision, number of variables; for each its
name, rank, dimensions, dtype, byte count and bytes; then the aliases. Source: CTranslate2's ``model_spec.py``, version 6.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from m4c.errors import CheckpointError
from m4c.weights import Array, lazy

VERSION = 6
SPECIFICATION = b"WhisperSpec\0"
DTYPES = {
    0: ir.DataType.FLOAT,
    1: ir.DataType.INT8,
    2: ir.DataType.INT16,
    3: ir.DataType.INT32,
    4: ir.DataType.FLOAT16,
}


@dataclass(frozen=True, slots=True)
class _Variable:
    """Where an array stands in the file."""

    dtype: ir.DataType
    shape: tuple[int, ...]
    offset: int


def recognises(start: bytes) -> bool:
    """Return whether a file that begins with ``start`` is a CTranslate2 Whisper model."""
    length = len(SPECIFICATION)
    return start[6 : 6 + length] == SPECIFICATION and struct.unpack_from("<IH", start) == (VERSION, length)


def open_file(path: Path) -> Mapping[str, ir.TensorProtocol]:
    """Return the model's tensors as transformers' ``WhisperForConditionalGeneration`` names them, unread.

    Raises:
        CheckpointError: if the file is cut short, or holds a variable that has no place in Whisper.
    """
    try:
        variables = _parse(path)
    except (struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(
            "not a whole CTranslate2 file", where=str(path), fix="copy or download the file again"
        ) from error
    found: dict[str, ir.TensorProtocol] = {}
    for name, variable in variables.items():
        for key, first, rows in _places(name, variable, path):
            shape = (rows, *variable.shape[1:])
            found[key] = lazy(key, variable.dtype, shape, _reader(path, variable, first, rows))
    return found


def _parse(path: Path) -> dict[str, _Variable]:
    """Read the headers of all variables."""
    size, variables = path.stat().st_size, {}
    with path.open("rb") as file:
        file.seek(4)
        _text(file)
        _, count = struct.unpack("<II", file.read(8))
        for _ in range(count):
            name = _text(file)
            (rank,) = struct.unpack("<B", file.read(1))
            shape = struct.unpack(f"<{rank}I", file.read(4 * rank))
            dtype, length = struct.unpack("<BI", file.read(5))
            if dtype not in DTYPES or length != math.prod(shape) * DTYPES[dtype].itemsize:
                raise CheckpointError(
                    f"{name} has {length} bytes, shape {list(shape)} and dtype number {dtype}, which do not agree",
                    where=str(path),
                    fix="copy or download the file again; m4c reads files of CTranslate2 3 and 4",
                )
            variables[name] = _Variable(DTYPES[dtype], shape, file.tell())
            file.seek(length, 1)
        if file.tell() > size:
            raise struct.error
    return variables


def _text(file: BinaryIO) -> str:
    """Read a string: uint16 length with the final NUL, then the bytes."""
    (length,) = struct.unpack("<H", file.read(2))
    return file.read(length).rstrip(b"\0").decode()


def _reader(path: Path, variable: _Variable, first: int, rows: int) -> Callable[[], Array]:
    """Return a reader of ``rows`` rows from ``first``."""
    row = int(np.prod(variable.shape[1:])) * variable.dtype.numpy().itemsize

    def read() -> Array:
        shape = (rows, *variable.shape[1:])
        rows_read: Array = np.memmap(path, variable.dtype.numpy(), "r", variable.offset + first * row, shape)
        return rows_read

    return read


NORM = {"gamma": "weight", "beta": "bias"}
FIXED = {
    "position_encodings/encodings": "embed_positions.weight",
    "embeddings/weight": "embed_tokens.weight",
    "conv1/weight": "conv1.weight",
    "conv1/bias": "conv1.bias",
    "conv2/weight": "conv2.weight",
    "conv2/bias": "conv2.bias",
}
STACKED = {
    ("self_attention", "0"): ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attention", "1"): ("self_attn.out_proj",),
    ("attention", "0"): ("encoder_attn.q_proj",),
    ("attention", "1"): ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    ("attention", "2"): ("encoder_attn.out_proj",),
    ("ffn", "0"): ("fc1",),
    ("ffn", "1"): ("fc2",),
}
NORMS = {
    "self_attention": "self_attn_layer_norm",
    "attention": "encoder_attn_layer_norm",
    "ffn": "final_layer_norm",
}


def _places(name: str, variable: _Variable, path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (key, first row, number of rows) for each tensor that a variable holds; configuration scalars yield none."""
    if not variable.shape:
        return
    side, _, rest = name.partition("/")
    rows = variable.shape[0]
    if side not in ("encoder", "decoder"):
        raise _placeless(name, path)
    if rest in FIXED:
        yield f"model.{side}.{FIXED[rest]}", 0, rows
    elif match := re.fullmatch(r"layer_norm/(gamma|beta)", rest):
        yield f"model.{side}.layer_norm.{NORM[match[1]]}", 0, rows
    elif match := re.fullmatch(rf"layer_(\d+)/({'|'.join(NORMS)})/layer_norm/(gamma|beta)", rest):
        yield f"model.{side}.layers.{match[1]}.{NORMS[match[2]]}.{NORM[match[3]]}", 0, rows
    elif (match := re.fullmatch(r"layer_(\d+)/(\w+)/linear_(\d)/(weight|bias)", rest)) and (
        parts := STACKED.get((match[2], match[3]))
    ):
        if rows % len(parts):
            raise CheckpointError(f"{name} has {rows} rows for {len(parts)} projections", where=str(path))
        for index, part in enumerate(parts):
            if not (part.endswith("k_proj") and match[4] == "bias"):  # zeros: Whisper's keys have no bias
                size = rows // len(parts)
                yield f"model.{side}.layers.{match[1]}.{part}.{match[4]}", index * size, size
    else:
        raise _placeless(name, path)


def _placeless(name: str, path: Path) -> CheckpointError:
    """Return the error for a variable that Whisper does not have; integer models have scales beside their weights."""
    return CheckpointError(
        f"{name} has no place in Whisper",
        where=str(path),
        fix="give a Whisper model converted without quantization, or to float16",
    )
