from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import Bug
from m4c.weight_file import ALIGNMENT, WeightFile, sha256
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


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")  # the example of FIPS 180-4
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
