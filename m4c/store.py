"""A store of finished sub-models: what was compiled once is taken from there, if everything that it depends on is the same.

It is a folder, or whatever fsspec reaches: ``objects/`` has files by their SHA-256, ``records/`` says of a recipe
(:mod:`m4c.recipe`) which objects it made, ``last/`` what a sub-model was made from most recently. A file is there under its
name only when it is whole, and a record is written after its objects; what comes out is hashed, so a damaged object is no worse
than a missing one. Several exports may share a store, on one machine or many.
"""

import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from m4c.bundle import FileRecord, SubmodelRecord, record_file
from m4c.errors import UsageError
from m4c.record import from_json

Recipe = Mapping[str, Any]
"""All that the bytes of a sub-model depend on, by what it is called; see :func:`m4c.recipe.recipe`."""

PARTIAL = ".partial-"


class Place(Protocol):
    """Where a store keeps its files."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, None if there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file at once, or not at all."""

    def fetch(self, name: str, path: Path) -> bool:
        """Put a file at ``path``, or return False if there is none."""

    def send(self, path: Path, name: str) -> None:
        """Take the file at ``path`` in, at once or not at all; one that is there stays."""

    def drop(self, name: str) -> None:
        """Remove a file, if it is there."""


class Store:
    """A store in one :class:`Place`."""

    def __init__(self, place: Place) -> None:
        """Use ``place``; nothing is read yet."""
        self._place = place

    def find(self, key: str, folder: Path, replaced: Path | None = None) -> SubmodelRecord | None:
        """Put the files that the recipe with this ``key`` made into the bundle at ``folder``, and return their record.

        What is as it was in a bundle that will be ``replaced`` is taken from there without a copy. None if the recipe was
        never kept, or not all of it is as it was.
        """
        text = self._place.read(f"records/{key}.json")
        record = None if text is None else _record(text)
        if record is None:
            return None
        if all(self._fetched(file, folder, replaced) for file in record.all_files):
            return record
        for file in record.all_files:
            (folder / file.path).unlink(missing_ok=True)
        return None

    def has(self, key: str) -> bool:
        """Return whether a recipe was kept; whether its files are whole is seen when they are taken."""
        return self._place.read(f"records/{key}.json") is not None

    def keep(self, key: str, recipe: Recipe, record: SubmodelRecord, folder: Path) -> None:
        """Keep what ``recipe`` made in the bundle at ``folder``."""
        for file in record.all_files:
            self._place.send(folder / file.path, f"objects/{file.sha256}")
        text = json.dumps(dataclasses.asdict(record), allow_nan=False)
        self._place.write(f"records/{key}.json", text.encode())
        self._place.write(f"last/{record.name}.json", json.dumps(recipe).encode())

    def changed(self, submodel: str, recipe: Recipe) -> tuple[str, ...]:
        """Return what is not as it was when ``submodel`` was last kept; nothing if it never was."""
        text = self._place.read(f"last/{submodel}.json")
        try:
            last = {} if text is None else json.loads(text)
        except ValueError:
            last = {}
        return tuple(name for name in recipe if last and recipe[name] != last.get(name))

    def _fetched(self, file: FileRecord, folder: Path, replaced: Path | None) -> bool:
        """Return whether a file is in the bundle at ``folder`` now, as it was kept; what is damaged is dropped."""
        path, name = folder / file.path, f"objects/{file.sha256}"
        if not path.resolve().is_relative_to(folder.resolve()) or "/" in file.sha256:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if replaced is not None and _linked(file, replaced, path):
            return True
        if not self._place.fetch(name, path):
            return False
        if record_file(folder, path) == file:
            return True
        path.unlink()
        self._place.drop(name)
        return False


def _record(text: bytes) -> SubmodelRecord | None:
    """Return the record that ``text`` holds, None if it is damaged."""
    try:
        return from_json(SubmodelRecord, json.loads(text))
    except ValueError:
        return None


class Folder:
    """A place on this machine's disks. Files are copied: ONNX refuses weights that have a second name."""

    def __init__(self, path: Path) -> None:
        """Use the folder at ``path``, which is made when something is kept."""
        self._path = path

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, None if there is none."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file at once, or not at all."""
        partial = self._partial(name)
        partial.write_bytes(content)
        partial.replace(self._path / name)

    def fetch(self, name: str, path: Path) -> bool:
        """Put a file at ``path``, or return False if there is none."""
        if not (self._path / name).is_file():
            return False
        shutil.copyfile(self._path / name, path)
        return True

    def send(self, path: Path, name: str) -> None:
        """Take the file at ``path`` in, at once or not at all; one that is there stays."""
        if not (self._path / name).is_file():
            partial = self._partial(name)
            shutil.copyfile(path, partial)
            partial.replace(self._path / name)

    def drop(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self._path / name).unlink(missing_ok=True)

    def _partial(self, name: str) -> Path:
        """Return another name for a file, in a folder that is there."""
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f"{path.name}{PARTIAL}{secrets.token_hex(4)}")


class Remote:
    """A place that fsspec reaches."""

    def __init__(self, url: str) -> None:
        """Use the folder at ``url``.

        Raises:
            UsageError: if fsspec knows no such place, or needs a package for it that is not installed.
        """
        import fsspec

        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UsageError(f"there is no store at {url}: {error}", fix="give a folder") from error

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, None if there is none."""
        try:
            content: bytes = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file at once, or not at all."""
        partial = self._partial(name)
        self._files.pipe_file(partial, content)
        self._files.mv(partial, f"{self._root}/{name}")

    def fetch(self, name: str, path: Path) -> bool:
        """Put a file at ``path``, or return False if there is none."""
        try:
            self._files.get_file(f"{self._root}/{name}", str(path))
        except FileNotFoundError:
            return False
        return True

    def send(self, path: Path, name: str) -> None:
        """Take the file at ``path`` in, at once or not at all; one that is there stays."""
        if not self._files.exists(f"{self._root}/{name}"):
            partial = self._partial(name)
            self._files.put_file(str(path), partial)
            self._files.mv(partial, f"{self._root}/{name}")

    def drop(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self._files.exists(f"{self._root}/{name}"):
            self._files.rm_file(f"{self._root}/{name}")

    def _partial(self, name: str) -> str:
        """Return another name for a file, in a folder that is there."""
        path = f"{self._root}/{name}"
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        return f"{path}{PARTIAL}{secrets.token_hex(4)}"


def open_store(where: str) -> Store:
    """Return the store in a folder, or at a URL.

    Raises:
        UsageError: if fsspec knows no such place, or there is a file of that name.
    """
    if "://" in where:
        return Store(Remote(where))
    if Path(where).exists() and not Path(where).is_dir():
        raise UsageError(f"there is no store at {where}: it is a file", fix="give a folder")
    return Store(Folder(Path(where)))


def memory(where: str) -> Path | None:
    """Return where a store remembers the hashes of files on this machine, None if it lies elsewhere."""
    return None if "://" in where else Path(where) / "hashes"


def _linked(file: FileRecord, replaced: Path, path: Path) -> bool:
    """Make ``path`` the file of that name in the bundle ``replaced``, if that is as it was; it has one name again soon."""
    held = replaced / file.path
    if not held.is_file() or record_file(replaced, held) != file:
        return False
    try:
        os.link(held, path)
    except OSError:
        return False
    return True
