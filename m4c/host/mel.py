"""Mel filter banks, in the two definitions that speech models use: Slaney's and Kaldi's."""

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray

LINEAR_HZ, LINEAR_MEL, LOG_STEP = 1000.0, 15.0, np.log(6.4) / 27.0
"""Slaney's scale (Auditory Toolbox, 1998): 3 mel to 200 Hz up to 1 kHz, then 27 mel to a factor of 6.4."""


@cache
def slaney(bins: int, fft: int, rate: int, low: float, high: float) -> Array:
    """Return the filters (bins, fft/2 + 1) of Whisper and librosa: triangles in Hz, each of the same area."""
    edges = _slaney_hz(np.linspace(_slaney_mel(low), _slaney_mel(high), bins + 2))
    filters = _triangles(edges, np.linspace(0, rate / 2, fft // 2 + 1))
    return _frozen(filters * (2.0 / (edges[2:] - edges[:-2]))[:, None])


@cache
def kaldi(bins: int, fft: int, rate: int, low: float, high: float) -> Array:
    """Return the filters (bins, fft/2 + 1) of Kaldi: triangles on the mel axis, all of height 1."""
    first, last = _kaldi_mel(np.array([low, high])).tolist()
    edges = np.linspace(first, last, bins + 2)
    return _frozen(_triangles(edges, _kaldi_mel(np.arange(fft // 2 + 1) * rate / fft)))


def frames(samples: Array, length: int, step: int) -> Array:
    """Return the whole frames of ``length`` samples, ``step`` apart, as a read-only view (frames, length)."""
    return sliding_window_view(samples, length)[::step]


def hann(length: int, *, periodic: bool) -> Array:
    """Return a raised-cosine window; ``periodic`` ones repeat without a doubled zero."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - (not periodic))))


def _triangles(edges: Array, places: Array) -> Array:
    """Return triangles (len(edges) - 2, len(places)) that rise and fall between neighbouring ``edges``."""
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rise, fall = (places - left) / (centre - left), (right - places) / (right - centre)
    return np.asarray(np.maximum(0.0, np.minimum(rise, fall)))


def _kaldi_mel(hertz: Array) -> Array:
    return np.asarray(1127.0 * np.log1p(hertz / 700.0))


def _slaney_mel(hertz: float) -> float:
    if hertz < LINEAR_HZ:
        return hertz * 3.0 / 200.0
    return LINEAR_MEL + float(np.log(hertz / LINEAR_HZ) / LOG_STEP)


def _slaney_hz(mel: Array) -> Array:
    return np.where(mel < LINEAR_MEL, mel * 200.0 / 3.0, LINEAR_HZ * np.exp(LOG_STEP * (mel - LINEAR_MEL)))


def _frozen(filters: Array) -> Array:
    """Protect a cached array from its users."""
    filters.setflags(write=False)
    return filters
