"""Motion recordings: files of either kind, windows, and the refusals."""

from pathlib import Path

import numpy as np
import pytest

from m4c.errors import UsageError
from m4c.host.imu import imu_windows, read_imu


def test_csv_and_npy_give_the_same_channels(tmp_path: Path, rng: np.random.Generator) -> None:
    recording = rng.standard_normal((30, 6)).astype(np.float32)
    np.savetxt(tmp_path / "a.csv", recording, delimiter=",", header="ax,ay,az,gx,gy,gz", comments="")
    np.savetxt(tmp_path / "bare.csv", recording, delimiter=",")
    np.save(tmp_path / "a.npy", recording)
    np.save(tmp_path / "turned.npy", recording.T)
    for name in ("a.csv", "bare.csv", "a.npy", "turned.npy"):
        made = read_imu(tmp_path / name)
        assert made.dtype == np.float32
        np.testing.assert_allclose(made, recording.T, rtol=1e-6)


def test_windows_are_cut_in_order(rng: np.random.Generator) -> None:
    recording = rng.standard_normal((6, 4500))
    first, second = imu_windows(recording)
    assert (first.shape, first.dtype) == ((1, 6, 2000), np.dtype("float32"))
    np.testing.assert_array_equal(second[0], recording[:, 2000:4000].astype(np.float32))
    with pytest.raises(UsageError, match="1999 samples, one window has 2000"):
        imu_windows(recording[:, :1999])


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.txt", "1,2", "not a motion recording: .txt"),
        ("a.csv", "1,2,3\n4,5,6\n", "not 6 channels"),
        ("a.csv", "1,2,3,4,5,6\n1,2,3,4,5\n", "5 columns, the lines before have 6"),
        ("a.csv", "1,2,3,4,5,6\n1,2,x,4,5,6\n", "could not convert"),
        ("a.csv", "1,2,3,4,5,6\n1,2,nan,4,5,6\n", "not numbers"),
        ("a.csv", "", "not 6 channels"),
        ("a.npy", "1,2", "cannot read"),
    ],
)
def test_refuses_with_the_place(name: str, content: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UsageError, match=what) as caught:
        read_imu(path)
    assert str(path) in str(caught.value)
    assert caught.value.fix


def test_an_array_of_text_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    with pytest.raises(UsageError, match="does not hold numbers"):
        read_imu(tmp_path / "text.npy")
    with pytest.raises(UsageError, match="No such file"):
        read_imu(tmp_path / "none.csv")
