"""A table of a TOML file read strictly: a missing key, an unknown one or a wrong type names its place and the way out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from m4c.errors import ProfileError


@dataclass(frozen=True, slots=True)
class Table:
    """A table and where it is written, such as ``edgetpu.toml: tflite.rule 3``."""

    content: dict[str, Any]
    where: str

    def allow(self, *known: str) -> None:
        """Raise if there is another key."""
        for key in self.content:
            if key not in known:
                raise self.error(f"unknown key {key!r}", f"known are: {', '.join(known)}")

    def error(self, what: str, fix: str) -> ProfileError:
        """Return the error that says what is wrong here."""
        return ProfileError(what, where=self.where, fix=fix)

    def text(self, key: str, known: Sequence[str] = ()) -> str:
        """Return a text, one of ``known`` if such are given."""
        if key not in self.content:
            raise self.error(f"misses {key}", "add it")
        value = self.content[key]
        if not isinstance(value, str):
            raise self.error(f"{key} is {value!r}, of the wrong type", f"{key} must be a text in quotes")
        if known and value not in known:
            raise self.error(f"{key} is {value!r}", f"known are: {', '.join(known)}")
        return value

    def optional(self, key: str) -> str:
        """Return a text, empty if it is not there."""
        return self.text(key) if key in self.content else ""

    def number(self, key: str) -> int | None:
        """Return a whole number, None if it is not there."""
        value = self.content.get(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error(f"{key} is {value!r}, of the wrong type", f"{key} must be a whole number")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, empty if it is not there."""
        value = self.content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{key} is of the wrong type", f"{key} must be a list of texts in quotes")
        return tuple(value)

    def table(self, key: str) -> "Table":
        """Return a table in this one, empty if it is not there."""
        value = self.content.get(key, {})
        if not isinstance(value, dict):
            raise self.error(f"{key} is {value!r}, of the wrong type", f"write a table [{key}]")
        return Table(value, f"{self.where}: {key}")

    def tables(self, key: str) -> tuple["Table", ...]:
        """Return a list of tables, empty if it is not there."""
        value = self.content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(f"{key} is of the wrong type", f"write tables [[{key}]]")
        return tuple(Table(item, f"{self.where}: {key} {i}") for i, item in enumerate(value, 1))
