"""Round to nearest, with the scale of each group searched for the smallest squared error.

Groups are first divided by the scale that just holds them, so that all candidates are plain numbers near 1. Many groups are
searched at once, one in each lane of a compiled loop, so sums run in the order of the inputs: every machine makes the same
bytes, whatever its vector width. The loop runs without the interpreter's lock.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from m4c.blockwise import Blocks
from m4c.grid import Grid
from m4c.weights import Array

SHRINKS = {4: (1.0, 8 / 7, 0.9, 0.8), 8: (1.0, 128 / 127)}
"""Scales that are tried, by bits, as shares of the one that just holds the largest value.

A little more than 1 serves groups that reach as far up as down, where the code −2^(bits−1) is best left out.
"""

TINY = np.float32(1e-30)
"""The smallest scale; groups that would need a smaller one are zero."""

LANES = 64
"""Groups that are searched at once, if they are short."""

CACHED = 1 << 14
"""Weights that are searched at once: what the fastest caches hold in float32, with room for the lanes' sums."""

FEWEST_LANES = 16
"""Of groups as long as a channel: a vector register."""

HALF_WAY = np.float32(1.5 * 2**23)
"""Added to and taken from a float32 below 2^22, it rounds to the nearest integer, of two as near to the even one."""


LEAST, MOST = np.float32(2**-24), np.float32(65280)
"""The smallest and the largest number of float16 that has 8 bits."""

FINE, EVEN_STEPS = np.float32(2**-17), np.float32(0.75)
"""Numbers of float16 below the first have fewer than 8 bits: multiples of 2^-24, which float32 rounds to near the second."""

SPLIT = np.float32(2**16 + 1)
"""Leaves 8 of the 24 bits of a float32 (T. Dekker, "A floating-point technique for extending the available precision")."""


def round_to_nearest(rows: Tensor, grid: Grid) -> Blocks:
    """Quantize ``rows`` float32 (rows, inputs), which are left alone; each group keeps the scale with the smallest error.

    Every candidate is refined once, as the best scale for its codes has a closed form. On a symmetric
    grid the scale has the sign that gives the largest value the code −2^(bits−1), which has no positive counterpart, if the
    grid allows. Codes are those nearest for the scale as it is stored.
    """
    outputs, inputs = rows.shape
    size = grid.size(inputs)
    groups = rows.contiguous().numpy().reshape(-1, size)
    codes = np.empty(groups.shape, np.uint8)
    scales, zeros = np.empty(len(groups), np.float32), np.empty(len(groups), np.uint8)
    lanes = min(LANES, max(FEWEST_LANES, CACHED // size))
    shrinks = np.array(SHRINKS[grid.bits], np.float32)
    _search(
        groups, grid.middle, grid.bottom, grid.symmetric, grid.short, shrinks, lanes, codes, scales, zeros
    )
    made = codes.reshape(outputs, inputs), scales.reshape(outputs, -1), zeros.reshape(outputs, -1)
    return Blocks(*map(torch.from_numpy, made))


@njit(inline="always")  # type: ignore[untyped-decorator]
def _nearest(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """Return the integer between ``low`` and ``high`` that is nearest to ``value``."""
    rounded = (value + HALF_WAY) - HALF_WAY
    rounded = rounded if rounded > low else low
    return rounded if rounded < high else high


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _search(
    groups: Array,
    middle: int,
    bottom: int,
    symmetric: bool,
    short: bool,
    shrinks: Array,
    width: int,
    codes: Array,
    scales: Array,
    zeros: Array,
) -> None:
    """Fill codes (groups, size), scales and zero points (groups,) of ``groups``; ``width`` of them at once."""
    count, size = groups.shape
    # made here, as the compiler then knows that none overlaps another
    lanes = np.zeros((size, width), np.float32)
    low, high = np.empty(width, np.float32), np.empty(width, np.float32)
    full, zero = np.empty(width, np.float32), np.empty(width, np.float32)
    share, step = np.empty(width, np.float32), np.empty(width, np.float32)
    product, square = np.empty(width, np.float32), np.empty(width, np.float32)
    noise, best = np.empty(width, np.float32), np.empty(width, np.float32)
    for first in range(0, count, width):
        here = min(width, count - first)
        for lane in range(here):
            for i in range(size):
                lanes[i, lane] = groups[first + lane, i]
        _extremes(lanes, low, high)
        _frame(middle, bottom, symmetric, short, low, high, full, zero)
        for lane in range(width):
            step[lane] = np.float32(1) / full[lane]
        for i in range(size):
            for lane in range(width):
                lanes[i, lane] *= step[lane]
        _choose(lanes, shrinks, low, high, noise, product, square, best, share)
        for lane in range(width):
            if short:
                share[lane] = _short(full[lane] * share[lane]) / full[lane]
            step[lane] = np.float32(1) / share[lane]
        for i in range(size):
            for lane in range(width):
                lanes[i, lane] = _nearest(lanes[i, lane] * step[lane], low[lane], high[lane]) + zero[lane]
        for lane in range(here):
            for i in range(size):
                codes[first + lane, i] = np.uint8(lanes[i, lane])
            scale = full[lane] * share[lane]
            scales[first + lane] = _short(scale) if short else scale
            zeros[first + lane] = np.uint8(zero[lane])


@njit(inline="always")  # type: ignore[untyped-decorator]
def _short(scale: np.float32) -> np.float32:
    """Return the number that bfloat16 and float16 both hold nearest to ``scale``, as :meth:`Grid.stored` does."""
    scale = min(max(scale, LEAST), MOST)
    if scale < FINE:
        return (scale + EVEN_STEPS) - EVEN_STEPS
    split = scale * SPLIT
    return split - (split - scale)


@njit(inline="always")  # type: ignore[untyped-decorator]
def _extremes(lanes: Array, low: Array, high: Array) -> None:
    """Find the smallest and the largest value of each lane."""
    for lane in range(len(low)):
        low[lane] = high[lane] = lanes[0, lane]
    for i in range(1, len(lanes)):
        for lane in range(len(low)):
            value = lanes[i, lane]
            low[lane] = value if value < low[lane] else low[lane]
            high[lane] = value if value > high[lane] else high[lane]


@njit(inline="always")  # type: ignore[untyped-decorator]
def _frame(
    middle: int, bottom: int, symmetric: bool, short: bool, low: Array, high: Array, full: Array, zero: Array
) -> None:
    """Find the scale that just holds each lane and its zero point; make of its extremes those of its centred codes."""
    top = np.float32(2 * middle - 1)
    for lane in range(len(full)):
        if symmetric:
            largest = high[lane] if high[lane] + low[lane] > 0 else low[lane]
            scale = largest / np.float32(-middle)
            scale = abs(scale) if short else scale
            full[lane] = scale if abs(scale) >= TINY else TINY
            zero[lane] = np.float32(middle)
        else:
            smallest = min(low[lane], np.float32(0))
            full[lane] = max(max(high[lane], np.float32(0)) / top - smallest / top, TINY)
            zero[lane] = _nearest(-smallest / full[lane], np.float32(0), top)
        low[lane] = np.float32(bottom) - zero[lane]
        high[lane] = top - zero[lane]


@njit(inline="always")  # type: ignore[untyped-decorator]
def _choose(
    lanes: Array,
    shrinks: Array,
    low: Array,
    high: Array,
    noise: Array,
    product: Array,
    square: Array,
    best: Array,
    share: Array,
) -> None:
    """Find for each lane the scale, refined, that leaves the smallest error.

    With w = s·q + d the best scale for the codes q is s + Σ d·q / Σ q², and Σ d² − (Σ d·q)² / Σ q² is left: sums of small
    numbers, whose rounding does not hide what one candidate has over another.
    """
    width = len(share)
    for lane in range(width):
        best[lane] = np.float32(np.inf)
    for shrink in shrinks:
        step = np.float32(1) / shrink
        for lane in range(width):
            noise[lane] = product[lane] = square[lane] = np.float32(0)
        for i in range(len(lanes)):
            for lane in range(width):
                value = lanes[i, lane]
                code = _nearest(value * step, low[lane], high[lane])
                wrong = value - code * shrink
                noise[lane] += wrong * wrong
                product[lane] += wrong * code
                square[lane] += code * code
        for lane in range(width):
            more = product[lane] / max(square[lane], np.float32(1))
            left = noise[lane] - more * product[lane]
            if left < best[lane]:
                best[lane] = left
                share[lane] = shrink + more
