from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import Bug
from m4c.hashing import sha256
from m4c.weight_file import ALIGNMENT, WeightFile
from m4c.weights import Array, lazy


def tensor(values: Array, dtype: ir.DataType | None = None) -> ir.LazyTensor:
    return lazy("w", dtype or ir.DataType.from_numpy(values.dtype), values.shape, lambda: values)


def test_offsets_are_pages_and_bytes_are_as_put(tmp_path: Path, rng: np.random.Generator) -> None:
    held = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 5), (1,), (50, 40), ())]
    with WeightFile(tmp_path / "w.bin") as file:
        places = [file.put(tensor(values)) for values in held]
    data = (tmp_path / "w.bin").read_bytes()
    assert [offset % ALIGNMENT for offset, _ in places] == [0] * 4
    for values, (offset, length) in zip(held, places, strict=True):
        assert data[offset : offset + length] == values.tobytes()


def test_equal_bytes_are_stored_once(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "w.bin") as file:
        first = file.put(tensor(np.arange(6, dtype=np.int32)))
        other = file.put(tensor(np.arange(7, dtype=np.int32)))
        again = file.put(tensor(np.arange(6, dtype=np.int32).reshape(2, 3)))
        turned = file.put(tensor(np.arange(6, dtype=np.int32).reshape(3, 2).T))
    assert first == again != other
    assert turned not in (first, other)
    assert (tmp_path / "w.bin").stat().st_size == 2 * ALIGNMENT + 24


@pytest.mark.parametrize(
    ("values", "dtype", "stored"),
    [
        (np.array([1, -2, 3], ml_dtypes.int4), ir.DataType.INT4, bytes([0xE1, 0x03])),
        (np.array([1.5, -2], ml_dtypes.bfloat16), ir.DataType.BFLOAT16, bytes.fromhex("c03f00c0")),
        (np.array([1.5, -2], np.float16), ir.DataType.FLOAT16, bytes.fromhex("003e00c0")),
        (np.array([True, False]), ir.DataType.BOOL, b"\1\0"),
        (np.zeros((0, 3), np.float32), ir.DataType.FLOAT, b""),
    ],
)
def test_every_dtype_as_onnx_stores_it(
    values: Array, dtype: ir.DataType, stored: bytes, tmp_path: Path
) -> None:
    with WeightFile(tmp_path / "w.bin") as file:
        assert file.put(tensor(values, dtype)) == (0, len(stored))
        external = ir.ExternalTensor(
            "w.bin", 0, len(stored), dtype, shape=ir.Shape(values.shape), name="w", base_dir=tmp_path
        )
        file.flush()
        if stored:
            np.testing.assert_array_equal(external.numpy(), values)
    assert (tmp_path / "w.bin").read_bytes() == stored


def test_empty_it_leaves_no_file(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "w.bin"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_failing_recipe_writes_nothing_and_may_be_left_out(tmp_path: Path) -> None:
    broken = lazy("w", ir.DataType.FLOAT, (2,), lambda: np.zeros(3, np.float32))
    with WeightFile(tmp_path / "w.bin") as file:
        with pytest.raises(Bug):
            file.put(broken)
        assert file.put(tensor(np.ones(2, np.float32))) == (0, 8)
    assert (tmp_path / "w.bin").read_bytes() == np.ones(2, np.float32).tobytes()


def test_an_error_leaves_no_half_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with WeightFile(tmp_path / "w.bin") as file:
            file.put(tensor(np.ones(2, np.float32)))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert not list(tmp_path.iterdir())


def in_parts(values: Array, step: int, dtype: ir.DataType | None = None) -> ir.LazyTensor:
    """Return a tensor that can only be read in parts."""

    def whole() -> Array:
        raise AssertionError

    kind = dtype or ir.DataType.from_numpy(values.dtype)
    return lazy("w", kind, values.shape, whole, lambda rows: values[rows], step=step)


@pytest.mark.parametrize("step", [1, 7, 50, 1000])
def test_what_is_put_in_pieces_is_as_if_put_whole(
    step: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    values = rng.standard_normal((50, 40)).astype(np.float32)
    done: list[int] = []
    with WeightFile(tmp_path / "w.bin") as file:
        place = file.put(in_parts(values, step), done.append)
        assert file.put(tensor(values)) == place == (0, 8000)
    assert (tmp_path / "w.bin").read_bytes() == values.tobytes()
    assert sum(done[: -(-50 // step)]) == 8000


def test_nibbles_in_pieces(tmp_path: Path) -> None:
    values = np.arange(-8, 8).reshape(8, 2).astype(ml_dtypes.int4)
    with WeightFile(tmp_path / "w.bin") as file:
        assert file.put(in_parts(values, 3, ir.DataType.INT4)) == (0, 8)
    assert (tmp_path / "w.bin").read_bytes() == bytes.fromhex("98badcfe10325476")


def test_pieces_without_a_step_are_of_some_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr("m4c.weight_file.PIECE", 1000)
    values, read = rng.standard_normal((50, 40)).astype(np.float32), list[slice]()

    def some(rows: slice) -> Array:
        read.append(rows)
        return values[rows]

    with WeightFile(tmp_path / "w.bin") as file:
        file.put(lazy("w", ir.DataType.FLOAT, (50, 40), lambda: values, some))
    assert sorted((rows.start, rows.stop) for rows in read) == [(i, min(i + 6, 50)) for i in range(0, 50, 6)]
    assert (tmp_path / "w.bin").read_bytes() == values.tobytes()


def test_a_piece_that_fails_takes_the_others_back(tmp_path: Path) -> None:
    values = np.ones((50, 40), np.float32)

    def some(rows: slice) -> Array:
        return values[rows] if rows.start < 40 else values[:1]

    broken = lazy("w", ir.DataType.FLOAT, (50, 40), lambda: values, some, step=5)
    with WeightFile(tmp_path / "w.bin") as file:
        first = file.put(tensor(np.zeros(3, np.float32)))
        with pytest.raises(Bug):
            file.put(broken)
        file.flush()
        assert (tmp_path / "w.bin").stat().st_size == 12
        assert file.put(tensor(values)) == (ALIGNMENT, 8000)
    assert first == (0, 12)
    assert (tmp_path / "w.bin").read_bytes()[ALIGNMENT:] == values.tobytes()


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")  # the example of FIPS 180-4
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
