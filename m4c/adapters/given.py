"""Which adapters a user gave, and for which sub-model each is. Imports no torch."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from m4c.adapters.configuration import CONFIG
from m4c.errors import UsageError

MODES = ("merge", "separate")
"""What becomes of adapters: part of the weights, or files beside the artifacts that are swapped at run time."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
"""Names of adapters: each is a folder of the bundle."""


@dataclass(frozen=True, slots=True)
class Given:
    """An adapter as the command line names it."""

    name: str
    path: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Adapters:
    """All adapters of an export; plain data."""

    given: tuple[Given, ...]
    mode: str
    pickled: bool = False
    """Whether files in torch's format are read too."""
    rank_limit: int | None = None
    """The rank of all slots of TFLite files, for adapters that come later."""

    @property
    def separate(self) -> bool:
        """Whether they stay beside the artifacts."""
        return self.mode == "separate"

    def of(self, submodel: str) -> list[tuple[Given, Path]]:
        """Return those for a sub-model, each with its folder."""
        folders = ((one, _folder(Path(one.path), submodel)) for one in self.given)
        return [(one, folder) for one, folder in folders if folder is not None]


def _folder(path: Path, submodel: str) -> Path | None:
    """Return the folder of an adapter for a sub-model: its own within ``path``, or ``path`` itself."""
    if (path / CONFIG).is_file():
        return path
    return path / submodel if (path / submodel / CONFIG).is_file() else None


def adapters(
    texts: Sequence[str],
    mode: str | None,
    pickled: bool,
    submodels: Iterable[str],
    rank_limit: int | None = None,
) -> Adapters | None:
    """Return the adapters that texts such as ``emoji=PATH:0.5`` name, for the ``submodels`` of an export; None without texts.

    Raises:
        UsageError: if a text, a name or a weight makes no sense, a name is given twice, nothing or no adapter is at a path,
            it is not said which sub-model an adapter is for, or ranks are limited where there are no slots.
    """
    if not texts:
        if mode is not None or pickled or rank_limit is not None:
            raise UsageError("there are no adapters", fix="give one with --adapter NAME=PATH")
        return None
    if mode is None:
        raise UsageError(
            "it is not said what becomes of the adapters", fix="add --adapters merge or separate"
        )
    if rank_limit is not None and mode != "separate":
        raise UsageError("--rank-limit is for --adapters separate", fix="leave it out: merged, any rank fits")
    found = Adapters(tuple(_given(text) for text in texts), mode, pickled, rank_limit)
    names = [one.name for one in found.given]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two adapters are called {name}", fix="give each a name of its own")
    for one in found.given:
        _check(one, mode, sorted(submodels))
    return found


def _given(text: str) -> Given:
    """Return what ``NAME=PATH`` or ``NAME=PATH:WEIGHT`` names."""
    name, _, path = text.partition("=")
    if not NAME.fullmatch(name) or not path:
        raise UsageError(
            f"--adapter {text} is not NAME=PATH",
            fix="write it as emoji=path/to/folder; a name has letters, digits, '.', '_' and '-'",
        )
    before, colon, weight = path.rpartition(":")
    try:
        return Given(name, before, float(weight)) if colon and before else Given(name, path)
    except ValueError:  # a colon of the path
        return Given(name, path)


def _check(one: Given, mode: str, submodels: Sequence[str]) -> None:
    """Refuse an adapter that is not there, or is for no sub-model of the export, or for several."""
    path = Path(one.path)
    if not math.isfinite(one.weight) or one.weight == 0:
        raise UsageError(f"the weight of {one.name} is {one.weight}", fix="give a number other than 0")
    if mode == "separate" and one.weight != 1:
        raise UsageError(
            f"{one.name} has a weight, but stays beside the artifacts",
            fix="leave it out, or use --adapters merge",
        )
    if not path.is_dir():
        raise UsageError(f"there is no adapter {one.name} at {path}", fix="give a folder that PEFT saved")
    if (path / CONFIG).is_file():
        if len(submodels) > 1:
            raise UsageError(
                f"it is not said which sub-model {one.name} is for",
                where=str(path),
                fix=f"export one sub-model, or move it into a folder such as {path / submodels[0]}",
            )
    elif not any((path / name / CONFIG).is_file() for name in submodels):
        raise UsageError(
            f"{path} holds no adapter for {' or '.join(submodels)}: there is no {CONFIG}",
            fix="give a folder that PEFT saved, or one with such a folder for each sub-model",
        )
