"""What profiles may ask of an operator call: named conditions, one small function each.

A function takes the node, and the arguments that the profile writes behind its name (``rank_at_most(4)``); it returns None,
or one plain sentence that says with numbers why the condition does not hold. Its docstring is the condition itself, as
docs/constraints.md lists it.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from m4c.errors import ProfileError
from m4c.targets.view import Node

Check = Callable[..., str | None]
CALL = re.compile(r"([a-z][a-z0-9_]*)(?:\((.*)\))?")
"""A constraint as a profile writes it: a name, or a name with arguments in parentheses."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A function by its name, and what to do where it does not hold."""

    name: str
    check: Check
    fix: str

    @property
    def sentence(self) -> str:
        """The condition in words."""
        return " ".join((inspect.getdoc(self.check) or "").split())

    @property
    def form(self) -> str:
        """How a profile writes it: ``rank_at_most(rank)``."""
        parts = [f"{p.name}, …" if p.kind == p.VAR_POSITIONAL else p.name for p in _arguments(self.check)]
        return f"{self.name}({', '.join(parts)})" if parts else self.name


@dataclass(frozen=True, slots=True)
class Constraint:
    """A condition with its arguments."""

    condition: Condition
    arguments: tuple[int | str, ...] = ()

    def __call__(self, node: Node) -> str | None:
        """Return why it does not hold for ``node``, or None."""
        return self.condition.check(node, *self.arguments)

    def __str__(self) -> str:
        """Return the text that a profile has."""
        arguments = ", ".join(map(str, self.arguments))
        return f"{self.condition.name}({arguments})" if arguments else self.condition.name


KNOWN: dict[str, Condition] = {}
"""Every condition by its name; :mod:`m4c.targets.conditions` fills it."""


def condition(fix: str) -> Callable[[Check], Check]:
    """Make a function known to profiles; ``fix`` is what a user can do where it does not hold."""

    def known(check: Check) -> Check:
        name = str(getattr(check, "__name__", ""))
        KNOWN[name] = Condition(name, check, fix)
        return check

    return known


def parse(text: str, where: str) -> Constraint:
    """Return the constraint that ``text`` names; ``where`` tells the place in the profile.

    Raises:
        ProfileError: if there is none of that name, or it takes other arguments.
    """
    found = CALL.fullmatch(text)
    if found is None or found[1] not in KNOWN:
        raise ProfileError(
            f"unknown constraint {text!r}",
            where=where,
            fix=f"known are: {', '.join(c.form for c in sorted(KNOWN.values(), key=lambda c: c.name))}",
        )
    known = KNOWN[found[1]]
    given = [part.strip() for part in found[2].split(",")] if found[2] else []
    return Constraint(known, _converted(known, given, text, where))


def _arguments(check: Check) -> list[inspect.Parameter]:
    """Return the parameters behind the node."""
    return list(inspect.signature(check).parameters.values())[1:]


def _converted(known: Condition, given: list[str], text: str, where: str) -> tuple[int | str, ...]:
    """Return the arguments as the function wants them, whole numbers or words."""
    wanted = _arguments(known.check)
    several = bool(wanted) and wanted[-1].kind == inspect.Parameter.VAR_POSITIONAL
    fixed = len(wanted) - several
    if len(given) < fixed + several or (len(given) > fixed and not several):
        raise ProfileError(f"{text!r} has {len(given)} arguments", where=where, fix=f"write {known.form}")
    made: list[int | str] = []
    for index, part in enumerate(given):
        kind: Any = wanted[min(index, len(wanted) - 1)].annotation
        if kind is int and not re.fullmatch(r"-?\d+", part):
            raise ProfileError(
                f"{part!r} in {text!r} is no whole number", where=where, fix=f"write {known.form}"
            )
        made.append(int(part) if kind is int else part)
    return tuple(made)
