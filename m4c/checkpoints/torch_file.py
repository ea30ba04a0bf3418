"""Torch files (.pt, .pth, .bin): mapped, and loaded with ``weights_only``, so that no code in a file is run."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
import torch

from m4c.errors import CheckpointError
from m4c.weights import Array, lazy

NESTS = ("state_dict", "model", "module")
"""Keys under which training scripts put the state dict."""

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before 1.6 begin: torch.serialization's MAGIC_NUMBER, pickled by protocol 2."""


def open_file(path: Path) -> Mapping[str, ir.TensorProtocol]:
    """Return the tensors of one file, mapped and unread.

    Raises:
        CheckpointError: if the file is damaged, holds more than plain tensors, or is no mapping of names to tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript files: they are refused
            loaded: object = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged pickle fails with whatever its bytes happen to mean
        raise CheckpointError(
            f"not readable as plain weights: {(str(error) or type(error).__name__).splitlines()[0]}",
            where=str(path),
            fix="save the state dict alone, best as safetensors; m4c runs no code from a file",
        ) from error
    while isinstance(loaded, Mapping) and (nested := _nested(loaded)) is not None:
        loaded = nested
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"holds a {type(loaded).__name__}, not a mapping of names to tensors",
            where=str(path),
            fix="save the state dict alone",
        )
    return {str(name): _tensor(str(name), tensor, path) for name, tensor in loaded.items()}


def is_legacy(start: bytes) -> bool:
    """Return whether a file that begins with ``start`` is of torch before 1.6, which cannot be mapped."""
    return start.startswith(LEGACY)


def _nested(loaded: Mapping[object, object]) -> Mapping[object, object] | None:
    """Return the state dict that a training script put beside its other state."""
    return next((held for nest in NESTS if isinstance(held := loaded.get(nest), Mapping)), None)


def _tensor(name: str, tensor: object, path: Path) -> ir.LazyTensor:
    """Return a lazy tensor over a mapped one."""
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError(
            f"{name} is a {type(tensor).__name__}, not a tensor",
            where=str(path),
            fix="save the state dict alone",
        )
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise CheckpointError(
            f"{name} is a {tensor.dtype} tensor of layout {tensor.layout}",
            where=str(path),
            fix="save it as a dense tensor of floats or integers",
        )
    wrapped = ir.tensor(tensor.detach(), name=name)

    def read() -> Array:
        return wrapped.numpy()

    return lazy(name, wrapped.dtype, [int(d) for d in tensor.shape], read)
