"""What is already in a file of weights: a line for each tensor, written once its bytes are.

A killed export leaves a file and its journal; the next one reads which tensors are whole, and writes on behind them. So the
file ends with the same bytes, as it would have grown in the same order.
"""

import dataclasses
import fcntl
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from m4c.errors import UsageError
from m4c.record import from_json

SUFFIX = ".journal"

PIECE = 4 << 20
"""Bytes that are hashed at once."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: what it is, where it lies in the file, and the SHA-256 of its bytes in hexadecimal."""

    key: str
    offset: int
    length: int
    sha256: str

    @property
    def end(self) -> int:
        """Where the next one may begin."""
        return self.offset + self.length


class Journal:
    """The journal beside a data file, ``<file>.journal``: JSON lines. Only one process at a time may have it open."""

    def __init__(self, data: Path) -> None:
        """Open or create the journal of the file ``data``, and drop the entries that ``data`` does not hold.

        Raises:
            UsageError: if another process writes that file.
        """
        self.path = data.with_name(data.name + SUFFIX)
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UsageError(
                "another export still writes these weights",
                where=str(data),
                fix="wait for it to end, or end it",
            ) from None
        lines = self._whole_lines()
        self.entries = held(data, [entry for entry, _ in lines])
        self._file.truncate(sum(size for _, size in lines[: len(self.entries)]))

    def append(self, entry: Entry) -> None:
        """Note that ``entry`` is in the data file, which was flushed before."""
        self._file.write(json.dumps(dataclasses.asdict(entry)).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Let others open it; the file stays."""
        self._file.close()

    def _whole_lines(self) -> list[tuple[Entry, int]]:
        """Return the entries up to the first line that is damaged or cut short, each with its length in bytes."""
        self._file.seek(0)
        found = []
        for line in self._file:
            try:
                if not line.endswith(b"\n"):
                    break
                found.append((from_json(Entry, json.loads(line)), len(line)))
            except ValueError:
                break
        return found


def held(data: Path, entries: list[Entry]) -> list[Entry]:
    """Return the first of ``entries`` that the file ``data`` truly holds, up to one whose bytes are others.

    Those after it are of no use: in the finished file they would lie elsewhere.
    """
    if not data.is_file():
        return []
    with data.open("rb") as file:
        for index, entry in enumerate(entries):
            if not _holds(file, entry):
                return entries[:index]
    return entries


def _holds(file: BinaryIO, entry: Entry) -> bool:
    """Return whether the bytes of ``entry`` have its hash; they are read in pieces."""
    digest, left = hashlib.sha256(), entry.length
    file.seek(entry.offset)
    while left and (piece := file.read(min(left, PIECE))):
        digest.update(piece)
        left -= len(piece)
    return not left and digest.hexdigest() == entry.sha256
