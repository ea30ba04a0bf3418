"""Target profiles: one TOML a target, read strictly, so that a misspelt key is an error and not a silent default."""

import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path

from m4c.errors import ProfileError
from m4c.precisions import PRECISIONS

FORMATS = ("onnx", "tflite")
FALLBACKS = ("cpu", "error")


@dataclass(frozen=True, slots=True)
class Target:
    """Where artifacts run, and what they must be to run there."""

    name: str
    summary: str
    format: str
    """File format of its artifacts."""
    precision: str
    """Precision that a build has unless the user asks for another."""
    static_shapes: bool
    """Whether every dimension must be a number."""
    fallback: str
    """What a graph that cannot be built for the target gets: a build for ``cpu``, or an ``error``."""
    source: str
    """Where these facts are written."""

    def __post_init__(self) -> None:
        """Refuse values that are not known."""
        for name, value, known in (
            ("format", self.format, FORMATS),
            ("precision", self.precision, PRECISIONS),
            ("fallback", self.fallback, FALLBACKS),
        ):
            if value not in known:
                raise ProfileError(
                    f"{name} is {value!r}", where=self.name, fix=f"known are: {', '.join(known)}"
                )


def names() -> tuple[str, ...]:
    """Return the names of the targets that come with m4c."""
    return tuple(
        sorted(
            f.name.removesuffix(".toml") for f in files("m4c.targets").iterdir() if f.name.endswith(".toml")
        )
    )


def load_target(name: str) -> Target:
    """Return a target by its name, or by the path of a TOML file.

    Raises:
        ProfileError: if there is none, or the file has an unknown key, misses one, or holds a wrong type.
    """
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ProfileError(
                f"there is no target profile at {path}", fix=f"give a file, or a name: {', '.join(names())}"
            )
        text = _read(path)
    elif name in names():
        text = (files("m4c.targets") / f"{name}.toml").read_text("utf-8")
    else:
        raise ProfileError(
            f"there is no target {name!r}", fix=f"known are: {', '.join(names())}, or a path to a .toml"
        )
    return _parse(text, name)


def _read(path: Path) -> str:
    """Return the text of a profile."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ProfileError(
            f"not a text file: {error.reason}", where=str(path), fix="write it in UTF-8"
        ) from error


def _parse(text: str, where: str) -> Target:
    """Read a profile strictly."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"not TOML: {error}", where=where, fix="write text in quotes") from error
    known = {field.name: field.type for field in fields(Target)}
    for key, value in table.items():
        if key not in known:
            raise ProfileError(f"unknown key {key!r}", where=where, fix=f"known are: {', '.join(known)}")
        if not isinstance(value, bool if known[key] in (bool, "bool") else str):
            wanted = "true or false" if known[key] in (bool, "bool") else "a text in quotes"
            raise ProfileError(
                f"{key} is {value!r}, of the wrong type", where=where, fix=f"{key} must be {wanted}"
            )
    missing = [key for key in known if key not in table]
    if missing:
        raise ProfileError(f"misses {', '.join(missing)}", where=where, fix="add it")
    return Target(**table)
