"""The wheel and the sdist, built offline by setuptools: all code and data of the tree is in them, and nothing else."""

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.test_layout import ROOMS, ROOT

CACHES = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache")

Content = dict[str, bytes]
"""What is in a wheel, by path."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository, in which building leaves its traces, with a cache in it."""
    folder = tmp_path_factory.mktemp("package") / "tree"
    folder.mkdir()
    without = shutil.ignore_patterns(*CACHES, "assets", "*.egg-info")
    for name in ("m4c", *ROOMS, "docs", "tests"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=without)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)
    for room in ("m4c", "passes"):
        (folder / room / "__pycache__").mkdir()
        (folder / room / "__pycache__" / "stale.cpython-311.pyc").write_bytes(b"stale")
    return folder


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    """Return the folder that the sdist of the tree unpacks to."""
    unpacked = tree.parent / "unpacked"
    with tarfile.open(build("build_sdist", tree)) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    return folder


def build(what: str, folder: Path) -> Path:
    """Return the wheel or the sdist that setuptools builds of ``folder``, in a process of its own, without the network."""
    out = folder.parent / f"{what} of {folder.name}"
    out.mkdir()
    code = f"from setuptools import build_meta; build_meta.{what}(r'{out}')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "absent from the `packages`" not in done.stderr
    (made,) = out.iterdir()
    return made


def packed(wheel: Path) -> Content:
    """Return what a wheel installs as packages."""
    with zipfile.ZipFile(io.BytesIO(wheel.read_bytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def kept() -> Content:
    """Return all code and data of the tree by the path that it is installed at."""
    places = {"m4c": ROOT / "m4c", **{f"m4c/{room}": ROOT / room for room in ROOMS}}
    return {
        f"{place}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for place, folder in places.items()
        for path in folder.rglob("*")
        if path.is_file() and not set(path.parts) & set(CACHES)
    }


@pytest.mark.parametrize("source", ["tree", "sdist"])
def test_the_wheel_is_all_code_and_data_and_nothing_else(source: str, request: pytest.FixtureRequest) -> None:
    content, wanted = packed(build("build_wheel", request.getfixturevalue(source))), kept()
    assert sorted(content) == sorted(wanted)
    assert [name for name in wanted if content[name] != wanted[name]] == []


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "models/weights/backbone/model.safetensors",
        "models/weights/tts_dec/vocab.txt",
        "operator_reports/baseline/zoo.json",
        "operator_reports/page/page.html",
        "operator_reports/report.schema.json",
        "targets/edgetpu.toml",
    ],
)
def test_the_data_that_code_reads_is_among_it(name: str) -> None:
    assert f"m4c/{name}" in kept()


def test_the_sdist_has_the_pages_and_the_versions_and_no_tests(sdist: Path) -> None:
    names = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*")}
    assert {"README.md", "LICENSE", "constraints.txt", "docs/bundle.md", "docs/report.schema.json"} <= names
    assert {name for name in names if name.startswith("tests") or "__pycache__" in name} == set()
