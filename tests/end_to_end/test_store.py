"""An export with a store: what did not change is taken from it without torch, what did is compiled, and it is said why."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from m4c.checkpoints.random import random_weights
from m4c.compile import compile_bundle
from m4c.hashing import sha256
from m4c.models import build, shipped
from m4c.progress import Silent
from m4c.recipe import Hashes, recipe
from m4c.request import Request
from m4c.targets.profile import load_target
from m4c.weights import array
from tests.bundles import SMALL, digests

CPU = load_target("cpu")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Write a checkpoint for each of two sub-models."""
    for name in SMALL:
        weights = random_weights(build(name, "m4-nano").source, 0)
        (tmp_path / "weights" / name).mkdir(parents=True)
        save_file(
            {key: array(held) for key, held in weights.items()},
            tmp_path / "weights" / name / "model.safetensors",
        )
    return tmp_path / "weights"


def test_only_what_changed_is_compiled(checkpoints: Path, tmp_path: Path) -> None:
    request, store = Request(CPU, SMALL, weights=checkpoints), str(tmp_path / "store")

    def lines(request: Request, out: str = "out") -> list[str]:
        told: list[str] = []
        compile_bundle(request, tmp_path / out, Silent(), 1, store, told.append)
        return told

    assert lines(request) == [f"{name}: compiled, not in the store yet" for name in SMALL]
    first = digests(tmp_path / "out")
    assert lines(request) == [f"{name}: taken from the store" for name in SMALL]
    assert digests(tmp_path / "out") == first
    assert lines(request, "elsewhere") == [f"{name}: taken from the store" for name in SMALL]
    assert digests(tmp_path / "elsewhere") == first
    path = checkpoints / "projection" / "model.safetensors"
    altered = {name: np.asarray(value * 1.5) for name, value in load_file(path).items()}
    save_file(altered, path)
    assert lines(request) == ["projection: compiled, another weights", "gen_dec: taken from the store"]
    assert lines(Request(CPU, SMALL, weights=checkpoints, seed=1)) == [
        f"{name}: compiled, another seed" for name in SMALL
    ]
    other = Request(load_target("xnnpack"), SMALL, weights=checkpoints)
    assert lines(other) == [f"{name}: compiled, another seed and target" for name in SMALL]


def test_a_context_is_for_the_sub_model_with_a_cache_alone() -> None:
    whole = ("projection", "backbone")
    short = Request(CPU, whole, context_length=64)
    assert recipe(short, "projection", Hashes()) == recipe(Request(CPU, whole), "projection", Hashes())
    assert recipe(short, "backbone", Hashes()) != recipe(Request(CPU, whole), "backbone", Hashes())


def test_the_memory_of_hashes_notices_a_change(tmp_path: Path) -> None:
    path, known = tmp_path / "file", Hashes(tmp_path / "hashes")
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    assert known.file(path) == sha256(path)
    (note,) = (tmp_path / "hashes").iterdir()
    note.write_text("0" * 64)
    assert known.file(path) == "0" * 64, "it was looked up"
    path.write_bytes(b"two")
    assert known.file(path) == sha256(path)


def test_a_rebuild_loads_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom m4c.cli import main\n"
        f"sys.argv = ['m4c', 'export', 'projection', '--store', {str(tmp_path / 'store')!r}, '-o', {str(tmp_path / 'out')!r}]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "print({'torch', 'onnxruntime', 'numba'} & set(sys.modules), file=sys.stderr)"
    )
    compile_bundle(
        Request(CPU, ("projection",), weights=shipped.WEIGHTS),
        tmp_path / "first",
        Silent(),
        1,
        str(tmp_path / "store"),
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "projection: taken from the store" in done.stderr
    assert done.stderr.splitlines()[-1] == "set()"
