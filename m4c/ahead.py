"""Work that is done ahead of the one who takes its results: in order, by all cores, with few results waiting."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Results that may wait, for each worker."""


def workers() -> int:
    """Return how many threads work: as many as this process has cores, or what OMP_NUM_THREADS allows."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return int(allowed) if allowed.isdigit() and int(allowed) else len(os.sched_getaffinity(0))


def ahead(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield ``work(item)`` for each item in order, computed by threads while earlier results are used.

    Work that calls this function itself does its part alone: only the outermost call starts threads.
    """
    if len(items) <= 1 or workers() == 1 or getattr(_here, "working", False):
        yield from map(work, items)
        return
    pool, waiting = _pool(), deque[Future[Result]]()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > AHEAD * workers():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


_here = threading.local()


@cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads. There is one pool, as each new thread would keep memory of its own."""
    return ThreadPoolExecutor(workers(), "m4c", _begin)


def _begin() -> None:
    """Set a worker up: torch computes with one thread in it, as the workers are the cores."""
    import torch

    _here.working = True
    torch.set_num_threads(1)
