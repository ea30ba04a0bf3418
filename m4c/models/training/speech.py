"""Speech by espeak-ng, which this module calls: a word or a sentence in a voice, at a speed and a pitch."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m4c.errors import UsageError
from m4c.host.resample import resample
from m4c.host.wav import read_wav

Array = np.ndarray

VOICES = (
    "en-us",
    "en-gb",
    "en-gb-x-rp",
    "en-gb-scotland",
    "en-us+f2",
    "en-gb+f3",
    "en-us+m3",
    "en-gb+m4",
    "en-us+f5",
    "en-gb+m7",
)
HELD_OUT_VOICES = ("en-us+m1", "en-gb+f1")
"""Voices that nothing is trained on."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is said and how: words a minute, and pitch from 0 to 99."""

    text: str
    voice: str
    speed: int = 150
    pitch: int = 50


def utterance(text: str, rng: np.random.Generator, voices: Sequence[str] = VOICES) -> Utterance:
    """Return ``text`` said in one of ``voices``, as fast and as high as chance wants it."""
    return Utterance(
        text, voices[int(rng.integers(len(voices)))], int(rng.integers(120, 190)), int(rng.integers(30, 71))
    )


def spoken(said: Utterance, rate: int = 16000) -> Array:
    """Return the sound, mono float32 at ``rate`` Hz, without the silence around it.

    Raises:
        UsageError: if espeak-ng is not installed, or does not know the voice.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise UsageError(
            "espeak-ng is not installed", fix="install it: it speaks the words that are trained on"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        done = subprocess.run(
            [
                program,
                "-v",
                said.voice,
                "-s",
                str(said.speed),
                "-p",
                str(said.pitch),
                "-w",
                str(path),
                said.text,
            ],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise UsageError(
                f"espeak-ng does not say it: {done.stderr.decode()}",
                where=str(said),
                fix="use a voice it has",
            )
        samples, given = read_wav(path)
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    cut = samples[max(0, loud[0] - given // 50) : loud[-1] + given // 50]
    return resample(cut, given, rate)


def spoken_all(said: Sequence[Utterance], rate: int = 16000) -> list[Array]:
    """Return the sound of each utterance."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda one: spoken(one, rate), said))
