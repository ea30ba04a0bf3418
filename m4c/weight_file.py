"""One file of weights for all graphs of a sub-model: each weight is read, written and let go; equal bytes are stored once."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.weights import array

ALIGNMENT = 4096
"""Every weight begins on a page, so that a runtime can map it."""

Progress = Callable[[int], None]
"""Called with the number of bytes just done."""


class WeightFile:
    """A data file that grows by :meth:`put`; use it as a context manager.

    It leaves no file behind if nothing was put, or if its context ends with an error.
    """

    def __init__(self, path: Path) -> None:
        """Create the file at ``path``; its folder must exist."""
        self.path = path
        self._file = path.open("wb")
        self._known: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> "WeightFile":
        """Return the file."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file, and remove it if nothing was put or something failed."""
        self._file.close()
        if kind is not None or not self._known:
            self.path.unlink()

    def put(self, tensor: ir.TensorProtocol) -> tuple[int, int]:
        """Write the values of ``tensor`` unless they are there already; return (offset, length) in bytes.

        If reading them fails, nothing is written and the file can be used further.
        """
        data = _bytes(tensor)
        digest = hashlib.sha256(data).digest()
        if digest not in self._known:
            self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
            offset = self._file.tell()
            self._file.write(data)
            self._known[digest] = (offset, data.nbytes)
        return self._known[digest]

    def flush(self) -> None:
        """Let a runtime see what was put so far."""
        self._file.flush()


def _bytes(tensor: ir.TensorProtocol) -> memoryview:
    """Return the values of ``tensor`` as they lie in a file: little-endian, in C order, 4-bit ones two to a byte."""
    values = array(tensor)
    if values.dtype.itemsize != tensor.dtype.itemsize:  # only then does packing copy
        return memoryview(ir.tensor(values, dtype=tensor.dtype).tobytes())
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
