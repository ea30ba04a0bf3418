"""Changing the sample rate of a sound: a windowed-sinc filter, evaluated only at the samples that are wanted.

The rates' ratio is up/down in lowest terms; output ``m`` lies at input position ``m·down/up``, so only ``up``
different sets of filter taps occur, each serving every ``up``-th output.
"""

from math import gcd

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from m4c.errors import UsageError

Array = np.ndarray

ZERO_CROSSINGS = 64
"""Half the length of the filter, in zero crossings of the sinc."""

ROLLOFF = 0.95
"""The cut-off as a share of the lower Nyquist frequency; the filter falls from 0.9 to 1.0 of it."""

KAISER_BETA = 9.0
"""The window's shape: about 90 dB of stop band."""


def resample(samples: Array, from_rate: int, to_rate: int) -> Array:
    """Return mono ``samples`` at ``to_rate`` Hz, float32, ceil(n·to/from) of them.

    What lies below 0.9 of the lower Nyquist frequency passes unchanged, what lies above it is damped by 80 dB or
    more. Before and after the sound is silence.
    """
    if from_rate <= 0 or to_rate <= 0 or samples.ndim != 1:
        raise UsageError(
            f"cannot resample a sound of shape {list(samples.shape)} from {from_rate} Hz to {to_rate} Hz",
            fix="give mono samples and positive rates",
        )
    if from_rate == to_rate or not samples.size:
        return samples.astype(np.float32)
    common = gcd(from_rate, to_rate)
    up, down = to_rate // common, from_rate // common
    half = int(np.ceil(ZERO_CROSSINGS * max(1.0, down / up) / ROLLOFF))
    count = -(-len(samples) * up // down)
    padded = np.pad(samples.astype(np.float64), half)
    windows = sliding_window_view(padded, 2 * half + 1)
    result = np.empty(count, np.float32)
    for first in range(min(up, count)):
        start, rest = divmod(first * down, up)
        wanted = len(range(first, count, up))
        frames = windows[start : start + (wanted - 1) * down + 1 : down]
        result[first::up] = np.einsum("ij,j->i", frames, _taps(rest / up, half, min(1.0, up / down)))
    return result


def _taps(offset: float, half: int, bandwidth: float) -> Array:
    """Return the filter around an output that lies ``offset`` of a sample after tap ``half``."""
    distance = np.arange(2 * half + 1) - half - offset
    window = np.i0(KAISER_BETA * np.sqrt(np.maximum(0, 1 - (distance / half) ** 2))) / np.i0(KAISER_BETA)
    cutoff = bandwidth * ROLLOFF
    return np.asarray(cutoff * np.sinc(cutoff * distance) * window)
