"""Match a checkpoint to a sub-model: every weight finds its tensor and every tensor its place, or the user learns which."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from m4c.errors import CheckpointError
from m4c.models.graph import Submodel
from m4c.weights import Array, array, converted, lazy

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
HALVES = {
    ir.DataType.FLOAT16.numpy(): torch.float16,
    ir.DataType.BFLOAT16.numpy(): torch.bfloat16,
}
SHOWN = 5


def match(submodel: Submodel, checkpoint: Mapping[str, ir.TensorProtocol]) -> dict[str, ir.TensorProtocol]:
    """Return a lazy tensor for each entry of the sub-model's state dict, in the state dict's dtype and shape.

    Nothing is read now. When one is read, a value that is not a number is a :class:`CheckpointError`, and so are two
    tensors that stand for one tied weight and differ.

    Raises:
        CheckpointError: if a tensor is missing, has no place, shares its place with another, or has another shape or a
            dtype that does not convert; up to five are named.
    """
    state: dict[str, Any] = submodel.source.state_dict()
    found, extra, twice = _placed(submodel, checkpoint, state)
    wrong = [
        f"{name}: {list(tensor.shape)} in the checkpoint, {list(state[name].shape)} in the model"
        for name, tensor in found.items()
        if tuple(tensor.shape) != tuple(state[name].shape)
    ]
    strange = [
        f"{name}: {tensor.dtype.name} in the checkpoint, {_dtype(state[name]).name} in the model"
        for name, tensor in found.items()
        if not _convertible(tensor.dtype, _dtype(state[name]))
    ]
    _tie(submodel.tied, found)
    missing = [name for name in state if name not in found and not _is_counter(name)]
    for problem, names in (
        ("missing from the checkpoint", missing),
        ("of the checkpoint without a place in the model", extra),
        ("of the checkpoint with a place that another has taken", twice),
        ("of another shape", wrong),
        ("of a dtype that does not convert", strange),
    ):
        _complain(problem, names, submodel)
    return {name: _converted(name, tensor, _dtype(state[name])) for name, tensor in found.items()}


def _placed(
    submodel: Submodel, checkpoint: Mapping[str, ir.TensorProtocol], state: Mapping[str, Any]
) -> tuple[dict[str, ir.TensorProtocol], list[str], list[str]]:
    """Return the tensors by their names in the model, the keys that have no place, and those whose place is taken."""
    found: dict[str, ir.TensorProtocol] = {}
    extra, twice = [], []
    for key, tensor in checkpoint.items():
        name = key
        for pattern, replacement in submodel.renames:
            name = re.sub(pattern, replacement, name)
        if name in found:
            twice.append(f"{key} is {name}")
        elif name in state:
            found[name] = tensor
        elif not (submodel.ignored and re.fullmatch(submodel.ignored, key)):
            extra.append(key)
    return found, extra, twice


def _as(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return ``values`` in ``dtype``; half floats become floats by torch, which is several times as fast as numpy."""
    half = HALVES.get(values.dtype)
    if dtype == np.float32 and half is not None and values.flags.writeable:
        return torch.from_numpy(values.view(np.int16)).view(half).float().numpy()
    return values.astype(dtype, copy=False)


def _tie(tied: Mapping[str, str], found: dict[str, ir.TensorProtocol]) -> None:
    """Let both names of a tied weight stand for the one tensor there is; of two, the second is checked when it is read."""
    for alias, original in tied.items():
        held = [found[name] for name in (original, alias) if name in found]
        if len(held) == 2 and held[0] is not held[1]:
            held[0] = _same(held[0], held[1], original, alias)
        if held:
            found[alias] = found[original] = held[0]


def _same(
    tensor: ir.TensorProtocol, other: ir.TensorProtocol, name: str, other_name: str
) -> ir.TensorProtocol:
    """Return a recipe for ``tensor`` that refuses if ``other`` holds other values; the two are never in memory together."""

    def read() -> Array:
        digest = _digest(array(other))
        values = array(tensor)
        if _digest(values) != digest:
            raise CheckpointError(
                f"{name} and {other_name} differ, but are one weight in the model",
                where=name,
                fix="use a checkpoint of a model with tied weights, or remove the one that is not to be used",
            )
        return values

    return lazy(name, tensor.dtype, tensor.shape.numpy(), read)


def _digest(values: Array) -> bytes:
    """Return a hash of the bytes."""
    return hashlib.sha256(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data).digest()


def _is_counter(name: str) -> bool:
    """Return whether a buffer only counts training steps, which inference does not read."""
    return name.endswith(".num_batches_tracked")


def _dtype(tensor: Any) -> ir.DataType:
    """Return the dtype of an entry of the state dict."""
    return ir.DataType.from_numpy(np.dtype(str(tensor.dtype).removeprefix("torch.")))


def _complain(problem: str, names: list[str], submodel: Submodel) -> None:
    """Raise if there are names, showing the first few."""
    if not names:
        return
    shown = "\n    ".join(sorted(names)[:SHOWN])
    more = f"\n    and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    raise CheckpointError(
        f"{len(names)} tensor{'s' if len(names) > 1 else ''} {problem}:\n    {shown}{more}",
        where=submodel.name,
        fix="check that --weights and --preset belong to the same model",
    )


def _convertible(stored: ir.DataType, wanted: ir.DataType) -> bool:
    """Return whether values of one dtype can stand for another: floats for floats, else only the same."""
    return stored == wanted or {stored, wanted} <= FLOATS


def _converted(name: str, tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    """Return a recipe that reads, converts to ``dtype`` and refuses values that are not numbers."""

    def convert(values: Array) -> Array:
        made = _as(values, dtype.numpy())
        if dtype in FLOATS and np.isnan(made.min(initial=0)):
            raise CheckpointError(
                f"{name} holds values that are not numbers", where=name, fix="get a sound checkpoint"
            )
        return made

    return converted(tensor, name, dtype, tensor.shape.numpy(), convert, getattr(tensor, "origin", None))
