"""Where a bundle is built: a folder beside it, named after the request, that becomes the bundle when it is complete.

A killed export leaves that folder; the same request finds it again and takes over what is whole in it. Another request for the
same place removes it. A lock keeps two exports from building for one place at once.
"""

import dataclasses
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from m4c.bundle import MANIFEST, SubmodelRecord, record_file
from m4c.errors import UsageError
from m4c.journal import SUFFIX
from m4c.record import from_json

WEIGHTS = "weights.bin"
FINISHED = "finished.json"

WORTH = 64 << 20
"""Bytes of finished weights for which a failed export leaves its folder; to make less again costs a second or two."""


@contextmanager
def staged(out: Path, key: str) -> Iterator[Path]:
    """Yield a folder to build a bundle in, which becomes ``out`` if the block succeeds.

    It is as an export with the same ``key`` left it, if one was killed, or failed after much work. Else it is empty.

    Raises:
        UsageError: if ``out`` is there and is not a bundle: m4c deletes nothing that it did not make; if another export into it
            goes on; or if it cannot be made.
    """
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not a bundle", fix="give -o another folder")
    final = out.resolve()
    partial = final.with_name(f"{final.name}.partial-{key}")
    with _locked(out, final):
        _take_back(final)
        _remove_leftovers(partial)
        partial.mkdir(exist_ok=True)
        try:
            yield partial
            for path in _traces(partial):
                path.unlink()
            _replace(final, partial)
        except BaseException:
            if _finished_bytes(partial) <= WORTH:
                shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def _locked(out: Path, final: Path) -> Iterator[None]:
    """Hold the lock of ``final``: a hidden file beside it, which goes with the lock."""
    path = final.with_name(f".{final.name}.m4c-lock")
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        file = path.open("wb")
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}", fix="give -o another folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError  # who had it has just ended, and removed it
        except BlockingIOError:
            raise UsageError(
                f"another export into {out} goes on",
                where=str(path),
                fix="wait for it to end, or give -o another folder",
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _take_back(final: Path) -> None:
    """Let the bundle that a killed export was about to replace be at ``final`` again; if the new one is there, remove it."""
    name = re.compile(re.escape(final.name) + r"\.replaced-[0-9a-f]{8}")
    for path in [path for path in final.parent.iterdir() if name.fullmatch(path.name) and path.is_dir()]:
        if final.exists():
            shutil.rmtree(path)
        else:  # it is whole: deleting it begins when the new one is there
            path.rename(final)


def _remove_leftovers(partial: Path) -> None:
    """Remove what exports of other requests for the same place left."""
    name = re.compile(re.escape(partial.name.rpartition("-")[0]) + "-[0-9a-f]{16}")
    for path in partial.parent.iterdir():
        if name.fullmatch(path.name) and path != partial and path.is_dir():
            shutil.rmtree(path)


def _traces(folder: Path) -> list[Path]:
    """Return the files in ``folder`` that only serve to continue."""
    return [*folder.glob(f"graphs/*/{WEIGHTS}{SUFFIX}"), *folder.glob(f"graphs/*/{FINISHED}")]


def _finished_bytes(folder: Path) -> int:
    """Return how many bytes of weights lie in ``folder``."""
    return sum(path.stat().st_size for path in folder.glob(f"graphs/*/{WEIGHTS}"))


def _replace(final: Path, partial: Path) -> None:
    """Rename ``partial`` to ``final``; what was there before is deleted last, and comes back if renaming fails."""
    if not final.exists():
        partial.rename(final)
        return
    replaced = final.with_name(f"{final.name}.replaced-{secrets.token_hex(4)}")
    final.rename(replaced)
    try:
        partial.rename(final)
    except BaseException:
        replaced.rename(final)
        raise
    shutil.rmtree(replaced)


def begin(graphs: Path) -> None:
    """Make the folder of a sub-model's graphs, or leave of it only what can be continued: the weights and their journal."""
    graphs.mkdir(parents=True, exist_ok=True)
    for path in graphs.iterdir():
        if path.name not in (WEIGHTS, WEIGHTS + SUFFIX):
            path.unlink()


def write_finished(folder: Path, record: SubmodelRecord) -> None:
    """Note in the folder of a bundle that a sub-model is complete."""
    path = folder / "graphs" / record.name / FINISHED
    text = json.dumps(dataclasses.asdict(record), allow_nan=False)
    path.with_suffix(".tmp").write_text(text, "utf-8")
    path.with_suffix(".tmp").rename(path)


def read_finished(folder: Path, name: str) -> SubmodelRecord | None:
    """Return the record of a sub-model that an earlier export completed, if every file is still as it was then."""
    path = folder / "graphs" / name / FINISHED
    if not path.is_file():
        return None
    record = from_json(SubmodelRecord, json.loads(path.read_text("utf-8")))
    whole = all(
        (folder / f.path).is_file() and record_file(folder, folder / f.path) == f for f in record.all_files
    )
    return record if whole else None
