"""Samples in files."""

from pathlib import Path

import numpy as np
import pytest

from m4c.errors import UsageError
from m4c.samples import open_samples


def test_a_folder_is_read_in_the_order_of_names_and_again(tmp_path: Path) -> None:
    for name in ("b", "a"):
        np.savez(tmp_path / f"{name}.npz", x=np.full(2, ord(name)), y=np.zeros((1, 3), np.float32))
    (tmp_path / "notes.txt").write_text("not a sample")
    samples = open_samples(tmp_path)
    assert len(samples) == 2
    for _ in range(2):
        assert [int(s["x"][0]) for s in samples] == [ord("a"), ord("b")]
    assert next(iter(samples))["y"].shape == (1, 3)


def test_one_file_is_one_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "only.npz", x=np.arange(3))
    (sample,) = open_samples(tmp_path / "only.npz")
    np.testing.assert_array_equal(sample["x"], [0, 1, 2])


def test_files_are_opened_only_when_their_turn_comes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    (tmp_path / "b.npz").write_bytes(b"broken")
    samples = iter(open_samples(tmp_path))
    next(samples)
    with pytest.raises(UsageError, match=r"cannot be read as arrays(.|\n)*b\.npz(.|\n)*fix:"):
        next(samples)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match="allow_pickle=False"):
        list(open_samples(tmp_path))


def test_missing_paths_empty_folders_and_bare_arrays_say_how_samples_look(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no samples here(.|\n)*numpy\.savez"):
        open_samples(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"no \.npz file(.|\n)*numpy\.savez"):
        open_samples(tmp_path)
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(UsageError, match="one array without a name"):
        list(open_samples(tmp_path / "a.npy"))
