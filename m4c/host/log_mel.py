"""Whisper's features: the log-mel spectrogram of one stretch of speech, 25 ms windows every 10 ms."""

import numpy as np

from m4c.errors import UsageError
from m4c.host import mel

Array = np.ndarray

WINDOW, STEP = 400, 160
"""Samples of a window and between windows, at the 16 kHz that Whisper was trained on."""

FLOOR, RANGE = 1e-10, 8.0
"""Least energy of a bin; decades below the loudest bin that are kept."""


def log_mel(samples: Array, rate: int = 16000, bins: int = 80, frames: int = 3000) -> Array:
    """Return the features (1, bins, frames), float32, of mono ``samples`` at ``rate`` Hz.

    Shorter sound is padded with silence; of longer sound the first ``frames`` steps (10 ms each at 16 kHz) are
    used, as Whisper's own preparation does. The numbers are those of OpenAI's ``log_mel_spectrogram``.
    """
    if samples.ndim != 1 or not samples.size:
        raise UsageError(f"not a mono sound: shape {list(samples.shape)}", fix="give one axis of samples")
    length = frames * STEP
    sound = np.zeros(length)
    sound[: len(samples)] = samples[:length]
    sound = np.pad(sound, WINDOW // 2, mode="reflect")
    spectrum = np.fft.rfft(mel.frames(sound, WINDOW, STEP)[:frames] * mel.hann(WINDOW, periodic=True))
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    energy = mel.slaney(bins, WINDOW, rate, 0.0, rate / 2) @ power.T
    decades = np.log10(np.maximum(energy, FLOOR))
    decades = np.maximum(decades, decades.max() - RANGE)
    return np.asarray((decades + 4.0) / 4.0, np.float32)[None]
