"""Samples in files: one ``.npz`` file a sample, holding an array for each input of the graph, by name.

Files are opened one after the other while someone iterates, and again the next time, so any number of them can be used.
"""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m4c.errors import UsageError

FORM = "a sample is a file made by numpy.savez(path, input_name=array, …); a folder holds one file a sample"


@dataclass(frozen=True)
class FileSamples:
    """The samples in ``files``, read anew each time they are iterated over."""

    files: tuple[Path, ...]

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.files)

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield each sample; a :class:`UsageError` names the file that cannot be read."""
        for file in self.files:
            yield _read(file)


def open_samples(path: Path) -> FileSamples:
    """Return the samples of a folder of ``.npz`` files, in the order of their names, or of one such file.

    Raises:
        UsageError: if there is no such path, or no such file in it.
    """
    if not path.exists():
        raise UsageError("there are no samples here", where=str(path), fix=FORM)
    files = (path,) if path.is_file() else tuple(sorted(f for f in path.iterdir() if f.suffix == ".npz"))
    if not files:
        raise UsageError("the folder holds no .npz file", where=str(path), fix=FORM)
    return FileSamples(files)


def names_in(path: Path) -> set[str]:
    """Return the names of the arrays in the first sample at ``path``; none if there is no sample to be read."""
    if not path.is_file() and not (path.is_dir() and any(path.glob("*.npz"))):
        return set()
    first = open_samples(path).files[0]
    try:
        with np.load(first, allow_pickle=False) as opened:
            return set(opened.files) if isinstance(opened, np.lib.npyio.NpzFile) else set()
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        return set()  # whoever reads the samples tells what is wrong with them


def _read(file: Path) -> dict[str, np.ndarray]:
    """Read one file; pickled objects in it are refused, since reading them would run code."""
    try:
        opened = np.load(file, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise UsageError("it holds one array without a name", where=str(file), fix=FORM)
        with opened:
            return {name: opened[name] for name in opened.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"it cannot be read as arrays: {error}", where=str(file), fix=FORM) from error
