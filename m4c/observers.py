"""Observers: how the values that calibration sees become one range.

An observer is a choice (a frozen dataclass with :meth:`choose`); a watch is what is kept of one tensor, of a fixed size:
extremes, and a histogram where the observer reads one. Equal values in any order and in any samples give equal ranges, as
long as the first sample sets the width of the bins. Values below :data:`MASKED` are attention masks: they do not count, they
only lower the range by :data:`MASK_MARGIN`, where they saturate; a softmax gives such an entry at most exp(−10) = 4.5e-5 of
the weight of the least real one, which is a hundredth of one of its int8 steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numba import njit

from m4c.quant import from_range, quantize

Array = np.ndarray
Range = tuple[float, float]

MASKED = -1e4
"""Values below this are masks; real activations that low could not be told apart from others in int8 anyway."""

MASK_MARGIN = 10.0
"""How far below the lowest real value the masked ones saturate."""

BINS = 4096
"""Bins of a histogram, over [−limit, limit); the limit doubles when a value lies outside."""

ENOUGH = 10_000
"""Values of one tensor whose extremes are those of all that will come, as nearly as matters.

Calibrated on 32 samples, m4-nano's speech decoder, whose stop score is a single number, follows its source on 16 others with
16.0 dB without room, 20.1, 21.6 and 21.4 dB with room for 1000, 10000 and 100000 values (means). Encoders change by −0.1 to
1.0 dB at 10000. The same 16 inputs chose this number and measured it.
"""

FEW = 16
"""Fewer values than these say nothing of how they are spread: the range is as much wider as if there had been so many."""

SHARES = np.geomspace(1, 1e-3, 97)
"""The places that an end of a range is tried at, as shares of the extreme: 7 % apart."""

LEAST_BINS = 128
"""Fewest bins on a side of 0 that entropy tries: with fewer, eight bits would hold every bin and no range could lose."""


class Observer(Protocol):
    """How a range is chosen; prints as the manifest keeps it."""

    @property
    def bins(self) -> bool:
        """Whether :meth:`choose` reads the histogram, or the extremes alone."""
        ...

    def choose(self, seen: "Watch") -> Range:
        """Return the range of what was seen: at least one value other than 0."""
        ...


@dataclass(frozen=True, slots=True)
class MinMax:
    """The range from the smallest to the largest value seen."""

    bins: ClassVar[bool] = False

    def choose(self, seen: "Watch") -> Range:
        """Return the extremes."""
        return seen.low, seen.high

    def __str__(self) -> str:
        """Return the name."""
        return "min-max"


@dataclass(frozen=True, slots=True)
class Percentile:
    """The range that holds ``percent`` of all values, cutting the same share at both ends."""

    percent: float = 99.98
    bins: ClassVar[bool] = True

    def choose(self, seen: "Watch") -> Range:
        """Return the edges of the bins at which the share of each tail is reached."""
        share = np.cumsum(seen.counts) / seen.counts.sum()
        tail = (100 - self.percent) / 200
        edges = np.linspace(-seen.limit, seen.limit, BINS + 1)
        low = edges[np.searchsorted(share, tail, side="right")]
        return float(low), float(edges[np.searchsorted(share, 1 - tail) + 1])

    def __str__(self) -> str:
        """Return the name and the share."""
        return f"percentile-{self.percent:g}"


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The extremes, unless they span more than ``factor`` times what holds ``percent`` of all values: then the latter.

    What stands out that far (a few tokens of a residual stream, say) would take the steps of all others; anything less is
    worth its steps: the best of a decoder's scores are its largest values, and a percentile makes them equal.
    """

    percent: float = 99.98
    factor: float = 4.0
    bins: ClassVar[bool] = True

    def choose(self, seen: "Watch") -> Range:
        """Return one range or the other."""
        low, high = Percentile(self.percent).choose(seen)
        # Both are widened to hold 0, as a range is when it becomes a scale.
        most = max(seen.high, 0.0) - min(seen.low, 0.0)
        kept = max(min(high, seen.high), 0.0) - min(max(low, seen.low), 0.0)
        return (low, high) if most > self.factor * kept else (seen.low, seen.high)

    def __str__(self) -> str:
        """Return the name and the options."""
        return f"trimmed-{self.percent:g}-beyond-{self.factor:g}"


@dataclass(frozen=True, slots=True)
class MeanSquaredError:
    """The range with the least squared error in int8: what is cut off against what is rounded.

    For ends a ≤ 0 ≤ b, the error is Σ (x − clip(x, a, b))² + n·step²/12 with step = (b − a)/255 and n values inside; every
    pair of ends at :data:`SHARES` of the extremes is tried.
    """

    bins: ClassVar[bool] = True

    def choose(self, seen: "Watch") -> Range:
        """Return the best pair of ends."""
        lows, highs = min(seen.low, 0.0) * SHARES, max(seen.high, 0.0) * SHARES
        under, below = _tail(-seen.centres[::-1], seen.counts[::-1], -lows)
        over, above = _tail(seen.centres, seen.counts, highs)
        inside = seen.counts.sum() - below[:, None] - above[None, :]
        rounding = inside * np.square((highs[None, :] - lows[:, None]) / 255) / 12
        low, high = np.unravel_index(np.argmin(under[:, None] + over[None, :] + rounding), rounding.shape)
        return float(lows[low]), float(highs[high])

    def __str__(self) -> str:
        """Return the name."""
        return "mse"


@dataclass(frozen=True, slots=True)
class Entropy:
    """The range whose int8 histogram tells least of the true one apart: the least Kullback-Leibler divergence KL(P ‖ Q).

    For a threshold T, P is the histogram with all that lies beyond ±T in the outermost bins, and Q what 256 codes make of the
    values within: the count of a code, spread evenly over those of its bins that were seen (TensorRT's calibration, here
    with the two ends no wider than the extremes).
    """

    bins: ClassVar[bool] = True

    def choose(self, seen: "Watch") -> Range:
        """Return the best of the thresholds, a sixteenth of :data:`LEAST_BINS` × 2 apart."""
        width = seen.limit / (BINS // 2)
        ranges = [
            (max(-bins * width, min(seen.low, 0.0)), min(bins * width, max(seen.high, 0.0)))
            for bins in range(BINS // 2, LEAST_BINS - 1, -LEAST_BINS // 8)
        ]
        return min(ranges, key=lambda ends: _divergence(seen, ends))

    def __str__(self) -> str:
        """Return the name."""
        return "entropy"


NAMED: Mapping[str, Observer] = {
    "minmax": MinMax(),
    "percentile": Percentile(),
    "trimmed": Trimmed(),
    "mse": MeanSquaredError(),
    "entropy": Entropy(),
}
"""Observers by the names that a user gives."""


class Watch:
    """What is kept of one tensor: the smallest and the largest value, whether there were masks, and counts in equal bins."""

    def __init__(self, observer: Observer) -> None:
        """Start without values."""
        self.observer = observer
        self.low, self.high, self.masked = np.inf, -np.inf, False
        self.counts, self.limit, self._zeros = np.zeros(BINS, dtype=np.int64), 0.0, 0
        self.seen = 0

    @property
    def centres(self) -> Array:
        """The middle of each bin, float64 [:data:`BINS`]."""
        return ((np.arange(BINS) + 0.5) / (BINS // 2) - 1) * self.limit

    def add(self, values: Array) -> None:
        """Look at the values of one sample; nothing of them is kept."""
        real = values if values.size == 0 or values.min() >= MASKED else values[values >= MASKED]
        self.masked |= real.size < values.size
        if not real.size:
            return
        self.low, self.high = min(self.low, float(real.min())), max(self.high, float(real.max()))
        self.seen += real.size
        if self.observer.bins:
            self._count(real.ravel())

    def _count(self, values: Array) -> None:
        """Count ``values``, after doubling the bins' width until they fit."""
        largest = max(abs(self.low), abs(self.high))
        if not largest:
            self._zeros += values.size  # until there is another value, no bin has a width
            return
        if not self.limit:
            self.limit, self.counts[BINS // 2] = largest, self._zeros
        while largest > self.limit:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, dtype=np.int64)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
            self.limit *= 2
        _count(values, np.float32(self.limit), self.counts)

    def range(self, enough: int = 0) -> Range:
        """Return the range that the observer chooses, never wider than the extremes; 0 for both if there was no value.

        Where fewer than ``enough`` values were seen, it is as much wider as the extremes of so many normal numbers are,
        √(2·ln n) standard deviations for n: its ends move away from its middle, but not across 0.
        """
        if self.low > self.high:
            self.low = self.high = 0.0
        low, high = self.low, self.high
        if low or high:
            chosen = self.observer.choose(self)
            low, high = max(low, chosen[0]), min(high, chosen[1])
        if self.seen < enough:
            more = (high - low) / 2 * (np.sqrt(np.log(enough) / np.log(max(self.seen, FEW))) - 1)
            low, high = low - more * (low < 0), high + more * (high > 0)
        return float(low) - MASK_MARGIN * self.masked, float(high)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _count(values: Array, limit: np.float32, counts: Array) -> None:
    """Add ``values``, float32 within ±``limit``, to the ``counts`` of the equal bins between."""
    half = np.float32(len(counts) // 2)
    for value in values:
        place = int((value / limit + np.float32(1)) * half)
        counts[min(place, len(counts) - 1)] += 1


def _tail(centres: Array, counts: Array, ends: Array) -> tuple[Array, Array]:
    """Return, for each of the ``ends``, the squared distance of all values beyond it, and how many there are."""
    moments = [np.cumsum((counts * centres**power)[::-1])[::-1] for power in range(3)]
    place = np.searchsorted(centres, ends, side="right")
    none, one, two = (np.append(moment, 0.0)[place] for moment in moments)
    return np.maximum(two - 2 * ends * one + np.square(ends) * none, 0.0), none


def _divergence(seen: Watch, ends: Range) -> float:
    """Return KL(P ‖ Q) in nats of the int8 codes with ``ends``; infinite where Q has nothing and P something."""
    inside = np.flatnonzero((seen.centres >= ends[0]) & (seen.centres <= ends[1]))
    if not inside.size:
        return float("inf")
    first, last = inside[0], inside[-1] + 1
    within = seen.counts[first:last].astype(np.float64)
    clipped = within.copy()
    clipped[0] += seen.counts[:first].sum()
    clipped[-1] += seen.counts[last:].sum()
    codes = quantize(seen.centres[first:last], from_range(*ends)).astype(np.int64) + 128
    sums, used = np.bincount(codes, within, 256), np.bincount(codes, within > 0, 256)
    spread = np.where(within > 0, (sums / np.maximum(used, 1))[codes], 0.0)
    true = clipped > 0
    if not within.sum() or (spread[true] == 0).any():
        return float("inf")
    true_share, kept_share = clipped[true] / clipped.sum(), spread[true] / within.sum()
    return float(np.sum(true_share * np.log(true_share / kept_share)))
