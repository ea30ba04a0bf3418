"""``m4c sensitivity``: matrices ranked by what rounding costs them, which is what it costs them in an export."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from m4c import cli
from m4c.numerics import sqnr
from m4c.read_back import read_back
from m4c.weights import Recipe, array
from tests.end_to_end.here import Export, capture_once, export

__all__ = ["capture_once", "export"]

TRAINED = Path(__file__).parents[1] / "assets" / "tiny_llama"


@dataclass(frozen=True)
class Said:
    """What the command left."""

    code: object
    out: str
    err: str

    @property
    def matrices(self) -> dict[str, dict[str, Any]]:
        """The rows of the JSON object by the names of the matrices, in their order."""
        return {row["name"]: row for row in json.loads(self.out)["matrices"]}


Rank = Callable[..., Said]


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rank:
    """Return a function that ranks with options, in this process."""

    def run(*options: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["m4c", "sensitivity", "--weights", str(TRAINED), *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Said(ended.value.code, said.out, said.err)

    return run


def test_the_figures_are_those_of_the_export(rank: Rank, export: Export) -> None:
    options = ("--quantize", "int4", "--group-size", "32", "--asymmetric", "--keep", "lm_head.*=int8")
    said = rank(*options, "--json")
    assert said.code == 0, said.err
    done = export("--weights", TRAINED, *options)
    assert done.code == 0, done.err
    made, true = read_back(done.out / done.graph.file.path), load_file(TRAINED / "model.safetensors")
    assert set(made) == set(said.matrices)
    assert len(made) == 29
    for name, row in said.matrices.items():
        assert row["sqnr_db"] == pytest.approx(sqnr(true[name], array(made[name])), abs=1e-3)
        assert row["shape"] == list(true[name].shape)
        assert (row["grid"], row["bits"]) == (
            ("uint8/128", 8 + 40 / 128) if name == "lm_head.weight" else ("uint4/32", 4 + 36 / 32)
        )
    weights = {name: true[name].size for name in made}
    bits = sum(said.matrices[name]["bits"] * size for name, size in weights.items()) / sum(weights.values())
    assert json.loads(said.out)["bits"] == pytest.approx(bits)


def test_the_worst_come_first_and_what_is_kept_is_left_out(rank: Rank) -> None:
    rows = rank("--json", "--keep", "*.mlp.*=float32").matrices
    figures = [row["sqnr_db"] for row in rows.values()]
    assert figures == sorted(figures)
    assert figures[0] < figures[-1]
    assert len(rows) == 4 * 4 + 1
    assert not any(".mlp." in name for name in rows)


def test_no_matrix_is_read_whole(rank: Rank, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(tensor: Recipe) -> None:
        raise AssertionError(f"{tensor.name} was read whole")

    monkeypatch.setattr(Recipe, "_whole", whole)
    said = rank("--json")
    assert said.code == 0, said.err
    assert len(said.matrices) == 29


def test_a_table_for_people(rank: Rank) -> None:
    said = rank("--method", "rtn", "--quantize", "int8-weights", "--group-size", "0")
    assert said.code == 0, said.err
    (line,) = [line for line in said.out.splitlines() if "lm_head.weight" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[:3] == ["lm_head.weight", "1024 × 256", "int8/channel"]
    assert cells[3].endswith(" dB")
    assert cells[4] == "8.12"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--method", "gptq"), "what gptq loses depends on samples"),
        (("--quantize", "none"), "weights alone are not rounded in float32"),
        (("--quantize", "int8"), "weights alone are not rounded in int8"),
        (("--group-size", "1024"), "none of the group sizes divides the 256 inputs of"),
        (("--keep", "*=float32"), "backbone has no matrices to round"),
        (("--keep", "x"), "--keep x has no precision"),
        (("nothing",), "there is no sub-model 'nothing'"),
    ],
)
def test_what_cannot_be(rank: Rank, options: tuple[str, ...], reason: str) -> None:
    said = rank(*options)
    assert (said.code, said.out) == (2, "")
    assert reason in said.err
    assert "\n  fix: " in said.err
    assert "Traceback" not in said.err
