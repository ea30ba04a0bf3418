"""The journal of a weights file: what is whole is not read again, what is not is, and the bytes are those of one go."""

import json
from pathlib import Path

import numpy as np
import pytest

from m4c.errors import UsageError
from m4c.journal import SUFFIX, Entry, Journal, held
from m4c.weight_file import WeightFile
from m4c.weights import Array, Recipe, lazy
from tests.another_process import holding
from tests.test_weight_file import tensor

KEYS = ("a", "b", "c", "a again", "d")
HELD = [np.full((3, 700), value, np.float32) for value in (1, 2, 3, 1, 4)]


class Interrupted(Exception):
    """Ends an export early."""


def counted(values: Array, reads: list[str], key: str) -> Recipe:
    """Return a recipe that notes when it is read."""

    def read() -> Array:
        reads.append(key)
        return values

    return lazy(key, tensor(values).dtype, values.shape, read)


def export(path: Path, count: int) -> list[str]:
    """Put the first ``count`` tensors, end early if that is not all, and return which ones were read."""
    reads: list[str] = []
    try:
        with WeightFile(path, journaled=True) as file:
            for key, values in list(zip(KEYS, HELD, strict=True))[:count]:
                file.put(counted(values, reads, key), key=key)
            if count < len(KEYS):
                raise Interrupted
    except Interrupted:
        pass
    return reads


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """Return the bytes of a file that was written in one go."""
    assert export(tmp_path / "whole.bin", len(KEYS)) == list(KEYS)
    return (tmp_path / "whole.bin").read_bytes()


@pytest.mark.parametrize("count", range(len(KEYS)))
def test_what_was_put_is_not_read_again(tmp_path: Path, whole: bytes, count: int) -> None:
    path = tmp_path / "w.bin"
    export(path, count)
    assert export(path, len(KEYS)) == list(KEYS[count:])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("tail", [b"\1" * 5000, b"\1"])
def test_a_tensor_that_was_cut_short_is_written_again(tmp_path: Path, whole: bytes, tail: bytes) -> None:
    path = tmp_path / "w.bin"
    export(path, 2)
    with path.open("ab") as file:
        file.write(tail)
    assert export(path, len(KEYS)) == list(KEYS[2:])
    assert path.read_bytes() == whole


def test_altered_bytes_are_written_again_with_all_that_follows(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "w.bin"
    export(path, 3)
    data = bytearray(path.read_bytes())
    data[len(HELD[0].tobytes()) // 4096 * 4096 + 4096] ^= 1  # the first byte of the second tensor
    path.write_bytes(data)
    assert export(path, len(KEYS)) == list(KEYS[1:])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b'{"key": "c", "off', b"\xff\n", b"{}\n", b'{"key": 3}\n'])
def test_lines_that_are_not_whole_do_not_count(tmp_path: Path, whole: bytes, damage: bytes) -> None:
    path = tmp_path / "w.bin"
    export(path, 2)
    with path.with_name("w.bin" + SUFFIX).open("ab") as file:
        file.write(damage)
    assert export(path, len(KEYS)) == list(KEYS[2:])
    assert path.read_bytes() == whole
    lines = path.with_name("w.bin" + SUFFIX).read_bytes().splitlines()
    assert [json.loads(line)["key"] for line in lines] == list(KEYS)


def test_a_journal_without_its_file_counts_nothing(tmp_path: Path) -> None:
    assert held(tmp_path / "none.bin", [Entry("a", 0, 1, "00")]) == []
    export(tmp_path / "w.bin", 2)
    (tmp_path / "w.bin").unlink()
    assert export(tmp_path / "w.bin", 2) == ["a", "b"]


def test_entries_beyond_the_end_of_the_file_do_not_count(tmp_path: Path) -> None:
    export(tmp_path / "w.bin", 2)
    journal = Journal(tmp_path / "w.bin")
    journal.close()
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes()[:-1])
    assert held(tmp_path / "w.bin", journal.entries) == journal.entries[:1]


def test_only_one_process_writes(tmp_path: Path) -> None:
    with (
        holding(
            "from pathlib import Path",
            "from m4c.journal import Journal",
            f"journal = Journal(Path({str(tmp_path / 'w.bin')!r}))",
        ),
        pytest.raises(UsageError, match=r"another export still writes these weights\n.*\n  fix: "),
    ):
        Journal(tmp_path / "w.bin")
    Journal(tmp_path / "w.bin").close()
