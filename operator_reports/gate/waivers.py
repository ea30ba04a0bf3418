"""Waivers: what a gate lets pass, who answers for it, why, and until when. A TOML file, read strictly.

A waived node counts as if the target ran it, so that what follows from it (coverage, partitions) needs no waiver of its own.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from m4c.errors import UsageError
from m4c.operator_reports.gate.limits import RULES

REQUIRED = ("rule", "target", "owner", "reason", "expires")
OPTIONAL = ("graph", "operator", "node")
EXAMPLE = 'rule = "unsupported", target = "edgetpu", owner = "…", reason = "…", expires = 2027-01-31'


@dataclass(frozen=True, slots=True)
class Waiver:
    """One exception; ``graph``, ``operator`` and ``node`` (a module path or a name) are patterns such as ``blocks.*.mlp``."""

    rule: str
    target: str
    owner: str
    reason: str
    expires: date
    """The last day on which it holds."""
    graph: str = "*"
    operator: str = "*"
    node: str = "*"
    place: int = 0
    """Which waiver of its file it is, from 1."""

    def expired(self, today: date) -> bool:
        """Return whether its last day is over."""
        return today > self.expires

    def covers(self, rule: str, graph: str, operator: str = "", node: str = "") -> bool:
        """Return whether it is about that finding, expired or not."""
        return (
            rule == self.rule
            and fnmatchcase(graph, self.graph)
            and fnmatchcase(operator, self.operator)
            and fnmatchcase(node, self.node)
        )

    def __str__(self) -> str:
        """Return what it is about and who answers for it."""
        about = [f"{key} {getattr(self, key)}" for key in OPTIONAL if getattr(self, key) != "*"]
        return f"waiver {self.place} ({', '.join((self.rule, *about))}; {self.owner}: {self.reason})"


def read_waivers(path: Path) -> tuple[Waiver, ...]:
    """Return the waivers of a file.

    Raises:
        UsageError: if it is unreadable, has an unknown key or rule, misses one, or holds a wrong type.
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read the waivers: {error.strerror}", where=str(path), fix="give a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the waivers are no TOML: {error}", where=str(path), fix="write text in quotes"
        ) from error
    entries = content.get("waiver", [])
    if set(content) - {"waiver"} or not isinstance(entries, list):
        wrong = ", ".join(sorted(set(content) - {"waiver"})) or "waiver"
        raise UsageError(f"{wrong} is unknown", where=str(path), fix="write tables [[waiver]]")
    return tuple(_read(entry, f"{path}: waiver {place}", place) for place, entry in enumerate(entries, 1))


def _read(entry: Any, where: str, place: int) -> Waiver:
    """Read one waiver strictly."""
    if not isinstance(entry, dict):
        raise UsageError("it is no table", where=where, fix="write tables [[waiver]]")
    for key in entry:
        if key not in (*REQUIRED, *OPTIONAL):
            known = ", ".join((*REQUIRED, *OPTIONAL))
            raise UsageError(f"unknown key {key!r}", where=where, fix=f"known are: {known}")
    for key in REQUIRED:
        if key not in entry:
            raise UsageError(f"it misses {key}", where=where, fix=f"a waiver has at least {EXAMPLE}")
    for key, value in entry.items():
        if key == "expires":
            if not isinstance(value, date) or isinstance(value, datetime):
                raise UsageError(
                    f"expires is {value!r}, no date",
                    where=where,
                    fix="write expires = 2027-01-31, without quotes",
                )
        elif not isinstance(value, str) or not value.strip():
            raise UsageError(f"{key} is {value!r}, no text", where=where, fix=f"write {key} in quotes")
    if entry["rule"] not in RULES:
        raise UsageError(
            f"there is no rule {entry['rule']!r}", where=where, fix=f"choose from: {', '.join(RULES)}"
        )
    return Waiver(**entry, place=place)


def for_target(waivers: Sequence[Waiver], target: str) -> tuple[Waiver, ...]:
    """Return the waivers of a target; those of others are for other runs."""
    return tuple(waiver for waiver in waivers if waiver.target == target)
