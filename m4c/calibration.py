"""Where the samples of a calibration come from: a user's files, what the graphs before it make of those (calibration follows
the route), or random numbers if that is asked for by name."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from m4c.errors import UsageError
from m4c.host.prepare import prepare
from m4c.runners import Runner
from m4c.samples import FileSamples, names_in, open_samples
from m4c.source import Source
from m4c.static_cache import StaticSteps

RANDOM = "random"
SHOWN = 3
"""Names of inputs that a message has room for."""

RANDOM_SAMPLES = 32
"""With 4 samples the U-Net of m4-nano follows its source with 16.0 dB, with 16 with 18.4 dB, with 64 with 18.8 dB, where ranges
are percentiles. Where they are extremes, 64 are no better than 32: encoders change by −1.3 to 0.2 dB, the VAE loses 0.5."""

FEW_RANDOM = 2
"""Random samples where only the largest values count, which hardly differ from one to another."""

RANDOM_HELD = 4
"""Random samples that are held out."""

UNSEEN = "samples that were not calibrated on"
ONLY = "the only calibration sample"
"""What an artifact was verified on."""

FULLY_FOLLOWED = 8
"""Samples of a user that are followed through every call; of more, every second or third call is taken, each time another."""

MOST_CALLS = 64
"""Calls of one graph that one sample of a user is followed through: a decoder that never ends would take all its positions."""

RAW = {
    ".wav": ("log-mel", "fbank"),
    ".png": ("image",),
    ".jpg": ("image",),
    ".jpeg": ("image",),
    ".csv": ("imu",),
}
"""Files that are prepared as the input they are for would be at run time, by the kinds of that input."""

Array = np.ndarray
Sample = Mapping[str, Array]
Open = Callable[[Source], Runner]
"""Returns what computes a source in float."""


@dataclass(frozen=True)
class Samples:
    """Samples for one graph, and how the manifest describes them.

    ``items`` are calibrated on; ``held`` are held out for verification, unless there is only one in all.
    """

    described: str
    items: Iterable[Sample]
    held: "Sequence[Sample] | Given | _Followed" = ()

    @property
    def verified(self) -> str:
        """What :attr:`to_verify` are, in words."""
        from_where = "the last call along the route from " if isinstance(self.items, _Followed) else ""
        return from_where + (UNSEEN if len(self.held) else ONLY)

    @property
    def to_verify(self) -> Iterable[Sample]:
        """The samples that are held out, else the only one; along a route, its last call alone, where caches are fullest."""
        chosen = self.held if len(self.held) else self.items
        return [chosen.last_of_first()] if isinstance(chosen, _Followed) else chosen


@dataclass(frozen=True)
class _Prepared:
    """Raw files, prepared one at a time each time they are iterated over."""

    source: Source
    files: tuple[Path, ...]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.files)

    def __iter__(self) -> Iterator[Sample]:
        port = self.source.inputs[0]
        for file in self.files:
            yield {port.name: prepare(port.host, file)}


Given = FileSamples | _Prepared
"""Samples in files of a user."""


@dataclass(frozen=True)
class _Followed:
    """What ``source`` takes while its route runs from ``firsts`` in float; no more than one call is in memory."""

    source: Source
    firsts: Given
    open_float: Open

    def __len__(self) -> int:
        """Return how many samples are followed."""
        return len(self.firsts)

    def __iter__(self) -> Iterator[Sample]:
        every = -(-len(self.firsts) // FULLY_FOLLOWED)
        for number, first in enumerate(self.firsts):
            for index, call in enumerate(self._calls(first)):
                if (index + number) % every == 0:
                    yield call

    def last_of_first(self) -> Sample:
        """Return the last call that the first sample leads to."""
        *_, last = self._calls(next(iter(self.firsts)))
        return last

    def _calls(self, first: Sample) -> Iterator[Sample]:
        """Yield the inputs of each call of ``source``, as an artifact of its sizes gets them."""
        route, taken = self.source.route, _Taken(self.open_float(self.source))
        assert route is not None
        runner = StaticSteps([taken], [self.source]) if "sequence" in self.source.sizes else taken

        def run(name: str, inputs: Sample) -> dict[str, Array]:
            one = runner if name == self.source.name else self.open_float(self.source.beside(name))
            return one.run(inputs)

        def calls() -> Iterator[Sample]:
            for _ in route.follow(run, first, self.source.facts, self.source):
                while taken.calls:
                    yield taken.calls.pop(0)

        return islice(calls(), MOST_CALLS)


class _Taken:
    """Keeps what a runner is given until somebody takes it."""

    def __init__(self, runner: Runner) -> None:
        """Start without calls."""
        self.runner, self.calls = runner, list[Sample]()

    def run(self, inputs: Sample) -> dict[str, Array]:
        """Return what the runner computes."""
        self.calls.append(inputs)
        return self.runner.run(inputs)


def samples_for(
    source: Source, calibration: str | None, seed: int, open_float: Open, count: int = RANDOM_SAMPLES
) -> Samples:
    """Return the calibration samples of ``source``; of two or more, the last by name is held out.

    ``calibration`` is ``random``, which gives ``count`` to calibrate on, or a path: a file or folder that
    :func:`m4c.samples.open_samples` reads, or a folder of raw files (WAV, PNG, JPEG, CSV) for a graph with one input. A folder
    may have one such folder for each graph, by its name.
    A graph for which there are none, and which gets its inputs from others of its sub-model, has what these make of the
    samples of the first of them, run by ``open_float``.

    Raises:
        UsageError: if nothing was given, or nothing there fits.
    """
    if calibration is None:
        raise UsageError(
            f"an integer build needs calibration samples for {source.name}",
            fix="give --calibration a folder of typical inputs, or --calibration random to try without",
        )
    if calibration == RANDOM:
        items = [source.sample(seed + 1 + i) for i in range(count)]
        return Samples(
            f"random numbers ({count} samples): accuracy on real inputs is unknown",
            items,
            [
                source.sample(seed),
                *(source.sample(seed + 1 + count + i) for i in range(RANDOM_HELD - 1)),
            ],
        )
    path = Path(calibration)
    if not path.exists():
        raise UsageError(
            f"there are no calibration samples at {path}",
            fix="give --calibration a folder or file that exists, or the word random",
        )
    head = _followed_from(source, path)
    used, held = _divided(_given(head or source, path))
    if head is None:
        return Samples(_described(used), used, held)
    return Samples(
        f"{_described(used)}, as {head.name} takes them: the route was followed",
        _Followed(source, used, open_float),
        _Followed(source, held, open_float),
    )


def _divided(given: Given) -> tuple[Given, Given]:
    """Return the samples to calibrate on, and the one that is held out if there are several."""
    count = len(given.files) - 1 if len(given.files) > 1 else 1
    return replace(given, files=given.files[:count]), replace(given, files=given.files[count:])


def without_samples(source: Source, calibration: str | None) -> str:
    """Return why nobody can give samples of ``source`` as raw files, if there are no others for it; else nothing."""
    if calibration is None or calibration == RANDOM or _suffixes(source):
        return ""
    path = Path(calibration)
    given = list(path.iterdir()) if path.is_dir() else []
    if not given or (path / source.name).is_dir() or any(file.suffix == ".npz" for file in given):
        return ""
    if _followed_from(source, path) is not None:
        return ""
    names = [port.name for port in source.inputs]
    inputs = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return f"there are no calibration samples of its inputs ({inputs}), which no file of a user holds"


def _followed_from(source: Source, path: Path) -> Source | None:
    """Return the graph whose samples at ``path`` lead to those of ``source``, if there are such and none of its own."""
    route = source.route
    if route is None or source.name not in route.graphs[1:] or (path / source.name).is_dir():
        return None
    head = source.beside(route.graphs[0])
    if (path / head.name).is_dir() or _raw_files(head, path):
        return head
    return head if names_in(path) == {port.name for port in head.inputs} else None


def _given(source: Source, path: Path) -> Given:
    """Return the samples for ``source`` itself at ``path``."""
    if (path / source.name).is_dir():
        path = path / source.name
    raw = _raw_files(source, path)
    if raw:
        return _Prepared(source, raw)
    if path.is_dir() and not any(path.glob("*.npz")):
        suffixes = (*_suffixes(source), ".npz")
        raise UsageError(
            f"{path} holds no samples for {source.name}", fix=f"put files into it: {', '.join(suffixes)}"
        )
    return open_samples(path)


def _described(given: Given) -> str:
    """Return what the manifest says of a user's samples."""
    noun = "file" if isinstance(given, _Prepared) else "sample"
    return f"{len(given)} {noun}{'s' * (len(given) != 1)} of the user"


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
