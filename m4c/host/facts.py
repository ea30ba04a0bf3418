"""Reading what a manifest says of an input: each fact with its usual value, and an error that names a wrong one."""

from collections.abc import Mapping
from pathlib import Path

from m4c.errors import BundleError

Host = Mapping[str, object]


def whole(host: Host, key: str, usual: int, *, least: int = 1) -> int:
    """Return a whole number of at least ``least``."""
    value = host.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise wrong(host, key, f"a whole number from {least} up")
    return value


def number(host: Host, key: str, usual: float) -> float:
    """Return a number."""
    value = host.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(host, key, "a number")
    return float(value)


def numbers(host: Host, key: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    """Return a list of numbers."""
    value = host.get(key, usual)
    if not isinstance(value, list | tuple) or not all(isinstance(v, int | float) for v in value):
        raise wrong(host, key, "a list of numbers")
    return tuple(value)


def asset(host: Host, key: str, folder: Path) -> Path:
    """Return the path of a file of the bundle in ``folder``; a name that leads out of it is refused."""
    name = host.get(key)
    if not isinstance(name, str) or not name:
        raise wrong(host, key, "the name of a file of the bundle")
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise wrong(host, key, "a file inside the bundle")
    return folder / path


def wrong(host: Host, key: str, wanted: str) -> BundleError:
    """Return the error of a fact that is not what it must be."""
    return BundleError(
        f"{key!r} of an input of kind {host.get('kind')} is {host.get(key)!r}, it must be {wanted}",
        where=f"host of an input: {dict(host)}",
        fix="build the bundle again",
    )
