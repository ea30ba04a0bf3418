"""From a log-mel spectrogram back to sound: Griffin-Lim, which needs no vocoder weights.

A spectrogram tells magnitudes only. Griffin-Lim looks for phases that agree with each other: it goes back and
forth between sound and spectrum and keeps the wanted magnitudes each time. The momentum that makes it converge
sooner is that of Perraudin, Balazs and Søndergaard, 2013.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from m4c.errors import UsageError
from m4c.host import facts, mel
from m4c.host.facts import Host

Array = np.ndarray

MOMENTUM = 0.99
TINY = 1e-12


@dataclass(frozen=True)
class MelSettings:
    """The spectrogram that a text-to-speech decoder makes; the defaults are fairseq's for LJSpeech."""

    rate: int = 22050
    fft: int = 1024
    hop: int = 256
    bins: int = 80
    low_hz: float = 20.0
    high_hz: float = 8000.0
    floor: float = 1e-5

    @classmethod
    def of(cls, host: Host) -> Self:
        """Return the settings that a manifest gives an output of kind ``mel``."""
        return cls(
            rate=facts.whole(host, "sample_rate", cls.rate),
            fft=facts.whole(host, "n_fft", cls.fft),
            hop=facts.whole(host, "hop", cls.hop),
            bins=facts.whole(host, "bins", cls.bins),
            low_hz=facts.number(host, "low_hz", cls.low_hz),
            high_hz=facts.number(host, "high_hz", cls.high_hz),
            floor=facts.number(host, "floor", cls.floor),
        )

    def filters(self) -> Array:
        """Return the mel filters (bins, fft/2 + 1)."""
        return mel.slaney(self.bins, self.fft, self.rate, self.low_hz, self.high_hz)


def log_mel_magnitude(samples: Array, settings: MelSettings | None = None) -> Array:
    """Return the natural logarithm of the mel magnitudes (frames, bins), float32, of mono ``samples``."""
    form = settings or MelSettings()
    magnitude = np.abs(_spectrum(samples.astype(np.float64), form))
    mels = magnitude @ form.filters().T
    return np.asarray(np.log(np.maximum(mels, form.floor)), np.float32)


def griffin_lim(
    log_mel: Array, settings: MelSettings | None = None, *, iterations: int = 60, seed: int = 0
) -> Array:
    """Return a sound, float32 of (frames - 1)·hop samples, whose mel spectrogram is near (frames, bins).

    ``log_mel`` holds natural logarithms of magnitudes, as :func:`log_mel_magnitude` makes them. The phases start
    at random from ``seed``: equal inputs give equal sounds. The loudness is kept, so samples may leave [-1, 1].
    """
    form = settings or MelSettings()
    if (
        log_mel.ndim != 2
        or log_mel.shape[1] != form.bins
        or len(log_mel) < 2
        or not np.isfinite(log_mel).all()
    ):
        raise UsageError(
            f"not a spectrogram of finite numbers: shape {list(log_mel.shape)}",
            fix=f"give at least 2 frames of {form.bins} mel bins",
        )
    magnitude = _magnitude(np.exp(log_mel.astype(np.float64)), form)
    start = np.random.default_rng(seed).uniform(0, 2 * np.pi, magnitude.shape)
    phase, before = np.exp(1j * start), np.zeros(magnitude.shape, complex)
    for _ in range(iterations):
        agreed = _spectrum(_sound(magnitude * phase, form), form)
        phase = agreed - MOMENTUM / (1 + MOMENTUM) * before
        phase /= np.abs(phase) + TINY
        before = agreed
    return _sound(magnitude * phase, form).astype(np.float32)


def _magnitude(mels: Array, form: MelSettings, rounds: int = 100) -> Array:
    """Return non-negative magnitudes (frames, fft/2 + 1) whose mel bins are ``mels``.

    The pseudo-inverse gives the start, multiplicative updates (Lee and Seung, 2001) keep it non-negative.
    """
    filters = form.filters()
    wanted = mels @ filters
    start = np.maximum(mels @ np.linalg.pinv(filters).T, 1e-3 * mels.mean() + TINY)
    magnitude: Array = np.asarray(start)
    for _ in range(rounds):
        magnitude *= wanted / (magnitude @ filters.T @ filters + TINY)
    return magnitude


def _spectrum(samples: Array, form: MelSettings) -> Array:
    """Return the short-time spectrum (1 + len/hop, fft/2 + 1), its frames centred on multiples of ``hop``."""
    padded = np.pad(samples, form.fft // 2, mode="reflect")
    return np.fft.rfft(mel.frames(padded, form.fft, form.hop) * mel.hann(form.fft, periodic=True))


def _sound(spectrum: Array, form: MelSettings) -> Array:
    """Return the sound whose spectrum is nearest to ``spectrum``: overlap-add over the window's energy."""
    window = mel.hann(form.fft, periodic=True)
    pieces = np.fft.irfft(spectrum, form.fft) * window
    length = form.fft + (len(pieces) - 1) * form.hop
    total, energy = np.zeros(length), np.zeros(length)
    for index, piece in enumerate(pieces):
        place = slice(index * form.hop, index * form.hop + form.fft)
        total[place] += piece
        energy[place] += np.square(window)
    middle = slice(form.fft // 2, length - form.fft // 2)
    return np.asarray(total[middle] / np.maximum(energy[middle], TINY))
