"""A bundle is there whole or not at all, whenever an export is killed; and what it was to replace is not lost."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from m4c.bundle import MANIFEST, check_files, read_manifest
from m4c.errors import UsageError
from m4c.staging import staged

KEYS = {"old": "a" * 16, "new": "b" * 16}


def in_another_process(work: Callable[[], None]) -> int:
    """Fork a process that does ``work``, in which nothing but files is touched, and return its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def put(contents: dict[str, bytes], out: Path, key: str) -> None:
    """Make a bundle of ``contents`` a little at a time, its manifest last, as an export does."""
    with staged(out, key) as folder:
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for start in range(0, len(content), 4096):
                    file.write(content[start : start + 4096])


def contents_of(bundle: Path) -> dict[str, bytes]:
    files = sorted((p for p in bundle.rglob("*") if p.is_file()), key=lambda path: path.name == MANIFEST)
    return {p.relative_to(bundle).as_posix(): p.read_bytes() for p in files}


def test_a_kill_leaves_no_torn_bundle(float_bundle: Path, int8_bundle: Path, tmp_path: Path) -> None:
    """Sixty processes replace one bundle by another again and again, and are killed at any moment."""
    rng, out = np.random.default_rng(0), tmp_path / "out"
    bundles = {"old": contents_of(float_bundle), "new": contents_of(int8_bundle)}

    def replace_for_ever() -> None:
        while True:
            for name, contents in bundles.items():
                put(contents, out, KEYS[name])

    there: list[str] = []
    for _ in range(60):
        child = in_another_process(replace_for_ever)
        time.sleep(float(rng.uniform(0.002, 0.03)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        places = [out] if out.exists() else list(tmp_path.glob("out.replaced-*"))
        assert places or not there, "what was there is lost"
        for place in places[:1]:
            check_files(read_manifest(place), place)
            found = contents_of(place)
            there.append(next(name for name, contents in bundles.items() if contents == found))
    assert set(there) == set(bundles)
    put(bundles["old"], out, KEYS["old"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "what was left is removed"


def test_a_bundle_that_was_about_to_be_replaced_comes_back(float_bundle: Path, tmp_path: Path) -> None:
    contents = contents_of(float_bundle)
    put(contents, tmp_path / "out", KEYS["old"])
    (tmp_path / "out").rename(tmp_path / "out.replaced-01234567")

    def fail() -> None:
        with staged(tmp_path / "out", KEYS["new"]):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert contents_of(tmp_path / "out") == contents


def test_a_folder_that_may_not_be_written(float_bundle: Path) -> None:
    contents = contents_of(float_bundle)
    with TemporaryDirectory() as name:  # not below the folder of pytest, which none else may enter
        check_forbidden(contents, Path(name))


def check_forbidden(contents: dict[str, bytes], folder: Path) -> None:
    put(contents, folder / "out", KEYS["old"])
    folder.chmod(0o555)

    def refused() -> None:
        if os.getuid() == 0:  # whom nothing is forbidden
            os.setuid(65534)
        with pytest.raises(UsageError, match=r"cannot write to .*out: Permission denied\n  fix: give -o"):
            put(contents, folder / "out", KEYS["new"])

    child = in_another_process(refused)
    try:
        assert os.waitpid(child, 0)[1] == 0
    finally:
        folder.chmod(0o755)
    assert contents_of(folder / "out") == contents
    assert [path.name for path in folder.iterdir()] == ["out"]
