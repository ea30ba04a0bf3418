"""Match a checkpoint to a sub-model: every weight finds its tensor and every tensor its place, or the user learns which."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from m4c.errors import CheckpointError
from m4c.models.graph import Submodel
from m4c.weights import Array, array, lazy

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
SHOWN = 5


def match(submodel: Submodel, checkpoint: Mapping[str, ir.TensorProtocol]) -> dict[str, ir.TensorProtocol]:
    """Return a lazy tensor for each entry of the sub-model's state dict, in the state dict's dtype and shape.

    Nothing is read now. When one is read, a value that is not a number is a :class:`CheckpointError`.

    Raises:
        CheckpointError: if a tensor is missing, has no place, or has another shape; all of them are named.
    """
    state: dict[str, Any] = submodel.source.state_dict()
    found: dict[str, ir.TensorProtocol] = {}
    extra: list[str] = []
    for key, tensor in checkpoint.items():
        name = key
        for pattern, replacement in submodel.renames:
            name = re.sub(pattern, replacement, name)
        if name in state:
            found[name] = tensor
        elif not (submodel.ignored and re.fullmatch(submodel.ignored, key)):
            extra.append(key)
    for alias, original in submodel.tied.items():
        kept = found.get(original) or found.get(alias)
        if kept is not None:
            found[alias] = found[original] = kept
    missing = [name for name in state if name not in found and not _is_counter(name)]
    wrong = [
        f"{name}: {list(tensor.shape)} in the checkpoint, {list(state[name].shape)} in the model"
        for name, tensor in found.items()
        if tuple(tensor.shape) != tuple(state[name].shape)
    ]
    _complain("missing from the checkpoint", missing, submodel)
    _complain("of the checkpoint have no place in the model", extra, submodel)
    _complain("have another shape", wrong, submodel)
    return {name: _converted(name, tensor, _dtype(state[name])) for name, tensor in found.items()}


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
        f"{len(names)} tensors {problem}:\n    {shown}{more}",
        where=submodel.name,
        fix="check that --weights and --preset belong to the same model",
    )


def _converted(name: str, tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    """Return a recipe that reads, converts to ``dtype`` and refuses values that are not numbers."""
    convertible = tensor.dtype == dtype or {tensor.dtype, dtype} <= FLOATS
    if not convertible:
        raise CheckpointError(f"{name} is {tensor.dtype.name}, the model needs {dtype.name}", where=name)

    def read() -> Array:
        values = array(tensor)
        if dtype in FLOATS and np.isnan(values).any():
            raise CheckpointError(
                f"{name} holds values that are not numbers", where=name, fix="get a sound checkpoint"
            )
        return values.astype(dtype.numpy(), copy=False)

    return lazy(name, dtype, tensor.shape.numpy(), read)
