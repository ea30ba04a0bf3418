import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from m4c.checkpoints import open_checkpoint
from m4c.errors import CheckpointError
from m4c.weights import array

STATE = {"w": torch.arange(6.0).reshape(2, 3), "half": torch.tensor([1.5, 2], dtype=torch.bfloat16)}


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin"])
def test_a_state_dict(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / name, OrderedDict(STATE))
    for given in (path, tmp_path):
        found = open_checkpoint(given)
        assert {n: (t.dtype, list(t.shape)) for n, t in found.items()} == {
            "w": (ir.DataType.FLOAT, [2, 3]),
            "half": (ir.DataType.BFLOAT16, [2]),
        }
        assert all(isinstance(tensor, ir.LazyTensor) for tensor in found.values())
        assert array(found["w"]).tolist() == [[0, 1, 2], [3, 4, 5]]
        assert array(found["half"]).tolist() == [1.5, 2]


def test_the_file_is_mapped_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", STATE)
    tensor = open_checkpoint(path)["w"]
    data = path.read_bytes()
    place = data.index(STATE["w"].numpy().tobytes())
    with path.open("r+b") as file:
        file.seek(place)
        file.write(np.float32(7).tobytes())
    assert array(tensor)[0, 0] == 7


@pytest.mark.parametrize(
    "nested",
    [
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"lr": 0.1}},
        {"module": STATE},
        {"model": {"state_dict": STATE}},
        {"state_dict": {"module": STATE}},
    ],
)
def test_a_state_dict_inside_a_training_state(nested: Any, tmp_path: Path) -> None:
    assert set(open_checkpoint(saved(tmp_path / "m.pt", nested))) == set(STATE)


def test_views_parameters_and_scalars(tmp_path: Path) -> None:
    state = {
        "turned": STATE["w"].T,
        "tied": STATE["w"],
        "parameter": nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 2),
    }
    found = open_checkpoint(saved(tmp_path / "m.pt", state))
    for name, tensor in state.items():
        np.testing.assert_array_equal(array(found[name]), tensor.detach().numpy())


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    pickle.loads(pickle.dumps(Runs(trap)))
    assert trap.is_dir()  # the trap works
    trap.rmdir()
    path = saved(tmp_path / "m.pt", {**STATE, "x": Runs(trap)})
    with pytest.raises(CheckpointError, match="not readable as plain weights") as caught:
        open_checkpoint(path)
    assert caught.value.where == str(path)
    assert "m4c runs no code from a file" in caught.value.fix
    assert not trap.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not readable as plain weights"):
        open_checkpoint(saved(tmp_path / "m.pt", nn.Linear(2, 2)))


def test_the_format_before_1_6_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", STATE, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"the format of torch before 1\.6") as caught:
        open_checkpoint(path)
    assert "torch.save" in caught.value.fix


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([STATE["w"]], "holds a list, not a mapping"),
        (STATE["w"], "holds a Tensor, not a mapping"),
        ({"w": STATE["w"], "epoch": 3}, "epoch is a int, not a tensor"),
        ({"w": [1.0, 2.0]}, "w is a list, not a tensor"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, r"w is a torch\.complex64 tensor"),
        ({"w": torch.eye(2).to_sparse()}, r"of layout torch\.sparse_coo"),
    ],
)
def test_what_is_not_a_mapping_of_names_to_tensors(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(saved(tmp_path / "m.pt", value))
    assert caught.value.fix


def test_damaged_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", STATE)
    data = path.read_bytes()
    for cut in (4, 64, 400, len(data) - 30):
        path.write_bytes(data[:cut])
        with pytest.raises(CheckpointError, match="not readable as plain weights"):
            open_checkpoint(path)


def test_another_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as file:
        file.writestr("hello", "world")
    with pytest.raises(CheckpointError, match="not readable as plain weights"):
        open_checkpoint(tmp_path / "m.pt")
