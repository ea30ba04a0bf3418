"""One file of weights for all graphs of a sub-model: each weight is read, written and let go; equal bytes are stored once."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from m4c.weights import array

ALIGNMENT = 4096
"""Every weight begins on a page, so that a runtime can map it."""

Progress = Callable[[int], None]
"""Called with the number of bytes just done."""


class WeightFile:
    """A data file that grows by :meth:`put`; use it as a context manager. Empty, it leaves no file behind."""

    def __init__(self, path: Path) -> None:
        """Create the file at ``path``; its folder must exist."""
        self.path = path
        self._file = path.open("wb")
        self._known: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> "WeightFile":
        """Return the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, and remove it if nothing was put."""
        self._file.close()
        if not self._known:
            self.path.unlink()

    def put(self, tensor: ir.TensorProtocol) -> tuple[int, int]:
        """Write the values of ``tensor`` unless they are there already; return (offset, length) in bytes."""
        values = array(tensor)
        packed = (
            values
            if values.dtype.itemsize == tensor.dtype.itemsize
            else ir.tensor(values, dtype=tensor.dtype)
        )
        data = memoryview(packed.tobytes() if isinstance(packed, ir.TensorProtocol) else packed).cast("B")
        digest = hashlib.sha256(data).digest()
        if digest not in self._known:
            self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
            self._known[digest] = (self._file.tell(), len(data))
            self._file.write(data)
        return self._known[digest]

    def flush(self) -> None:
        """Let a runtime see what was put so far."""
        self._file.flush()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
