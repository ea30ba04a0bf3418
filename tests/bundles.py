"""Bundles that several tests read: exported once a session. Tests that alter one copy it first."""

import json
import os
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from filelock import FileLock

from m4c.bundle import MANIFEST, FileRecord
from m4c.compile import compile_bundle
from m4c.hashing import sha256
from m4c.progress import Silent
from m4c.request import Request
from m4c.targets.profile import load_target
from tests.end_to_end.command import m4c as in_a_process

Copy = Callable[[Path], Path]

SMALL = ("projection", "gen_dec")
ASSETS = Path(__file__).parent / "assets" / "nano"
ADAPTERS = ("shapes", "jumping", "herald")


@pytest.fixture(scope="session")
def float_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of two sub-models in float32 ONNX."""
    out = tmp_path_factory.mktemp("bundles") / "float"
    compile_bundle(Request(target=load_target("cpu"), submodels=SMALL), out, Silent())
    return out


@pytest.fixture(scope="session")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of one sub-model in int8 TFLite."""
    out = tmp_path_factory.mktemp("bundles") / "int8"
    request = Request(target=load_target("edgetpu"), submodels=("projection",), calibration="random")
    compile_bundle(request, out, Silent())
    return out


@pytest.fixture(scope="session")
def nano_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return all of m4-nano in float32 ONNX with three adapters beside it, made by whichever test process wants it first."""
    base = tmp_path_factory.getbasetemp()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "m4-nano"
    with FileLock(out.with_suffix(".lock")):
        if not out.exists():
            given = [
                word for name in ADAPTERS for word in ("--adapter", f"{name}={ASSETS / 'adapters' / name}")
            ]
            table = in_a_process("export", *given, "--adapters", "separate", "-o", str(out))
            assert "tts_dec" in table
    return out


@pytest.fixture
def copied(tmp_path: Path) -> Copy:
    """Return a function that copies a bundle into the test's folder."""

    def copy(bundle: Path) -> Path:
        return shutil.copytree(bundle, tmp_path / "copy")

    return copy


def digests(bundle: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a bundle, by its path in it."""
    return {
        str(path.relative_to(bundle)): sha256(path) for path in sorted(bundle.rglob("*")) if path.is_file()
    }


def edit_manifest(bundle: Path, old: str, new: str) -> None:
    """Replace a text that occurs once in the manifest."""
    path = bundle / MANIFEST
    text = path.read_text("utf-8")
    assert text.count(old) == 1, f"{old} occurs {text.count(old)} times"
    path.write_text(text.replace(old, new), "utf-8")


def update_hash(bundle: Path, record: FileRecord) -> None:
    """Let the manifest vouch for a file as it is now."""
    edit_manifest(bundle, record.sha256, sha256(bundle / record.path))


def breaches(manifest: object) -> list[str]:
    """Return what of a manifest, as JSON, is not as the published schema says."""
    schema = json.loads((files("m4c") / "manifest.schema.json").read_text("utf-8"))
    return [
        f"{e.json_path}: {e.message}" for e in jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    ]


def require_schema(bundle: Path) -> None:
    """Hold the manifest of a bundle against the published schema."""
    assert breaches(json.loads((bundle / MANIFEST).read_text("utf-8"))) == []
