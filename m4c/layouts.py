"""Layouts: the order in which a file keeps the axes of a value, where that is another than the model's.

A layout lists axes of the model from the outermost to the innermost in memory: (0, 2, 3, 1) keeps an image [N, C, H, W] with
its channels last. A layout of more axes than a value has is that of the value with dimensions of 1 put before.
"""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray
Layout = tuple[int, ...]

MARK = "@"
"""Stands in the name of a tensor before the digits of its layout: ``conv2d_3@0231``."""

PADDED = ".padded"
"""Ends the name of a tensor that has dimensions of 1 put before: it has not the rank of its value."""


def plain(rank: int) -> Layout:
    """Return the model's own layout."""
    return tuple(range(rank))


def channels_last(rank: int) -> Layout:
    """Return the layout with axis 1 innermost."""
    return (0, *range(2, rank), 1)


def laid_out(shape: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """Return the shape that a value of ``shape`` has in ``layout``."""
    whole = (*[1] * (len(layout) - len(shape)), *shape)
    return tuple(whole[axis] for axis in layout)


def extended(layout: Layout, rank: int) -> Layout:
    """Return ``layout`` for a value that has dimensions of 1 put before, up to ``rank``."""
    more = rank - len(layout)
    return (*range(more), *(axis + more for axis in layout))


def without(layout: Layout, axes: Sequence[int]) -> Layout:
    """Return ``layout`` of a value that lost ``axes``."""
    left = [axis for axis in layout if axis not in axes]
    return tuple(sorted(left).index(axis) for axis in left)


def runs(shape: Sequence[int], layout: Layout) -> tuple[tuple[int, int], ...]:
    """Return the order of numbers in memory as (count, distance in the model) from the outermost, as few as possible.

    Two values with the same numbers in the model's order have the same bytes if their runs are equal.
    """
    whole = (*[1] * (len(layout) - len(shape)), *shape)
    found: list[tuple[int, int]] = []
    for axis in layout:
        count, distance = whole[axis], int(np.prod(whole[axis + 1 :], dtype=np.int64))
        if count == 1:
            continue
        if found and found[-1][1] == count * distance:
            count *= found.pop()[0]
        found.append((count, distance))
    return tuple(found)


def reshaped(shape: Sequence[int], layout: Layout, target: Sequence[int], *, last: bool) -> Layout | None:
    """Return a layout in which ``target``, the reshaped value, has the bytes that ``shape`` has in ``layout``.

    None if there is none: dimensions are merged that lie apart. Of several, it is the one with channels last if ``last``, then
    the model's own.
    """
    rank, order = len(target), runs(shape, layout)
    if 0 in shape:
        return plain(rank)
    for made in ([channels_last(rank)] if last and rank > 2 else []) + [plain(rank)]:
        if runs(target, made) == order:
            return made
    distances = [int(np.prod(target[axis + 1 :], dtype=np.int64)) for axis in range(rank)]
    chosen: list[int] = []
    left = list(range(rank))  # in the end, what has one index: it may lie anywhere
    for count, distance in order:
        inside = [
            axis
            for axis in left
            if target[axis] > 1
            and distance <= distances[axis]
            and distances[axis] * target[axis] <= count * distance
        ]
        chosen += inside
        left = [axis for axis in left if axis not in inside]
    found = (*left, *chosen)
    return found if runs(target, found) == order else None


def named(name: str, rank: int, layout: Layout) -> str:
    """Return what to call the tensor of the value ``name`` of ``rank`` dimensions in ``layout``."""
    if layout == plain(rank):
        return name
    return f"{name}{MARK}{''.join(map(str, layout))}{PADDED if len(layout) > rank else ''}"


def restored(name: str, values: Array) -> tuple[str, Array]:
    """Return the name of the value whose tensor is called ``name``, and its numbers in the model's own layout."""
    value, _, digits = name.rpartition(MARK)
    if not value or sorted(digits) != [str(axis) for axis in range(values.ndim)]:
        return name, values
    return value, values.transpose(np.argsort([int(digit) for digit in digits]))
