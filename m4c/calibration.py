"""Where the samples of a calibration come from: a user's files, or random numbers if that is asked for by name."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m4c.errors import UsageError
from m4c.host.prepare import prepare
from m4c.samples import FileSamples, open_samples
from m4c.source import Source

RANDOM = "random"
SHOWN = 3
"""Names of inputs that a message has room for."""

RANDOM_SAMPLES = 32
"""With 4 samples the U-Net of m4-nano follows its source with 16.0 dB, with 16 with 18.4 dB, with 64 with 18.8 dB."""

UNSEEN = "a sample that was not calibrated on"
ONLY = "the only calibration sample"
"""What an artifact was verified on."""

RAW = {
    ".wav": ("log-mel", "fbank"),
    ".png": ("image",),
    ".jpg": ("image",),
    ".jpeg": ("image",),
    ".csv": ("imu",),
}
"""Files that are prepared as the input they are for would be at run time, by the kinds of that input."""

Sample = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Samples:
    """Samples for one graph, and how the manifest describes them.

    ``items`` are calibrated on; ``held`` has the one that is held out for verification, unless there is only one in all.
    """

    described: str
    items: Iterable[Sample]
    held: Iterable[Sample] = ()

    @property
    def verified(self) -> str:
        """What :meth:`to_verify` returns, in words."""
        return ONLY if next(iter(self.held), None) is None else UNSEEN

    def to_verify(self) -> Sample:
        """Return the sample that is held out, else the only one."""
        held = next(iter(self.held), None)
        return next(iter(self.items)) if held is None else held


@dataclass(frozen=True)
class _Prepared:
    """Raw files, prepared one at a time each time they are iterated over."""

    source: Source
    files: tuple[Path, ...]

    def __iter__(self) -> Iterator[Sample]:
        port = self.source.inputs[0]
        for file in self.files:
            yield {port.name: prepare(port.host, file)}


def samples_for(source: Source, calibration: str | None, seed: int) -> Samples:
    """Return the calibration samples of ``source``; of two or more, the last by name is held out.

    ``calibration`` is ``random``, or a path: a file or folder that :func:`m4c.samples.open_samples` reads, or a folder of raw
    files (WAV, PNG, JPEG, CSV) for a graph with one input. A folder may have one such folder for each graph, by its name.

    Raises:
        UsageError: if nothing was given, or nothing there fits.
    """
    if calibration is None:
        raise UsageError(
            f"an integer build needs calibration samples for {source.name}",
            fix="give --calibration a folder of typical inputs, or --calibration random to try without",
        )
    if calibration == RANDOM:
        items = [source.sample(seed + 1 + i) for i in range(RANDOM_SAMPLES)]
        return Samples(
            f"random numbers ({RANDOM_SAMPLES} samples): accuracy on real inputs is unknown",
            items,
            [source.sample(seed)],
        )
    path = Path(calibration)
    if not path.exists():
        raise UsageError(
            f"there are no calibration samples at {path}",
            fix="give --calibration a folder or file that exists, or the word random",
        )
    if (path / source.name).is_dir():
        path = path / source.name
    raw = _raw_files(source, path)
    if raw:
        used, held = _divided(raw)
        return Samples(
            f"{_count(used, 'file')} of the user", _Prepared(source, used), _Prepared(source, held)
        )
    if path.is_dir() and not any(path.glob("*.npz")):
        suffixes = (*_suffixes(source), ".npz")
        raise UsageError(
            f"{path} holds no samples for {source.name}", fix=f"put files into it: {', '.join(suffixes)}"
        )
    used, held = _divided(open_samples(path).files)
    return Samples(f"{_count(used, 'sample')} of the user", FileSamples(used), FileSamples(held))


def _divided(files: tuple[Path, ...]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the files to calibrate on, and the one that is held out if there are several."""
    return (files[:-1], files[-1:]) if len(files) > 1 else (files, ())


def _count(files: tuple[Path, ...], noun: str) -> str:
    return f"{len(files)} {noun}" + "s" * (len(files) != 1)


def without_samples(source: Source, calibration: str | None) -> str:
    """Return why nobody can give samples of ``source`` as raw files, if there are no others for it; else nothing."""
    if calibration is None or calibration == RANDOM or _suffixes(source):
        return ""
    path = Path(calibration)
    given = list(path.iterdir()) if path.is_dir() else []
    if not given or (path / source.name).is_dir() or any(file.suffix == ".npz" for file in given):
        return ""
    names = [port.name for port in source.inputs]
    inputs = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return f"there are no calibration samples of its inputs ({inputs}), which no file of a user holds"


def _raw_files(source: Source, path: Path) -> tuple[Path, ...]:
    """Return the files of a folder that can be prepared as the only input of ``source``."""
    if not path.is_dir():
        return ()
    suffixes = _suffixes(source)
    return tuple(file for file in sorted(path.iterdir()) if file.suffix.lower() in suffixes)


def _suffixes(source: Source) -> tuple[str, ...]:
    """Return the suffixes of files that can be prepared for ``source``: those of its only input, else none."""
    if len(source.inputs) != 1:
        return ()
    kind = source.inputs[0].host.get("kind")
    return tuple(suffix for suffix, kinds in RAW.items() if kind in kinds)
