"""Torch files (.pt, .pth, .bin): mapped, and loaded with ``weights_only``, so that no code in a file is run."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
import torch

from m4c.errors import CheckpointError
from m4c.weights import Array, lazy

NESTS = ("state_dict", "model", "module")
"""Keys under which training scripts put the state dict."""


def open_file(path: Path) -> Mapping[str, ir.TensorProtocol]:
    """Return the tensors of one file, mapped and unread.

    Raises:
        CheckpointError: if the file is damaged, holds more than plain tensors, or is no mapping of names to tensors.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"not readable as plain weights: {str(error).splitlines()[0]}",
            where=str(path),
            fix="save the state dict alone, best as safetensors; m4c runs no code from a file",
        ) from error
    for nest in NESTS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(nest), Mapping):
            loaded = loaded[nest]
    if not isinstance(loaded, Mapping) or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise CheckpointError(
            "not a mapping of names to tensors", where=str(path), fix="save the state dict alone"
        )
    return {str(name): _tensor(str(name), tensor) for name, tensor in loaded.items()}


def _tensor(name: str, tensor: torch.Tensor) -> ir.LazyTensor:
    """Return a lazy tensor over a mapped one."""
    wrapped = ir.tensor(tensor.detach(), name=name)

    def read() -> Array:
        return wrapped.numpy()

    return lazy(name, wrapped.dtype, [int(d) for d in tensor.shape], read)
