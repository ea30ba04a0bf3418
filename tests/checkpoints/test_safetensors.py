import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from m4c.checkpoints import open_checkpoint
from m4c.checkpoints.safetensors import DTYPES
from m4c.errors import CheckpointError
from m4c.weights import array, divisible, part


def written(path: Path, header: dict[str, Any], data: bytes) -> Path:
    """Write a file by the format's definition: length, header, data."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def sharded(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
    """Write a checkpoint of two files with an index, which ``change`` may alter."""
    save_file({"a": np.arange(3.0)}, folder / "model-1.safetensors")
    save_file({"b": np.arange(4.0), "c": np.arange(5.0)}, folder / "model-2.safetensors")
    table = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
    index: dict[str, Any] = {"metadata": {}, "weight_map": table}
    change(index)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return path


def test_a_single_file(tmp_path: Path, rng: np.random.Generator) -> None:
    held: dict[str, np.ndarray] = {
        "matrix": rng.standard_normal((3, 5)).astype(np.float32),
        "half": rng.standard_normal(7).astype(np.float16),
        "double": rng.standard_normal(2),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "ids": np.arange(3, dtype=np.int64),
        "mask": np.array([True, False]),
        "bytes": np.array([1, 255], np.uint8),
    }
    save_file(held, tmp_path / "m.safetensors", metadata={"format": "pt"})
    for path in (tmp_path, tmp_path / "m.safetensors"):
        found = open_checkpoint(path)
        assert set(found) == set(held)
        for name, values in held.items():
            assert isinstance(found[name], ir.LazyTensor)
            assert (found[name].name, tuple(found[name].shape)) == (name, values.shape)
            read = array(found[name])
            assert read.dtype == values.dtype
            np.testing.assert_array_equal(read, values)


def test_bfloat16_as_torch_writes_it(tmp_path: Path) -> None:
    held = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    save_torch({"w": held}, tmp_path / "m.safetensors")
    read = array(open_checkpoint(tmp_path)["w"])
    assert read.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read.astype(np.float32), held.float().numpy())


def test_opening_reads_headers_only(tmp_path: Path) -> None:
    save_file({"w": np.arange(6, dtype=np.float32)}, tmp_path / "m.safetensors")
    tensor = open_checkpoint(tmp_path)["w"]
    with (tmp_path / "m.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(9).tobytes())
    assert array(tensor).tolist() == [0, 1, 2, 3, 4, 9]


def test_data_that_is_not_aligned(tmp_path: Path) -> None:
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    path = written(tmp_path / "m.safetensors", header, b"\7" + np.array([1.5, 2], "<f4").tobytes())
    assert array(open_checkpoint(path)["b"]).tolist() == [1.5, 2]


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_of_the_size_that_the_format_says(name: str, tmp_path: Path) -> None:
    size = 1 if name == "BOOL" else int(name.lstrip("BFIU")) // 8
    header = {"w": {"dtype": name, "shape": [2], "data_offsets": [0, 2 * size]}}
    tensor = open_checkpoint(written(tmp_path / "m.safetensors", header, bytes(2 * size)))["w"]
    assert tensor.nbytes == 2 * size
    assert not array(tensor).any()


@pytest.mark.parametrize(
    "damage",
    [lambda d: d[:-1], lambda d: d[:20], lambda d: b"", lambda d: b"\xff" * 8 + d[8:], lambda d: d + b"x"],
)
def test_a_damaged_file(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": np.arange(6, dtype=np.float32)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="not a readable safetensors file") as caught:
        open_checkpoint(path)
    assert caught.value.where == str(path)
    assert caught.value.fix


HUGE = 1 << 60


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]},
        {"dtype": "F32", "shape": [HUGE, HUGE], "data_offsets": [0, 4]},  # overflows 64 bits
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [HUGE, HUGE + 4]},
    ],
)
def test_a_header_that_lies_about_sizes(entry: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", {"w": entry}, bytes(4))
    with pytest.raises(CheckpointError, match="not a readable safetensors file") as caught:
        open_checkpoint(path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("length", [1 << 62, 1 << 32, 101_000_000])
def test_a_header_of_endless_length(length: int, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{")
        file.truncate(1 << 36)  # sparse
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        open_checkpoint(path)


def test_a_header_of_endless_depth(tmp_path: Path) -> None:
    text = b'{"w": ' + b"[" * 500_000
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        open_checkpoint(path)


def test_a_part_that_is_cut_short(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    part = tmp_path / "model-2.safetensors"
    part.write_bytes(part.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="not a readable safetensors file") as caught:
        open_checkpoint(index)
    assert caught.value.where == str(part)


def test_a_part_that_is_missing(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors is missing") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.where == str(index)


def test_a_dtype_that_m4c_does_not_read(tmp_path: Path) -> None:
    header = {"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
    path = written(tmp_path / "m.safetensors", header, bytes(2))
    with pytest.raises(CheckpointError, match="w has dtype F8_E4M3") as caught:
        open_checkpoint(path)
    assert "BF16" in caught.value.fix


def test_several_files_with_an_index(tmp_path: Path) -> None:
    for path in (sharded(tmp_path), tmp_path):
        found = open_checkpoint(path)
        assert {name: array(tensor).size for name, tensor in found.items()} == {"a": 3, "b": 4, "c": 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i["weight_map"].update(a="../model-1.safetensors"), "names a file outside its folder"),
        (lambda i: i["weight_map"].update(a="/etc/passwd"), "names a file outside its folder"),
        (lambda i: i["weight_map"].update(a=".."), r"\.\. is missing"),
        (lambda i: i["weight_map"].update(a="model-3.safetensors"), r"model-3\.safetensors is missing"),
        (lambda i: i["weight_map"].update(d="model-1.safetensors"), r"d is not in model-1\.safetensors"),
        (lambda i: i["weight_map"].update(a=1), "has no weight_map"),
        (lambda i: i.update(weight_map=["a"]), "has no weight_map"),
        (lambda i: i.clear(), "has no weight_map"),
    ],
)
def test_an_index_that_lies(change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path) -> None:
    path = sharded(tmp_path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert caught.value.where == str(path)
    assert caught.value.fix


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff\xfe", b"{"])
def test_an_index_that_is_none(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors.index.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match="has no weight_map"):
        open_checkpoint(tmp_path)


def test_rows_are_read_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    held: dict[str, np.ndarray] = {
        "matrix": rng.standard_normal((30, 5)).astype(np.float32),
        "half": rng.standard_normal((30, 2, 3)).astype(np.float16),
        "vector": np.arange(30),
        "narrow": np.zeros((30, 0), np.float32),
        "scalar": np.array(2.5, np.float32),
    }
    save_file(held, tmp_path / "m.safetensors")
    found = dict(open_checkpoint(tmp_path))
    assert not divisible(found.pop("scalar"))
    for name, tensor in found.items():
        assert divisible(tensor)
        for rows in (slice(0, 30), slice(0, 1), slice(29, 30), slice(7, 19)):
            np.testing.assert_array_equal(part(tensor, rows), held[name][rows], strict=True)


def test_who_writes_to_what_was_read_does_not_write_to_the_file(tmp_path: Path) -> None:
    save_file({"a": np.zeros((4, 4), np.float32)}, tmp_path / "m.safetensors")
    tensor = open_checkpoint(tmp_path)["a"]
    part(tensor, slice(1, 3))[:] = 7
    array(tensor)[:] = 7
    assert not array(tensor).any()
