"""A store gives back what was kept, whole or not at all: whoever altered it, and whenever an export was killed."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m4c.bundle import FileRecord, SubmodelRecord, read_manifest, record_file
from m4c.errors import UsageError
from m4c.store import Folder, Remote, Store, open_store

KEY = "0" * 64


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Return an empty store of each kind."""
    if request.param == "folder":
        yield Store(Folder(tmp_path / "store"))
        return
    url = f"memory://{tmp_path.name}"
    yield Store(Remote(url))


def kept(folder: Path, name: str = "part", content: bytes = b"numbers") -> SubmodelRecord:
    """Write a file into the bundle at ``folder``, and return a record of a sub-model that has it."""
    path = folder / "graphs" / name / "weights.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return SubmodelRecord(name, "random", "none", (record_file(folder, path),), {}, ())


def test_a_real_sub_model_comes_back_as_it_was(store: Store, float_bundle: Path, tmp_path: Path) -> None:
    for record in read_manifest(float_bundle).submodels:
        key = record.name.ljust(64, "0")
        assert store.find(key, tmp_path / "new") is None
        store.keep(key, {"seed": 0}, record, float_bundle)
        assert store.find(key, tmp_path / "new") == record
        for file in record.all_files:
            assert (tmp_path / "new" / file.path).read_bytes() == (float_bundle / file.path).read_bytes()


def test_what_is_in_the_bundle_that_is_replaced_is_not_copied(tmp_path: Path) -> None:
    store, old, new = Store(Folder(tmp_path / "store")), tmp_path / "old", tmp_path / "new"
    record = kept(old)
    (file,) = record.files
    store.keep(KEY, {}, record, old)
    assert store.find(KEY, new, old) == record
    assert (new / file.path).samefile(old / file.path)
    (new / file.path).unlink()
    (old / file.path).write_bytes(b"altered")
    assert store.find(KEY, new, old) == record
    assert (new / file.path).read_bytes() == b"numbers"


def test_what_changed_is_told(store: Store, tmp_path: Path) -> None:
    record = kept(tmp_path)
    assert store.changed("part", {"seed": 1}) == ()
    store.keep(KEY, {"seed": 1, "target": "a"}, record, tmp_path)
    assert store.changed("part", {"seed": 1, "target": "b", "new": None}) == ("target",)


@pytest.mark.parametrize("damage", ["altered", "cut", "missing", "record", "no json"])
def test_what_is_damaged_was_never_kept(damage: str, tmp_path: Path) -> None:
    store, record = Store(Folder(tmp_path / "store")), kept(tmp_path / "old")
    store.keep(KEY, {}, record, tmp_path / "old")
    path = tmp_path / "store" / "objects" / record.files[0].sha256
    text = tmp_path / "store" / "records" / f"{KEY}.json"
    if damage == "missing":
        path.unlink()
    elif damage in ("altered", "cut"):
        path.unlink()
        path.write_bytes(b"Numbers" if damage == "altered" else b"num")
    else:
        text.write_text('{"name": 1}' if damage == "record" else "{")
    assert store.find(KEY, tmp_path / "new") is None
    assert not [file for file in (tmp_path / "new").rglob("*") if file.is_file()]
    store.keep(KEY, {}, record, tmp_path / "old")
    assert store.find(KEY, tmp_path / "new") == record


@pytest.mark.parametrize("path", ["../outside", "{}/outside", "graphs/../../outside"])
def test_a_record_cannot_write_outside_of_the_bundle(path: str, tmp_path: Path) -> None:
    store, record = Store(Folder(tmp_path / "store")), kept(tmp_path / "old")
    store.keep(KEY, {}, record, tmp_path / "old")
    text = tmp_path / "store" / "records" / f"{KEY}.json"
    text.write_text(text.read_text().replace(record.files[0].path, path.format(tmp_path)))
    (tmp_path / "new").mkdir()
    assert store.find(KEY, tmp_path / "new") is None
    assert not list(tmp_path.rglob("outside"))


def test_places_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="it is a file"):
        open_store(str(tmp_path / "file"))
    with pytest.raises(UsageError, match="there is no store at nowhere://x"):
        open_store("nowhere://x")


def test_a_kill_leaves_no_wrong_entry(tmp_path: Path) -> None:
    """Sixty processes keep sub-models and are killed at any moment: what is found afterwards is what was kept."""
    rng = np.random.default_rng(0)
    place, found = tmp_path / "store", 0
    contents = [rng.bytes(200_000) for _ in range(4)]
    records = [kept(tmp_path / str(n), f"part{n}", content) for n, content in enumerate(contents)]
    for _ in range(60):
        child = os.fork()
        if child == 0:  # nothing but files is touched here
            try:
                store = Store(_Copying(place))
                while True:
                    for number, record in enumerate(records):
                        store.keep(str(number), {}, record, tmp_path / str(number))
                    shutil.rmtree(place / "objects")
                    shutil.rmtree(place / "records")
            finally:
                os._exit(0)
        time.sleep(float(rng.uniform(0.002, 0.03)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        store = Store(Folder(place))
        for number, content in enumerate(contents):
            new = tmp_path / "new"
            back = store.find(str(number), new)
            if back is not None:
                found += 1
                assert (new / back.files[0].path).read_bytes() == content
    assert found


class _Copying(Folder):
    """A place to which files are copied a little at a time, as to another disk: there is much time to be killed in."""

    def send(self, path: Path, name: str) -> None:
        if not (self._path / name).is_file():
            partial = self._partial(name)
            with path.open("rb") as source, partial.open("wb") as target:
                while piece := source.read(4096):
                    target.write(piece)
            partial.replace(self._path / name)


def test_equal_files_of_two_sub_models_are_one_object(tmp_path: Path) -> None:
    store = Store(Folder(tmp_path / "store"))
    for name in ("a", "b"):
        store.keep(name, {}, kept(tmp_path / "old", name), tmp_path / "old")
    assert len(list((tmp_path / "store" / "objects").iterdir())) == 1
    record = store.find("b", tmp_path / "new")
    assert record is not None
    assert record == replace(record, name="b")
    assert isinstance(record.files[0], FileRecord)
