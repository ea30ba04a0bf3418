"""What the bytes of a bundle depend on: the recipe of each sub-model, by content, and the key of a whole request, by times.

Equal recipes make equal bytes. The key is quick to work out and is for an export that continues another. Imports no torch.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import m4c
from m4c.hashing import sha256
from m4c.models import CACHED, shipped
from m4c.request import Request
from m4c.selection import selected_submodels
from m4c.targets.profile import Target

OF_THE_CACHE = ("context_length", "cache_type")
"""Fields of a request that are for the sub-model with a cache alone."""

BY_CONTENT = ("submodels", "model", "weights", "calibration", "adapters", "target")
"""Fields of a request of which something else counts than what they say."""

RACY_SECONDS = 2.0
"""A file that was changed so recently may change again without another time of change."""


def subjects(request: Request) -> list[str]:
    """Return what a request compiles: sub-models, or the name of its ONNX file."""
    return selected_submodels(request.submodels) if request.model is None else [request.model.stem]


def stated(request: Request) -> dict[str, Any]:
    """Return what a manifest says of its request: the options, and what was ``given`` beside them, of which it has hashes."""
    fields = {field.name: _plain(getattr(request, field.name)) for field in dataclasses.fields(request)}
    given = [name for name in ("model", "weights", "adapters") if getattr(request, name) is not None]
    carried = request.weights == shipped.WEIGHTS
    if carried:
        given.remove("weights")
    if not _is_word(request):
        given.append("calibration")
    adapters = request.adapters
    return {
        "options": {
            **{name: value for name, value in fields.items() if name not in ("model", "weights")},
            "target": request.target.name,
            "submodels": sorted(request.submodels),
            "carried": carried,
            "calibration": request.calibration if _is_word(request) else None,
            "adapters": None
            if adapters is None
            else {name: getattr(adapters, name) for name in ("mode", "pickled", "rank_limit")},
        },
        "given": given,
    }


def recipe(request: Request, submodel: str, known: "Hashes") -> dict[str, Any]:
    """Return what the bytes of ``submodel`` depend on in ``request``.

    Files count by their content, and only those that the sub-model reads; an adapter only where it is for this sub-model.
    """
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    left_out = (*BY_CONTENT, *(() if submodel == CACHED else OF_THE_CACHE))
    checkpoint = request.checkpoint(submodel)
    adapters = request.adapters
    return {
        **{name: _plain(value) for name, value in fields.items() if name not in left_out},
        "graphs": sorted(name for name in request.submodels if name.partition("/")[0] == submodel),
        "target": request.target.digest,
        "model": _of_model(request.model, known),
        "weights": known.folder(checkpoint),
        "calibration": request.calibration if _is_word(request) else known.folder(_path(request.calibration)),
        "adapters": None
        if adapters is None
        else [
            adapters.mode,
            adapters.pickled,
            adapters.rank_limit,
            *([one.name, one.weight, known.folder(folder)] for one, folder in adapters.of(submodel)),
        ],
        "m4c": own_digest(),
        **libraries(),
    }


def _of_model(path: Path | None, known: "Hashes") -> dict[str, str] | None:
    """Return the hashes of an ONNX file and of the files that have its weights."""
    if path is None:
        return None
    from m4c.onnx_file import read_proto

    said = (entry for tensor in read_proto(path).graph.initializer for entry in tensor.external_data)
    beside = {path.parent / entry.value for entry in said if entry.key == "location"}
    return {file.name: known.file(file) for file in (path, *sorted(beside)) if file.is_file()}


def key(made: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a recipe."""
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


class Hashes:
    """SHA-256 of files and folders; of a file whose path, size and time of change are known, it is not computed again."""

    def __init__(self, memory: Path | None = None) -> None:
        """Remember in the folder ``memory``, or nowhere."""
        self._memory = memory

    def folder(self, path: Path | None) -> dict[str, str] | None:
        """Return the hash of each file by its path below ``path``, or of the file that it is; None without a path."""
        if path is None:
            return None
        inside = path if path.is_dir() else path.parent
        return {str(file.relative_to(inside)): self.file(file) for file in sorted(files(path))}

    def file(self, path: Path) -> str:
        """Return the hash of a file."""
        found = path.stat()
        facts = (str(path.resolve()), found.st_size, found.st_mtime_ns)
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        note = None if self._memory is None else self._memory / name
        if note is not None and note.is_file() and re.fullmatch("[0-9a-f]{64}", held := note.read_text()):
            return held
        made = sha256(path)
        if note is not None and time.time() - found.st_mtime > RACY_SECONDS:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(made)
        return made


def request_key(request: Request, out: Path) -> str:
    """Return 16 hexadecimal digits that are the same whenever the bundle would have the same bytes.

    They tell the request, m4c itself, the versions of all that it depends on, and path, size and time of change of every file
    that is read. Nothing at or beside ``out`` with its name counts as such.
    """
    read = [path for path in (request.weights, request.calibration and Path(request.calibration)) if path]
    read += [Path(one.path) for one in request.adapters.given] if request.adapters else []
    given = [file for path in read for file in files(path)]
    if request.model is not None:  # its weights may lie beside it
        given += [p for p in request.model.resolve().parent.iterdir() if p.is_file() and p.name[0] != "."]
    mine = str(out.resolve())
    fields = {field.name: _plain(getattr(request, field.name)) for field in dataclasses.fields(request)}
    facts = {
        "request": fields,
        "tools": {"m4c": m4c.__version__, **libraries()},
        "files": sorted(_stat(p) for p in (*_own(), *given) if not str(p.resolve()).startswith(mine)),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _own() -> list[Path]:
    """Return the files of m4c itself: another state of them may make other bytes under the same version."""
    return [
        path
        for path in _walk(Path(m4c.__file__).parent)
        if path.suffix in (".py", ".toml", ".json", ".safetensors")
    ]


def files(path: Path) -> list[Path]:
    """Return the file ``path``, or all files of that folder; hidden ones, which hold no weights, are left out."""
    if not path.is_dir():
        return [path] if path.exists() else []
    return list(_walk(path))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below ``folder``, links followed, none of them hidden."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root) / name for name in names if not name.startswith("."))


def _stat(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return str(path.resolve()), found.st_size, found.st_mtime_ns


@cache
def own_digest() -> str:
    """Return the SHA-256 of m4c's own files: another state of them may make other bytes under the same version."""
    root = Path(m4c.__file__).parent
    held = [[path.relative_to(root).as_posix(), sha256(path)] for path in sorted(_own())]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()


@cache
def libraries() -> dict[str, str]:
    """Return the versions of Python and of all that m4c depends on."""
    wanted = importlib.metadata.requires("m4c") or []
    names = [re.split(r"[^A-Za-z0-9_.-]", text, maxsplit=1)[0] for text in wanted if "extra ==" not in text]
    versions = {name: importlib.metadata.version(name) for name in sorted(names)}
    return {"python": f"{platform.python_version()} {platform.machine()}", **versions}


def _is_word(request: Request) -> bool:
    """Return whether the samples are made, not read."""
    return request.calibration is None or not Path(request.calibration).exists()


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _plain(value: object) -> object:
    """Return an option as JSON has it, the same in every process."""
    match value:
        case frozenset():
            return sorted(value)
        case Path():
            return str(value.resolve())
        case Target():
            return value.digest
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return _plain(dataclasses.asdict(value))
        case dict():
            return {str(name): _plain(held) for name, held in value.items()}
        case tuple() | list():
            return [_plain(held) for held in value]
        case _:
            return value
