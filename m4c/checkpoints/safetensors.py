"""Safetensors files, single or sharded with an index: validated by the library, mapped, read a tensor at a time."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from safetensors import SafetensorError, safe_open

from m4c.errors import CheckpointError
from m4c.json_file import read_json
from m4c.weights import Array, lazy

DTYPES = {
    "BF16": ir.DataType.BFLOAT16,
    "BOOL": ir.DataType.BOOL,
    "F16": ir.DataType.FLOAT16,
    "F32": ir.DataType.FLOAT,
    "F64": ir.DataType.DOUBLE,
    "I16": ir.DataType.INT16,
    "I32": ir.DataType.INT32,
    "I64": ir.DataType.INT64,
    "I8": ir.DataType.INT8,
    "U8": ir.DataType.UINT8,
}


def open_file(path: Path) -> Mapping[str, ir.TensorProtocol]:
    """Return the tensors of one file, unread.

    Raises:
        CheckpointError: if the header is damaged, or a dtype is not one that m4c reads.
    """
    try:
        with safe_open(path, framework="numpy") as file:  # checks offsets against the size of the file
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"not a readable safetensors file: {error}",
            where=str(path),
            fix="copy or download the file again",
        ) from error
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(length))
    return {name: _tensor(path, 8 + length, name, header[name]) for name in names}


def open_sharded(index: Path) -> Mapping[str, ir.TensorProtocol]:
    """Return the tensors of all files that an index names.

    Raises:
        CheckpointError: if the index is damaged, names a file outside its folder, or a tensor is not where it says.
    """
    table = _weight_map(index)
    shards: dict[str, Mapping[str, ir.TensorProtocol]] = {}
    for shard in sorted(set(table.values())):
        if Path(shard).name != shard:
            raise CheckpointError(
                f"the index names a file outside its folder: {shard}",
                where=str(index),
                fix="do not use this checkpoint: its parts must lie beside the index",
            )
        if not (index.parent / shard).is_file():
            raise CheckpointError(
                f"{shard} is missing", where=str(index), fix="download the whole checkpoint"
            )
        if not beside(index, index.parent / shard):
            raise CheckpointError(
                f"{shard} is a link to a file outside the folder of the index: {(index.parent / shard).resolve()}",
                where=str(index),
                fix="put the file itself there, if you trust it",
            )
        shards[shard] = open_file(index.parent / shard)
    missing = [name for name, shard in table.items() if name not in shards[shard]]
    if missing:
        raise CheckpointError(
            f"{missing[0]} is not in {table[missing[0]]}, where the index says",
            where=str(index),
            fix="download the whole checkpoint: index and parts are not of one version",
        )
    return {name: shards[shard][name] for name, shard in table.items()}


def beside(index: Path, shard: Path) -> bool:
    """Return whether ``shard`` lies in the folder of ``index``: itself, or by links as the Hugging Face hub makes them.

    Its cache has ``<model>/snapshots/<version>/<name>`` link to ``<model>/blobs/<hash>``.
    """
    folder = index.parent.resolve()
    allowed = [folder] + [folder.parent.parent / "blobs"] * (folder.parent.name == "snapshots")
    return any(shard.resolve().is_relative_to(place) for place in allowed)


def _weight_map(index: Path) -> Mapping[str, str]:
    """Return which file holds each tensor."""
    try:
        table = read_json(index)["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise _not_an_index(index) from error
    if not isinstance(table, dict) or not all(isinstance(shard, str) for shard in table.values()):
        raise _not_an_index(index)
    return table


def _not_an_index(index: Path) -> CheckpointError:
    return CheckpointError(
        "not an index of safetensors files: it has no weight_map from tensors to files",
        where=str(index),
        fix="download the file again, or give --weights the .safetensors file itself",
    )


def _tensor(path: Path, base: int, name: str, entry: Mapping[str, Any]) -> ir.LazyTensor:
    """Return the lazy tensor of one header entry."""
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(
            f"{name} has dtype {entry['dtype']}",
            where=str(path),
            fix=f"m4c reads {', '.join(sorted(DTYPES))}",
        )
    dtype, shape, start = DTYPES[entry["dtype"]], tuple(entry["shape"]), base + entry["data_offsets"][0]

    def read() -> Array:
        if 0 in shape:
            return np.zeros(shape, dtype.numpy())
        return np.memmap(path, dtype.numpy(), "c", start, shape or (1,)).reshape(shape)

    def part(rows: slice) -> Array:
        size = math.prod(shape[1:])
        if not size:
            return np.zeros((rows.stop - rows.start, *shape[1:]), dtype.numpy())
        first = start + rows.start * size * dtype.numpy().itemsize
        return np.memmap(path, dtype.numpy(), "c", first, (rows.stop - rows.start, *shape[1:]))

    return lazy(name, dtype, shape, read, part if shape else None)
