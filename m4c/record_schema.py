"""The JSON schema of a record, by its annotations, defaults and docstrings: what :func:`m4c.record.from_json` takes."""

import ast
import dataclasses
import inspect
import re
import textwrap
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

DIALECT = "https://json-schema.org/draft/2020-12/schema"

PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def to_schema(kind: type, name: str, title: str) -> dict[str, Any]:
    """Return the JSON schema (2020-12) of a record ``kind`` and of all the records in it.

    Args:
        kind: a frozen dataclass of plain data.
        name: the URN by which others may refer to the schema.
        title: what it is of, in one line.
    """
    found: dict[str, Any] = {}
    reference = _of(kind, found)
    return {
        "$schema": DIALECT,
        "$id": name,
        "title": title,
        **reference,
        "$defs": dict(sorted(found.items())),
    }


def _of(hint: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an annotation; those of records are put into ``found``."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    if dataclasses.is_dataclass(hint):
        name = hint.__name__.removesuffix("Record")  # type: ignore[union-attr]
        if name not in found:
            found[name] = {}  # a record may hold its own kind
            found[name] = _of_record(hint, found)  # type: ignore[arg-type]
        return {"$ref": f"#/$defs/{name}"}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(one, found) for one in inner]}
    if origin is tuple and inner[1:] == (...,):
        return {"type": "array", "items": _of(inner[0], found)}
    if origin is not None and issubclass(origin, Mapping) and inner[0] is str:
        return {"type": "object", "additionalProperties": _of(inner[1], found)}
    raise TypeError(f"{hint} has no schema")


def _of_record(kind: type, found: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one record: keys without a default are required, others than its own refused."""
    hints, told, fields = get_type_hints(kind), _told(kind), dataclasses.fields(kind)
    without = (field for field in fields if field.default is field.default_factory is dataclasses.MISSING)
    return {
        "description": _plain(kind.__doc__ or ""),
        "type": "object",
        "required": [field.name for field in without],
        "properties": {
            field.name: {**told.get(field.name, {}), **_of(hints[field.name], found)} for field in fields
        },
        "additionalProperties": False,
    }


def _told(kind: type) -> dict[str, dict[str, str]]:
    """Return what the docstrings below the fields of a record say."""
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(made, ast.ClassDef)
    told = {}
    for field, below in zip(made.body, made.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                told[field.target.id] = {"description": _plain(text.value)}
    return told


def _plain(docstring: str) -> str:
    """Return a docstring without its markup, on one line."""
    return " ".join(re.sub(r":\w+:`([^`]*)`", r"\1", docstring).replace("``", "").split())
