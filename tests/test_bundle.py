"""Bundles: whole or not there, equal bytes from equal compiles, and every damage told by message."""

import dataclasses
import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m4c import bundle as bundle_module
from m4c.bundle import MANIFEST, Manifest, check_files, read_manifest, record_file, write_manifest
from m4c.compile import compile_bundle
from m4c.errors import BundleError, UsageError
from m4c.progress import Silent
from m4c.request import Request
from m4c.staging import staged
from m4c.targets.profile import load_target
from tests.bundles import SMALL, Copy, edit_manifest


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_two_equal_compiles_give_equal_bytes(float_bundle: Path, tmp_path: Path) -> None:
    request = Request(target=load_target("cpu"), submodels=tuple(reversed(SMALL)))
    compile_bundle(request, tmp_path / "again", Silent())
    first, second = contents(float_bundle), contents(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_everything_in_a_bundle_is_in_its_manifest(float_bundle: Path, int8_bundle: Path) -> None:
    for folder in (float_bundle, int8_bundle):
        vouched = {file.path for file in read_manifest(folder).files()}
        assert set(contents(folder)) == vouched | {MANIFEST}


def test_manifests_hold_neither_paths_nor_times(float_bundle: Path) -> None:
    text = (float_bundle / MANIFEST).read_text("utf-8")
    assert str(float_bundle.parent) not in text
    assert str(Path.cwd()) not in text


def test_manifests_come_back_as_they_were(float_bundle: Path, int8_bundle: Path, tmp_path: Path) -> None:
    for folder in (float_bundle, int8_bundle):
        manifest = read_manifest(folder)
        write_manifest(manifest, tmp_path)
        assert (tmp_path / MANIFEST).read_bytes() == (folder / MANIFEST).read_bytes()
        assert read_manifest(tmp_path) == manifest


def test_what_is_not_a_number_is_not_written(float_bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(float_bundle)
    (first, *_), rest = manifest.submodels[0].graphs, manifest.submodels[1:]
    bad = dataclasses.replace(first.verification, sqnr_db=float("inf"))
    graphs = (dataclasses.replace(first, verification=bad),)
    broken = dataclasses.replace(
        manifest, submodels=(dataclasses.replace(manifest.submodels[0], graphs=graphs), *rest)
    )
    with pytest.raises(ValueError, match="JSON compliant"):
        write_manifest(broken, tmp_path)
    assert not (tmp_path / MANIFEST).exists()


def test_records_are_found_by_name(float_bundle: Path) -> None:
    manifest = read_manifest(float_bundle)
    assert manifest.graph("gen_dec/head").format == "onnx"
    assert manifest.submodel("projection").weights == "random, seed 0"
    with pytest.raises(BundleError, match=r"has no tts_dec\n  fix: it has: projection, gen_dec"):
        manifest.submodel("tts_dec")
    with pytest.raises(BundleError, match=r"has no gen_dec\n  fix: it has: projection/linear, gen_dec/head"):
        manifest.graph("gen_dec")


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest.json\n  fix: "):
            read_manifest(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema": 1', '"schema": 2', "has schema 2, this m4c reads 1"),
        ('"schema": 1', '"skema": 1', "has schema None"),
        ('\n "preset": "m4-nano"', '\n "preset": 3', "is damaged: preset is 3, not str"),
        ('\n "preset": "m4-nano"', '\n "mark": "m4-nano"', "is damaged: mark is unknown"),
        ('\n "preset": "m4-nano"', '\n "preset": "m4-nano",', "is damaged: "),
        ('"name": "projection",', '"name": null,', r"is damaged: submodels\[0\].name is None, not str"),
        ("graphs/gen_dec/head.onnx", "../head.onnx", "file outside the bundle: ../head.onnx"),
        ("graphs/gen_dec/head.onnx", "/etc/passwd", "file outside the bundle: /etc/passwd"),
    ],
)
def test_damaged_manifests_are_refused(
    float_bundle: Path, copied: Copy, old: str, new: str, message: str
) -> None:
    folder = copied(float_bundle)
    edit_manifest(folder, old, new)
    with pytest.raises(BundleError, match=message) as caught:
        read_manifest(folder)
    assert caught.value.where == str(folder / MANIFEST)
    assert caught.value.fix


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{", b"\xff\xfe", b"null"])
def test_what_is_no_manifest_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match="the manifest is damaged: "):
        read_manifest(tmp_path)


def test_links_out_of_the_bundle_are_refused(float_bundle: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(float_bundle)
    artifact = folder / "graphs/gen_dec/head.onnx"
    artifact.rename(tmp_path / "elsewhere.onnx")
    artifact.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="outside the bundle"):
        read_manifest(folder)


def test_altered_and_missing_files_are_named(float_bundle: Path, copied: Copy) -> None:
    folder = copied(float_bundle)
    manifest = read_manifest(folder)
    check_files(manifest, folder)
    path = folder / "graphs/gen_dec/weights.bin"
    whole = path.read_bytes()
    for altered in (whole[:-1], whole + b"\0", whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        path.write_bytes(altered)
        with pytest.raises(BundleError, match=r"graphs/gen_dec/weights.bin was altered\n.*\n  fix: "):
            check_files(manifest, folder)
    path.unlink()
    with pytest.raises(BundleError, match=r"graphs/gen_dec/weights.bin is missing"):
        check_files(manifest, folder)


def test_records_of_files_hold_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"abc")
    record = record_file(tmp_path, tmp_path / "a" / "b.bin")
    assert (record.path, record.bytes) == ("a/b.bin", 3)
    assert record.sha256.startswith("ba7816bf8f01cfea")  # SHA-256 of "abc", FIPS 180


KEY = "0123456789abcdef"


def stage(out: Path, text: str) -> None:
    with staged(out, KEY) as folder:
        (folder / MANIFEST).write_text(text)


def test_a_bundle_appears_when_it_is_complete_and_replaces_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staged(out, KEY) as folder:
        (folder / MANIFEST).write_text("one")
        assert not out.exists()
    assert (out / MANIFEST).read_text() == "one"
    with staged(out, KEY) as folder:
        (folder / MANIFEST).write_text("two")
        assert (out / MANIFEST).read_text() == "one"
    assert (out / MANIFEST).read_text() == "two"
    assert names(out.parent) == ["out"]
    (tmp_path / "empty").mkdir()
    stage(tmp_path / "empty", "three")
    assert (tmp_path / "empty" / MANIFEST).exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failed_build_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"

    def fail() -> None:
        with staged(out, KEY) as folder:
            (folder / MANIFEST).write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []
    stage(out, "one")
    with pytest.raises(error):
        fail()
    assert names(tmp_path) == ["out"]
    assert (out / MANIFEST).read_text() == "one"


def test_nothing_foreign_is_deleted(tmp_path: Path) -> None:
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"text")
    for out in (foreign, tmp_path / "file"):
        with pytest.raises(UsageError, match=r"exists and is not a bundle\n  fix: "):
            stage(out, "one")
    for name in ("out.partial", "out.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cat.jpg").write_bytes(b"cat")
    for text in ("one", "two"):
        stage(tmp_path / "out", text)
    cats = sorted(str(p.parent.name) for p in tmp_path.rglob("cat.jpg"))
    assert cats == ["out.partial", "out.replaced", "photos"]


def test_a_bundle_that_cannot_be_replaced_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    stage(out, "one")
    rename = Path.rename

    def unwilling(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            raise OSError(errno.ENOSPC, "no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", unwilling)
    with pytest.raises(OSError, match="no space"):
        stage(out, "two")
    assert names(tmp_path) == ["out"]
    assert (out / MANIFEST).read_text() == "one"


def test_the_current_folder_may_be_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    stage(Path(), "one")
    assert (tmp_path / "here" / MANIFEST).read_text() == "one"


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"cannot write to .*/file/out: Not a directory"):
        stage(tmp_path / "file" / "out", "one")


def test_a_killed_build_leaves_nothing_that_looks_like_a_bundle(tmp_path: Path) -> None:
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom m4c.staging import staged\n"
        f"with staged(Path({str(tmp_path / 'out')!r}), {KEY!r}) as folder:\n"
        "    (folder / 'graphs').mkdir()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.rglob(MANIFEST)) == []
    stage(tmp_path / "out", "one")
    assert (tmp_path / "out" / MANIFEST).exists()


def test_the_schema_is_that_of_the_manifest(float_bundle: Path) -> None:
    assert json.loads((float_bundle / MANIFEST).read_text("utf-8"))["schema"] == bundle_module.SCHEMA
    assert isinstance(read_manifest(float_bundle), Manifest)
