"""A machine that only runs bundles: m4c without its dependencies, the ``runtime`` extra, and one of the two runtimes."""

import json
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from m4c.bundle import read_manifest
from tests.end_to_end.here import Export, capture_once, export

__all__ = ["capture_once", "export"]

ROOT = Path(__file__).parents[2]
SEVEN = ROOT / "tests" / "assets" / "nano" / "seven.png"
RUNTIMES = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}
ABSENT = ("torch", "onnx", "onnx_ir", "onnxscript", "transformers", "diffusers", "numba")

COMMAND = """
import sys
sys.path[:0] = sys.argv[1:3]
del sys.argv[1:3]
from m4c.cli import main
main()
"""

ROOMS = """
import importlib, importlib.util, pkgutil, sys
sys.path[:0] = sys.argv[1:3]
import m4c.host, m4c.routes
for room in (m4c.host, m4c.routes):
    for module in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        importlib.import_module(module.name)
import m4c.runners, m4c.selftest, m4c.static_cache
print([name for name in sys.argv[3:] if importlib.util.find_spec(name)])
"""


def extra() -> list[Requirement]:
    """Return what the ``runtime`` extra asks for."""
    found = [Requirement(text) for text in requires("m4c") or ()]
    return [one for one in found if one.marker and one.marker.evaluate({"extra": "runtime"})]


def closure(names: Iterable[str]) -> set[str]:
    """Return the distributions of these names and all that they need."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        for text in requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return found


def environment(folder: Path, runtime: str) -> Path:
    """Make a folder of packages with nothing but the extra, ``runtime``, and what these need."""
    folder.mkdir()
    for name in closure([*(one.name for one in extra()), runtime]):
        held = distribution(name)
        for top in {Path(str(file)).parts[0] for file in held.files or ()} - {"..", "__pycache__"}:
            (folder / top).symlink_to(Path(str(held.locate_file(top))).resolve())
    return folder


def ended(code: str, *words: object) -> "subprocess.CompletedProcess[str]":
    """Run ``code`` in a process that has no packages but those it is told of."""
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run(code: str, *words: object) -> str:
    """Run ``code`` likewise, and return what it printed."""
    made = ended(code, *words)
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_the_extra_is_a_part_of_the_dependencies() -> None:
    all_of_it = {
        (one.name, str(one.specifier)) for one in map(Requirement, requires("m4c") or ()) if not one.marker
    }
    assert extra()
    assert {(one.name, str(one.specifier)) for one in extra()} < all_of_it


@pytest.mark.parametrize("file_format", RUNTIMES)
def test_a_task_runs_where_only_a_runtime_is(export: Export, tmp_path: Path, file_format: str) -> None:
    done = export("--task", "T22", "--format", file_format, "--jobs", "1", graph="txt_enc/encoder")
    assert done.code == 0, done.err
    manifest = read_manifest(done.out)
    assert [graph.name for graph in manifest.graphs] == ["img_enc/encoder", "txt_enc/encoder"]
    assert set(manifest.routes) == {"T22", "T46"}
    packages = environment(tmp_path / "packages", RUNTIMES[file_format])
    task = ("run", done.out, "--task", "T22", "--image", SEVEN, "--labels", "one,seven,eight")
    assert run(COMMAND, packages, ROOT, *task) == "seven\n"
    checked = json.loads(run(COMMAND, packages, ROOT, "verify", done.out, "--json"))
    assert len(checked["graphs"]) == 2
    other = RUNTIMES["tflite" if file_format == "onnx" else "onnx"].replace("-", "_")
    assert run(ROOMS, packages, ROOT, *ABSENT, other) == "[]\n"
    refused = ended(COMMAND, packages, ROOT, "export", "imu_enc", "-o", tmp_path / "none")
    assert refused.returncode == 2
    assert "is not installed here\n  fix: pip install m4c with all it depends on" in refused.stderr
