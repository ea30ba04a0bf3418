"""Records: frozen dataclasses of plain data, read back from JSON strictly, by their own annotations."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")


def from_json(kind: type[Record], table: Any, where: str = "") -> Record:
    """Build a ``kind`` from what ``json.loads`` gave; ``where`` is the path to it, for messages.

    Annotations may be ``str``, ``int``, ``float``, ``bool``, records, unions, ``tuple[X, ...]``,
    ``Mapping[str, X]`` and ``Any``.

    Raises:
        ValueError: saying what is missing, unknown or of another type, and where.
    """
    if not isinstance(table, dict):
        raise ValueError(f"{where or 'it'} is {_shown(table)}, not an object")
    hints = get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    place = f"{where}." if where else ""
    for name in table:
        if name not in known:
            raise ValueError(f"{place}{name} is unknown")
    for name, field in known.items():
        optional = (
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        )
        if name not in table and not optional:
            raise ValueError(f"{place}{name} is missing")
    return kind(**{name: _value(hints[name], value, f"{place}{name}") for name, value in table.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """Return ``value`` as ``hint`` wants it."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _either(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return {name: _value(inner[1], item, f"{where}.{name}") for name, item in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (str, int, bool) and type(value) is hint:
        return value
    raise ValueError(f"{where} is {_shown(value)}, not {getattr(hint, '__name__', hint)}")


def _either(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    """Return ``value`` as the first of ``hints`` that takes it."""
    if value is None and type(None) in hints:
        return None
    problems = []
    for hint in hints:
        if hint is not type(None):
            try:
                return _value(hint, value, where)
            except ValueError as error:
                problems.append(str(error))
    raise ValueError("; ".join(problems))


def _shown(value: Any) -> str:
    """Return a short text of a JSON value."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
