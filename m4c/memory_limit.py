"""A limit on the memory of an export: this process and its children together, looked at twenty times a second."""

import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from m4c.errors import UsageError

UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}

INTERVAL = 0.05
"""Seconds between two looks."""

PATIENCE = 5.0
"""Seconds that the export has to end in order; then the process ends at once. A folder half built is left, as by a kill."""

PAGE = os.sysconf("SC_PAGE_SIZE")


def size(text: str) -> int:
    """Return the bytes that a size such as ``800MB`` (10⁶) or ``1.5GiB`` (2³⁰) states.

    Raises:
        UsageError: if it is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2] not in UNITS or not float(found[1]):
        raise UsageError(
            f"{text!r} is not a size", fix=f"write it as 800MB or 1GiB; units are {' '.join(UNITS)}"
        )
    return int(float(found[1]) * UNITS[found[2]])


def family(process: int) -> Iterator[int]:
    """Yield a process and all its children that have not ended. Linux alone tells them."""
    try:
        threads = list((Path("/proc") / str(process) / "task").iterdir())
    except OSError:  # it has just ended
        return
    yield process
    for thread in threads:
        try:
            children = (thread / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from family(int(child))


def resident(process: int) -> int:
    """Return the resident bytes of a process and all its children, mapped files included; 0 once it has ended."""
    return sum(map(_resident, family(process)))


def _resident(process: int) -> int:
    """Return the resident bytes of one process."""
    try:
        return int((Path("/proc") / str(process) / "statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):  # it has just ended
        return 0


class _Interruption(BaseException):
    """What stops the export wherever it is: no error, since libraries catch these and go on, or print their stack."""


class _Watch(threading.Thread):
    """Looks at the memory, and ends the export once it is more than ``limit``."""

    def __init__(self, limit: int) -> None:
        super().__init__(name="memory limit", daemon=True)
        self.limit = limit
        self.seen = 0
        self.done = threading.Event()

    @property
    def error(self) -> UsageError:
        """What the user is told."""
        return UsageError(
            f"the export needed {self.seen >> 20} MiB of memory, more than the limit of {self.limit >> 20} MiB",
            fix="give a larger --max-rss, fewer --jobs or fewer sub-models",
        )

    def run(self) -> None:
        """Look until the export is done."""
        while not self.done.wait(INTERVAL):
            self.seen = resident(os.getpid())
            if self.seen > self.limit:
                self._end()

    def _end(self) -> None:
        """Stop the workers and interrupt the main thread; end the process if that does not end it."""
        for child in multiprocessing.active_children():
            child.kill()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        if not self.done.wait(PATIENCE):
            sys.stderr.write(f"error: {self.error}\n")
            sys.stderr.flush()
            os._exit(UsageError.exit_code)


@contextmanager
def limited(limit: int | None) -> Iterator[None]:
    """End the block with an error once this process and its children hold more than ``limit`` bytes; None: no limit.

    The limit is that of resident memory, mapped files included. Only the main thread may call this.

    Raises:
        UsageError: once there is more, or if the system does not tell how much there is.
    """
    if limit is None:
        yield
        return
    if not resident(os.getpid()):
        raise UsageError("--max-rss needs /proc, which this system does not have", fix="leave it out")
    watch = _Watch(limit)

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise _Interruption

    before = signal.signal(signal.SIGUSR1, interrupt)
    watch.start()
    try:
        yield
    except BaseException as error:
        if watch.seen > limit:  # whatever the interruption became on its way
            raise watch.error from error
        raise
    finally:
        watch.done.set()
        watch.join()
        signal.signal(signal.SIGUSR1, before)
    if watch.seen > limit:
        raise watch.error
