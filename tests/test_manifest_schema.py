"""The published schema of the manifest is that of its records, and real manifests are as it says. Bundles of other kinds (with
adapters, a host part, several signatures) are held against it where they are made, by ``tests.bundles.require_schema``."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from m4c.bundle import MANIFEST, Manifest
from m4c.manifest_schema import page
from m4c.record import from_json
from tests.bundles import breaches, require_schema

ROOT = Path(__file__).parent.parent


@pytest.fixture
def table(int8_bundle: Path) -> dict[str, Any]:
    """Return a real manifest."""
    made: dict[str, Any] = json.loads((int8_bundle / MANIFEST).read_text("utf-8"))
    return made


def places(value: Any, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to every object in a JSON value."""
    if isinstance(value, dict):
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list):
            yield from places(inner, *path, key)


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    """Return what is there."""
    for key in path:
        value = value[key]
    return value


def test_the_published_schema_is_that_of_the_records() -> None:
    published = ROOT / "m4c/manifest.schema.json"
    assert published.read_text("utf-8") == page(), "write it anew as m4c/manifest_schema.py says"
    assert (ROOT / "docs/manifest.schema.json").samefile(published)
    jsonschema.Draft202012Validator.check_schema(json.loads(page()))


def test_a_float_and_an_integer_bundle_are_valid(float_bundle: Path, int8_bundle: Path) -> None:
    require_schema(float_bundle)
    require_schema(int8_bundle)


def test_it_refuses_what_the_reader_refuses(table: dict[str, Any]) -> None:
    """Without any one key, with one more, with a list for a value: schema and reader are of one mind."""
    tried = 0
    for path in places(table):
        for key in at(table, path):
            for change in ("missing", "unknown", "other"):
                changed = copy.deepcopy(table)
                place = at(changed, path)
                if change == "unknown":
                    place[f"{key}_"] = place[key]
                elif change == "missing":
                    del place[key]
                else:
                    place[key] = [[]]
                assert bool(breaches(changed)) == _refused(changed), (path, key, change)
                tried += 1
    assert tried > 100


def _refused(table: dict[str, Any]) -> bool:
    """Return whether m4c does not read a manifest; of its schema number, read_manifest asks first."""
    if table.get("schema") != 1:
        return True
    try:
        from_json(Manifest, table)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("key", ["submodels", "target", "schema", "tools"])
def test_a_required_key_that_is_gone_is_told(table: dict[str, Any], key: str) -> None:
    del table[key]
    assert breaches(table) == [f"$: '{key}' is a required property"]


def test_a_later_manifest_is_refused(table: dict[str, Any]) -> None:
    table["schema"] += 1
    assert breaches(table) == ["$.schema: 1 was expected"]
