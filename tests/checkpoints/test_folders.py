"""Which file of a folder is the checkpoint: m4c/checkpoints/__init__.py."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from m4c.checkpoints import open_checkpoint
from m4c.errors import CheckpointError, UsageError
from m4c.weights import array


def put(path: Path, **values: float) -> None:
    path.parent.mkdir(exist_ok=True)
    save_file({name: np.array([value], np.float32) for name, value in values.items()}, path)


def test_safetensors_come_before_torch(tmp_path: Path) -> None:
    put(tmp_path / "m.safetensors", w=1)
    torch.save({"w": torch.tensor([2.0])}, tmp_path / "m.pt")
    assert array(open_checkpoint(tmp_path)["w"]).tolist() == [1]


def test_the_parts_of_a_diffusers_folder_become_prefixes(tmp_path: Path) -> None:
    put(tmp_path / "unet" / "m.safetensors", w=1)
    put(tmp_path / "vae" / "m.safetensors", w=2)
    put(tmp_path / "safety_checker" / "m.safetensors", w=3)
    found = open_checkpoint(tmp_path)
    assert {name: array(tensor).item() for name, tensor in found.items()} == {"unet.w": 1, "vae.w": 2}


def test_two_checkpoints_are_one_too_many(tmp_path: Path) -> None:
    put(tmp_path / "a.safetensors", w=1)
    put(tmp_path / "b.safetensors", w=2)
    with pytest.raises(UsageError, match=r"several checkpoints: a\.safetensors, b\.safetensors"):
        open_checkpoint(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no weights at"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(UsageError, match="has no weights in it") as caught:
        open_checkpoint(tmp_path)
    assert "safetensors" in caught.value.fix


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100), b"\x80\x04K\x01."])
def test_what_no_format_begins_like(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint of a known format"):
        open_checkpoint(path)
