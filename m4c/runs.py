"""Cut a sequence of nodes into runs of limited size, so that a model of any size is worked through in pieces."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def cut(
    items: Iterable[Item],
    size_of: Callable[[Item], int],
    limit: int,
    alone: Callable[[Item], bool] = lambda _: False,
) -> Iterator[list[Item]]:
    """Cut ``items`` into consecutive runs of up to ``limit`` in all; a larger one, or one to stand alone, is its own run."""
    run: list[Item] = []
    used = 0
    closed = False
    for item in items:
        size, single = size_of(item), alone(item)
        if run and (closed or single or used + size > limit):
            yield run
            run, used = [], 0
        run.append(item)
        used, closed = used + size, single
    if run:
        yield run
