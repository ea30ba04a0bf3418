"""Sounds to learn from: tones, noises and clicks that are computed here, and digits that espeak-ng speaks."""

import numpy as np

from m4c.models.training.pictures import DIGITS
from m4c.models.training.speech import HELD_OUT_VOICES, VOICES, spoken_all, utterance

Array = np.ndarray

RATE = 16000
NOISES = (
    "a low tone",
    "a high tone",
    "a rising tone",
    "a falling tone",
    "a siren",
    "beeps",
    "clicks",
    "noise",
    "rain",
    "a chord",
)
LABELS = (*DIGITS, *NOISES)
"""All that a sound can be: a spoken digit, or a noise."""


def noise(label: str, rng: np.random.Generator) -> Array:
    """Return a sound (samples,), float32 at 16 kHz of 1.2 to 3 seconds, of one of :data:`NOISES`."""
    count = int(RATE * rng.uniform(1.2, 3.0))
    time = np.arange(count) / RATE
    match label:
        case "a low tone":
            wave = _tone(np.full(count, rng.uniform(90, 250)), rng)
        case "a high tone":
            wave = _tone(np.full(count, rng.uniform(1200, 3500)), rng)
        case "a rising tone":
            low = rng.uniform(150, 500)
            wave = _tone(low * rng.uniform(4, 8) ** ((time / rng.uniform(0.7, 1.0)) % 1), rng)
        case "a falling tone":
            high = rng.uniform(1500, 3500)
            wave = _tone(high * rng.uniform(0.12, 0.25) ** ((time / rng.uniform(0.7, 1.0)) % 1), rng)
        case "a siren":
            wave = _tone(
                rng.uniform(600, 1000) * 2 ** (0.5 * np.sin(2 * np.pi * rng.uniform(1.5, 4) * time)), rng
            )
        case "beeps":
            on = (time * rng.uniform(4, 7) + rng.uniform()) % 1 < 0.5
            wave = _tone(np.full(count, rng.uniform(500, 1800)), rng) * on
        case "clicks":
            wave = np.zeros(count)
            wave[:: int(RATE / rng.uniform(5, 14))] = 1
            wave = np.convolve(wave, np.exp(-np.arange(160) / 25) * rng.normal(size=160), "same")
        case "noise":
            wave = rng.normal(size=count)
        case "rain":
            wave = rng.normal(size=count) * (rng.uniform(size=count) < 0.004)
            wave = np.convolve(wave, rng.normal(size=60) * np.exp(-np.arange(60) / 12), "same")
        case "a chord":
            root = rng.uniform(200, 450)
            wave = np.mean([_tone(np.full(count, root * f), rng) for f in (1, 1.25, 1.5)], axis=0)
        case _:
            raise ValueError(label)
    return finished(wave, rng)


def finished(wave: Array, rng: np.random.Generator) -> Array:
    """Return a wave at some loudness, with some noise of a room."""
    loud = wave / (np.abs(wave).max() + 1e-9) * 10 ** rng.uniform(-1, -0.1)
    return np.asarray(loud + rng.normal(size=len(wave)) * 10 ** rng.uniform(-4, -2.7), np.float32)


def _tone(hertz: Array, rng: np.random.Generator) -> Array:
    """Return a tone of the frequencies ``hertz``, with a few overtones."""
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    strength = rng.uniform(0, 0.3, 3)
    tones = [
        np.sin(phase),
        *(s * np.sin(k * phase) * (k * hertz < RATE / 2) for k, s in zip((2, 3, 4), strength, strict=True)),
    ]
    return np.asarray(sum(tones))


def noises(count: int, rng: np.random.Generator) -> tuple[list[Array], Array]:
    """Return ``count`` noises and the place of each label in :data:`LABELS`."""
    labels = rng.integers(len(DIGITS), len(LABELS), count)
    return [noise(LABELS[label], rng) for label in labels], labels.astype(np.int64)


def spoken_digits(each: int, rng: np.random.Generator, held_out: bool) -> tuple[list[Array], Array]:
    """Return each digit spoken ``each`` times, dry, and the place of each label in :data:`LABELS`."""
    voices = HELD_OUT_VOICES if held_out else VOICES
    labels = np.repeat(np.arange(len(DIGITS)), each)
    return spoken_all([utterance(DIGITS[label], rng, voices) for label in labels]), labels.astype(np.int64)
