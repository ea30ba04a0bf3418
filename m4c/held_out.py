"""How closely an integer artifact follows its source on several samples at once.

One sample can mislead: where an output is a single number, a value near 0 has a ratio of a few decibels by chance. So signal
and noise of each output are summed over all samples, and a test vector is made of the typical one.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from m4c.allocator import trim
from m4c.errors import NumbersError
from m4c.numerics import Difference, difference, worst
from m4c.runners import open_runner
from m4c.source import Source

Array = np.ndarray
Sample = Mapping[str, Array]


def typical(source: Source, artifact: Path, samples: Iterable[Sample]) -> tuple[Sample, Difference]:
    """Return the sample of median SQNR, the better of two, and the figures over all ``samples`` of the worst output.

    Raises:
        NumbersError: if the artifact misses an output or gives another shape.
    """
    kept = list(samples)
    wanted = [source.run(sample) for sample in kept]  # before the artifact's packed weights are in memory
    runner = open_runner(artifact, mapped=True)
    pairs: dict[str, list[tuple[Array, Array]]] = {}
    each = []
    for sample, expected in zip(kept, wanted, strict=True):
        actual = runner.run(sample)
        for name, value in expected.items():
            if name not in actual or actual[name].shape != value.shape:
                raise NumbersError(f"the artifact does not return {name} as its source", where=source.name)
            pairs.setdefault(name, []).append((value, actual[name]))
        each.append(worst([difference(value, actual[name]) for name, value in expected.items()]).sqnr_db)
    del runner
    trim()
    pooled = [
        difference(*(np.concatenate([array.ravel() for array in side]) for side in zip(*found, strict=True)))
        for found in pairs.values()
    ]
    return kept[np.argsort(each, stable=True)[len(each) // 2]], worst(pooled)
