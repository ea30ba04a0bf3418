"""Make the inputs of tests/assets/nano, which m4-nano has not seen: pictures, sounds and motions.

    python -m tests.benchmarks.nano_samples tests/assets/nano

It needs scikit-learn and espeak-ng; who uses the files needs neither.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from m4c.host.wav import write_wav
from m4c.models.training import motions, pictures, sounds, speech

SEED = 7
SIDE = 64
SHAPES = ("red circle", "blue star", "green triangle")
NOISES = ("a siren", "rain", "a low tone")
SPOKEN = ("seven", "three one", "turn off the heater", "a yellow ring")
ACTIVITIES = ("walking", "sitting", "cycling")


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    held_out = pictures.digits(SIDE, held_out=True)
    for label, name in enumerate(pictures.DIGITS):
        first = int(np.flatnonzero(held_out.labels == label)[0])
        _picture(out / f"{name}.png", held_out.pixels[first])
    for name in SHAPES:
        _picture(out / f"{_file(name)}.png", pictures.shape(pictures.LABELS.index(name), SIDE, rng))
    for name in NOISES:
        write_wav(out / f"{_file(name)}.wav", sounds.noise(name, rng), sounds.RATE)
    for text in SPOKEN:
        said = speech.Utterance(text, speech.HELD_OUT_VOICES[0])
        write_wav(out / f"{_file(text)}.wav", sounds.finished(speech.spoken(said), rng), sounds.RATE)
    for name in ACTIVITIES:
        _motion(out / f"{name}.csv", motions.motion(name, 128, rng))
    for name in ("red heart", "blue moon"):  # what adapters learned
        colour, kind = name.split()
        _picture(out / f"{_file(name)}.png", pictures.drawn(kind, colour, SIDE, rng))
    _motion(out / "jumping.csv", motions.motion("jumping", 128, rng))


def _file(name: str) -> str:
    return name.removeprefix("a ").replace(" ", "_")


def _motion(path: Path, recorded: np.ndarray) -> None:
    np.savetxt(path, recorded.T, "%.4f", ",", header="ax,ay,az,gx,gy,gz", comments="")


def _picture(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path, optimize=True)


if __name__ == "__main__":
    main()
