"""One file of weights for all graphs of a sub-model: each is read piece by piece and let go; equal bytes are stored once."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.ahead import ahead
from m4c.journal import Entry, Journal
from m4c.weights import array, divisible, part, stretches

ALIGNMENT = 4096
"""Every weight begins on a page, so that a runtime can map it."""

PIECE = 4 << 20
"""Bytes that are read and written at once, where nothing says otherwise."""

Progress = Callable[[int], None]
"""Called with the number of bytes just done."""


class WeightFile:
    """A data file that grows by :meth:`put`; use it as a context manager.

    It leaves no file behind if nothing was put, or if its context ends with an error. With a journal, what was put stays after
    an error, and a file that an earlier export left is continued.
    """

    def __init__(self, path: Path, *, journaled: bool = False) -> None:
        """Create the file at ``path``, or continue it; its folder must exist.

        Raises:
            UsageError: if it is journaled and another process writes it.
        """
        self.path = path
        self._journal = Journal(path) if journaled else None
        entries = self._journal.entries if self._journal else []
        self._done = {entry.key: (entry.offset, entry.length) for entry in entries}
        self._known = {bytes.fromhex(entry.sha256): (entry.offset, entry.length) for entry in entries}
        self._file = path.open("r+b" if entries else "wb")
        self._file.truncate(self._file.seek(max((entry.end for entry in entries), default=0)))

    def __enter__(self) -> "WeightFile":
        """Return the file."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file, and remove it if nothing was put or something failed that cannot be continued."""
        try:
            self._file.close()
        finally:  # also where the disk is full
            if self._journal is not None:
                self._journal.close()
        if not self._known or (kind is not None and self._journal is None):
            self.path.unlink()

    def put(
        self, tensor: ir.TensorProtocol, progress: Progress = lambda _: None, key: str = ""
    ) -> tuple[int, int]:
        """Write the values of ``tensor`` unless they are there already; return (offset, length) in bytes.

        They are read a stretch of rows at a time, by all cores. If reading fails, the file is as before, to be used further.
        ``key`` tells the tensor from all others: one that the journal knows is not read. Without a key it is not journaled.
        """
        if key in self._done:
            progress(tensor.nbytes)
            return self._done[key]
        before = self._file.tell()
        offset, digest = self._file.seek(before + -before % ALIGNMENT), hashlib.sha256()
        known = None
        try:
            for piece in ahead(partial(data, tensor), stretches(tensor, PIECE)):
                self._file.write(piece)
                digest.update(piece)
                progress(piece.nbytes)
            known = self._known.setdefault(digest.digest(), (offset, self._file.tell() - offset))
        finally:
            if known is None or known[0] != offset:
                self._file.truncate(self._file.seek(before))
        if key and self._journal is not None:
            self.flush()
            self._journal.append(Entry(key, *known, digest.hexdigest()))
        return known

    def flush(self) -> None:
        """Let a runtime see what was put so far."""
        self._file.flush()


def data(tensor: ir.TensorProtocol, rows: slice) -> memoryview:
    """Return rows of ``tensor`` as they lie in a file: little-endian, in C order, 4-bit ones two to a byte."""
    values = part(tensor, rows) if divisible(tensor) else array(tensor)
    if values.dtype.itemsize != tensor.dtype.itemsize:  # only then does packing copy
        return memoryview(ir.tensor(values, dtype=tensor.dtype).tobytes())
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
