"""Sub-models compiled side by side, each in a process of its own; what they tell of their progress comes back by a queue."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from m4c.errors import UsageError
from m4c.progress import Progress

Result = TypeVar("Result")
Work = Callable[..., Result]
Queue = Any
"""A multiprocessing queue of (method, arguments), or None at the end."""

_queue: Queue = None


class _Remote:
    """The progress of a worker: every call goes into the queue."""

    def stage(self, graph: str, stage: str) -> None:
        """Send it."""
        _queue.put(("stage", (graph, stage)))

    def step(self, graph: str, done: int, total: int) -> None:
        """Send it."""
        _queue.put(("step", (graph, done, total)))

    def finished(self, graph: str) -> None:
        """Send it."""
        _queue.put(("finished", (graph,)))

    def completed(self, submodel: str) -> None:
        """Send it."""
        _queue.put(("completed", (submodel,)))


def in_processes(work: Work[Result], items: Sequence[str], progress: Progress, jobs: int) -> list[Result]:
    """Return ``work(item, progress)`` for each item, in order, computed by ``jobs`` processes (0: one a core).

    With one job or one item everything happens in this process. The first error stops the rest and is raised as it was.

    Raises:
        UsageError: if the system kills a process.
    """
    jobs = processes(jobs, len(items))
    if jobs <= 1:
        return [work(item, progress) for item in items]
    context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
    queue: Queue = context.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(queue, progress), daemon=True)
    listener.start()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    try:
        with ProcessPoolExecutor(jobs, context, _start, (queue, threads)) as pool:
            futures = [pool.submit(_work, work, item) for item in items]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                for future in futures:
                    if future.done():
                        future.result()
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise UsageError(
            "a process was killed while it compiled, most likely for want of memory",
            where=f"{jobs} processes",
            fix="compile one sub-model at a time with --jobs 1, or fewer sub-models",
        ) from error
    finally:
        queue.put(None)
        listener.join()


def processes(jobs: int, items: int) -> int:
    """Return how many processes do ``items`` things when ``jobs`` (0: one a core) are wanted."""
    return min(jobs or os.cpu_count() or 1, items)


def _start(queue: Queue, threads: int) -> None:
    """Set a worker up: its queue, and its share of the cores. It ends when the process that started it is killed."""
    global _queue
    _queue = queue
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _outlive_nobody() -> None:
    """End this process as soon as its parent has ended: another export may begin to write what it writes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(work: Work[Result], item: str) -> Result:
    """Do one item in a worker."""
    return work(item, _Remote())


def _listen(queue: Queue, progress: Progress) -> None:
    """Pass on what the workers tell, until the end."""
    while (told := queue.get()) is not None:
        method, arguments = told
        getattr(progress, method)(*arguments)
