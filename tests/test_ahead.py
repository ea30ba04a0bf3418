import os
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from m4c import ahead as module
from m4c.ahead import AHEAD, ahead, workers


@pytest.fixture(autouse=True)
def _two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work with two threads, whatever the machine has."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    module._pool.cache_clear()
    yield
    module._pool().shutdown()
    module._pool.cache_clear()


def test_how_many_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers() == 2
    for nothing in ("", "0", "many", "2,1"):
        monkeypatch.setenv("OMP_NUM_THREADS", nothing)
        assert workers() == len(os.sched_getaffinity(0))


def test_results_come_in_order() -> None:
    def slow_when_even(item: int) -> int:
        time.sleep(0.003 if item % 2 == 0 else 0)
        return item * item

    assert list(ahead(slow_when_even, range(20))) == [i * i for i in range(20)]
    assert list(ahead(slow_when_even, [])) == []


def test_both_threads_work_at_one_time() -> None:
    together = threading.Barrier(2, timeout=5)

    def meet(item: int) -> str:
        together.wait()
        return threading.current_thread().name

    names = list(ahead(meet, range(8)))
    assert len(set(names)) == 2
    assert all(name.startswith("m4c") for name in names)


def test_few_results_wait() -> None:
    begun: list[int] = []

    def note(item: int) -> int:
        begun.append(item)
        return item

    results = ahead(note, range(1000))
    assert begun == []
    next(results)
    time.sleep(0.05)
    assert 1 <= len(begun) <= AHEAD * 2 + 1
    next(results)
    time.sleep(0.05)
    assert len(begun) <= AHEAD * 2 + 2


def test_who_stops_to_take_stops_the_work() -> None:
    begun: list[int] = []

    def note(item: int) -> int:
        begun.append(item)
        time.sleep(0.001)
        return item

    for result in ahead(note, range(1000)):
        if result == 3:
            break
    module._pool().shutdown()
    module._pool.cache_clear()
    assert len(begun) <= 3 + AHEAD * 2 + 2


def test_an_error_is_raised_in_its_place() -> None:
    def fail(item: int) -> int:
        if item == 5:
            raise KeyError("five")
        return item

    with pytest.raises(KeyError, match="five"):
        list(ahead(fail, range(100)))
    results = ahead(fail, range(100))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        next(results)
    assert list(ahead(partial(int), ["1", "2"])) == [1, 2]


def test_work_within_work_is_done_by_the_one_who_does_it() -> None:
    def inner(item: int) -> str:
        return threading.current_thread().name

    def outer(item: int) -> bool:
        return set(ahead(inner, range(4))) == {threading.current_thread().name}

    assert all(ahead(outer, range(8)))  # a pool that waited for itself would hang here


@pytest.mark.parametrize(("threads", "items"), [("1", 8), ("2", 1)])
def test_no_thread_where_none_helps(threads: str, items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    names = set(ahead(lambda _: threading.current_thread().name, range(items)))
    assert names == {threading.current_thread().name}


def test_torch_computes_with_one_thread_in_each_worker_and_as_before_elsewhere() -> None:
    before = torch.get_num_threads()
    assert set(ahead(lambda _: torch.get_num_threads(), range(8))) == {1}
    assert torch.get_num_threads() == before
