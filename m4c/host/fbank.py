"""ImageBind's audio features: three short clips of a sound as Kaldi filterbanks."""

from dataclasses import dataclass

import numpy as np

from m4c.errors import UsageError
from m4c.host import mel

Array = np.ndarray

PREEMPHASIS = 0.97
LOW_HZ = 20.0
FLOOR = float(np.finfo(np.float32).eps)
"""Kaldi's defaults: pre-emphasis, lower edge of the first filter, least energy before the logarithm."""


@dataclass(frozen=True, slots=True)
class FbankSettings:
    """How ImageBind hears; the defaults are those of ``imagebind_huge`` (its ``data.py``)."""

    rate: int = 16000
    bins: int = 128
    frames: int = 204
    clips: int = 3
    clip_seconds: float = 2.0
    mean: float = -4.268
    std: float = 9.138


def imagebind_audio(samples: Array, settings: FbankSettings | None = None) -> Array:
    """Return the clips' features (1, clips, 1, bins, frames), float32, of mono sound at ``settings.rate`` Hz.

    The clips are spread evenly from the start to the end of the sound; a sound that is shorter than a clip
    is used whole. Missing frames are 0 before the normalization, and frames past the last are cut.
    """
    form = settings or FbankSettings()
    length = len(samples) / form.rate
    last = max(length - form.clip_seconds, 0.0)
    starts = [last * index / max(form.clips - 1, 1) for index in range(form.clips)]
    clips = [samples[int(s * form.rate) : int((s + form.clip_seconds) * form.rate)] for s in starts]
    return np.stack([_clip(clip, form) for clip in clips])[None, :, None].astype(np.float32)


def fbank(samples: Array, rate: int, bins: int) -> Array:
    """Return Kaldi's log filterbank (frames, bins), float64: 25 ms Hann windows every 10 ms, no dither.

    Raises:
        UsageError: if the sound is shorter than one window.
    """
    window, step = rate * 25 // 1000, rate // 100
    if samples.ndim != 1 or len(samples) < window:
        raise UsageError(
            f"a sound of shape {list(samples.shape)} has no window of 25 ms ({window} samples at {rate} Hz)",
            fix="give a longer mono sound",
        )
    fft = 1 << (window - 1).bit_length()
    cut = mel.frames(samples.astype(np.float64), window, step)
    cut = cut - cut.mean(axis=1, keepdims=True)
    cut = cut - PREEMPHASIS * np.concatenate([cut[:, :1], cut[:, :-1]], axis=1)
    spectrum = np.fft.rfft(cut * mel.hann(window, periodic=False), fft)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    energy = power @ mel.kaldi(bins, fft, rate, LOW_HZ, rate / 2).T
    return np.asarray(np.log(np.maximum(energy, FLOOR)))


def _clip(samples: Array, form: FbankSettings) -> Array:
    """Return one clip's normalized features (bins, frames)."""
    if not len(samples):
        raise UsageError("the sound is empty", fix="give a sound of at least 25 ms")
    features = fbank(samples - samples.mean(), form.rate, form.bins)[: form.frames]
    padded = np.zeros((form.frames, form.bins))
    padded[: len(features)] = features
    return (padded.T - form.mean) / form.std
