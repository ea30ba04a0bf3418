"""The layout of the repository: what pyproject lists is what is there."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ROOMS = ("operator_reports", "passes", "targets")


def setup() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    return table


def packages() -> dict[str, Path]:
    """Return every package by its name: folders with an ``__init__.py``, the rooms under m4c."""
    found = {}
    for top in ("m4c", *ROOMS):
        for init in (ROOT / top).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            if parts[:1] == ("m4c",) and len(parts) > 1 and parts[1] in ROOMS:
                continue
            found[".".join(parts if parts[0] == "m4c" else ("m4c", *parts))] = init.parent
    return found


def test_every_package_is_listed() -> None:
    assert setup()["packages"] == sorted(packages())


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for top in ("m4c", *ROOMS) for path in (ROOT / top).rglob("*.py")}
    outside = {
        folder
        for folder in folders
        if not any((ROOT / "m4c" / room) in (folder, *folder.parents) for room in ROOMS)
    }
    assert outside == set(packages().values())


def test_the_rooms_are_linked_into_m4c() -> None:
    assert setup()["package-dir"] == {f"m4c.{room}": room for room in ROOMS}
    links = {path.name: path.readlink().as_posix() for path in (ROOT / "m4c").iterdir() if path.is_symlink()}
    assert links == {room: f"../{room}" for room in ROOMS}


def test_every_data_file_is_listed() -> None:
    listed = setup()["package-data"]
    for name, folder in packages().items():
        data = [p.name for p in folder.iterdir() if p.is_file() and p.suffix not in {".py", ".pyc"}]
        missing = [file for file in data if not any(fnmatch(file, form) for form in listed.get(name, []))]
        assert missing == [], name
    assert all(list(packages()[name].glob(form)) for name, forms in listed.items() for form in forms)


def test_every_test_folder_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
