"""Observers: how the values that calibration sees become one range.

An observer is a choice (a frozen dataclass); a watch is what it keeps of one tensor, of a fixed size. Values below
:data:`MASKED` are attention masks: they do not count, they only lower the range by :data:`MASK_MARGIN`, where they
saturate; a softmax gives such an entry at most exp(−10) = 4.5e-5 of the weight of the least real one, which is a
hundredth of one of its int8 steps.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from m4c.quant import dequantize, from_range, quantize

Array = np.ndarray

MASKED = -1e4
"""Values below this are masks; real activations that low could not be told apart from others in int8 anyway."""

MASK_MARGIN = 10.0
"""How far below the lowest real value the masked ones saturate."""

BINS = 4096
"""Bins of a histogram, over [−limit, limit); the limit doubles when a value lies outside."""


@dataclass(frozen=True, slots=True)
class MinMax:
    """The range from the smallest to the largest value seen."""

    def __str__(self) -> str:
        """Return the name."""
        return "min-max"


@dataclass(frozen=True, slots=True)
class Percentile:
    """The range that holds ``percent`` of all values, cutting the same share at both ends."""

    percent: float = 99.99

    def __str__(self) -> str:
        """Return the name and the share."""
        return f"percentile-{self.percent:g}"


@dataclass(frozen=True, slots=True)
class LeastError:
    """The range with the smallest squared error over all values seen: clipping against rounding."""

    def __str__(self) -> str:
        """Return the name."""
        return "least-error"


Observer = MinMax | Percentile | LeastError


class Watch(Protocol):
    """What an observer keeps of one tensor."""

    def add(self, values: Array) -> None:
        """Look at the values of one sample; nothing of them is kept."""

    def range(self) -> tuple[float, float]:
        """Return the range of all values so far."""


def watch(observer: Observer) -> Watch:
    """Return an empty watch for ``observer``."""
    return _Extremes() if isinstance(observer, MinMax) else _Histogram(observer)


class _Extremes:
    """The smallest and the largest value, and whether there were masked ones."""

    def __init__(self) -> None:
        self.low, self.high, self.masked = np.inf, -np.inf, False

    def add(self, values: Array) -> None:
        """Widen to ``values``."""
        real = _real(values)
        self.masked |= real.size < values.size
        if real.size:
            self.low, self.high = min(self.low, float(real.min())), max(self.high, float(real.max()))

    def range(self) -> tuple[float, float]:
        """Return the extremes, 0 for both if there was no value."""
        low, high = (self.low, self.high) if self.low <= self.high else (0.0, 0.0)
        return low - MASK_MARGIN * self.masked, high


class _Histogram:
    """Counts of values in equal bins around 0."""

    def __init__(self, observer: Percentile | LeastError) -> None:
        self.observer = observer
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.limit = 0.0
        self.extremes = _Extremes()

    def add(self, values: Array) -> None:
        """Count ``values``, after doubling the bins' width until they fit."""
        self.extremes.add(values)
        real = _real(values).ravel()
        largest = max(abs(self.extremes.low), abs(self.extremes.high)) if real.size else 0.0
        if not largest:
            return
        if not self.limit:
            self.limit = largest
        while largest > self.limit:
            self._double()
        place = ((real / self.limit + 1) * (BINS // 2)).astype(np.int64)
        self.counts += np.bincount(np.minimum(place, BINS - 1), minlength=BINS)

    def _double(self) -> None:
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
        self.limit *= 2

    def range(self) -> tuple[float, float]:
        """Return the range that the observer chooses, never wider than the extremes."""
        low, high = self.extremes.range()
        if not self.limit:
            return low, high
        match self.observer:
            case Percentile(percent):
                cut = self._percentile(percent)
            case LeastError():
                cut = self._least_error(min(low, 0.0), max(high, 0.0))
        return max(low, cut[0] - MASK_MARGIN * self.extremes.masked), min(high, cut[1])

    def _percentile(self, percent: float) -> tuple[float, float]:
        share = np.cumsum(self.counts) / self.counts.sum()
        tail = (100 - percent) / 200
        edges = np.linspace(-self.limit, self.limit, BINS + 1)
        return float(edges[np.searchsorted(share, tail, side="right")]), float(
            edges[np.searchsorted(share, 1 - tail) + 1]
        )

    def _least_error(self, low: float, high: float) -> tuple[float, float]:
        """Shrink one end after the other, twice, to the best of 40 places."""
        centres = (np.arange(BINS) + 0.5) / (BINS // 2) * self.limit - self.limit
        used = self.counts > 0
        values, counts = centres[used].astype(np.float32), self.counts[used]

        def error(ends: tuple[float, float]) -> float:
            kept = from_range(*ends)
            return float(np.sum(counts * np.square(dequantize(quantize(values, kept), kept) - values)))

        for _ in range(2):
            low = min(np.linspace(low, 0.1 * low, 40), key=lambda end: error((end, high)))
            high = min(np.linspace(high, 0.1 * high, 40), key=lambda end: error((low, end)))
        return float(low), float(high)


def _real(values: Array) -> Array:
    """Return the values that are not masks."""
    return values if values.size == 0 or values.min() >= MASKED else values[values >= MASKED]
