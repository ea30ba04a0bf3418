"""What ends an export early and is nobody's bug: it is told with its fix, and the bundle that was there stays as it was."""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from m4c.hashing import sha256
from tests.another_process import holding
from tests.end_to_end.here import Done, Export, capture_once, export

__all__ = ["capture_once", "export"]


def hashes(bundle: Path) -> dict[str, str]:
    return {p.relative_to(bundle).as_posix(): sha256(p) for p in bundle.rglob("*") if p.is_file()}


@contextmanager
def files_of_at_most(count: int) -> Iterator[None]:
    """Let the system refuse files of more than ``count`` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(done: Done, before: dict[str, str]) -> None:
    """Assert that an export told what is wrong, and that nothing else is there than before."""
    assert done.code == 2, done.err
    assert re.search("error: (File too large|No space left on device): ", done.err)
    assert "\n  fix: free some space" in done.err
    assert "Traceback" not in done.err
    assert hashes(done.out) == before
    assert [path.name for path in done.out.parent.iterdir()] == [done.out.name]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--format", "tflite"),
        ("--format", "tflite", "--quantize", "int8", "--calibration", "random"),
        ("--quantize", "int4", "--group-size", "16"),
    ],
    ids=lambda options: " ".join(options) or "onnx",
)
def test_a_disk_that_fills_up(options: tuple[str, ...], export: Export) -> None:
    before = hashes(export(graph="projection/linear").out)
    with files_of_at_most(8192):
        done = export(*options, graph="projection/linear", name="bundle")
    refused(done, before)


def test_a_bundle_that_another_export_is_making(export: Export) -> None:
    done = export(graph="projection/linear")
    with holding(
        "from pathlib import Path",
        "from m4c.staging import staged",
        f"folder = staged(Path({str(done.out)!r}), 'a' * 16)",
        "folder.__enter__()",
    ):
        second = export("--quantize", "int4", "--group-size", "16", graph="projection/linear")
    assert second.code == 2
    assert "goes on" in second.err
    assert "\n  fix: wait for it to end" in second.err
    assert hashes(second.out) == hashes(done.out)
