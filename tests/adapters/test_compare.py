"""What ``m4c adapters compare`` prints is what the three builds do, and its advice follows from that."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from m4c import cli
from m4c.adapters.compare import BESIDE, INTO_BASE, MERGED, Comparison, Figures, Way, advice, compare
from m4c.adapters.given import Adapters, Given
from m4c.assemble import open_sources
from m4c.numerics import sqnr
from m4c.progress import Silent
from m4c.read_back import read_back
from m4c.request import Request
from m4c.targets.profile import load_target
from m4c.weights import array
from tests.adapters.peft_folders import trained
from tests.end_to_end.here import capture_once

__all__ = ["capture_once"]

GRAPH = "backbone/decoder"
FILE = Path("graphs") / f"{GRAPH}.onnx"
CHANGED = "model.layers.1.self_attn.v_proj.weight"
SAME = "model.layers.1.mlp.up_proj.weight"


def test_the_figures_are_those_of_what_was_built(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda folder, **options: None)
    merged = trained(tmp_path / "a", checkpoint, target_modules=["q_proj", "v_proj"])
    request = Request(load_target("cpu"), (GRAPH,), weights=checkpoint, precision="int4")
    given = Adapters((Given("a", str(tmp_path / "a")),), "separate")
    found = compare(request, given, tmp_path, 1, Silent())

    source = open_sources(request, "backbone")[2][0]
    inputs = source.sample(0)
    expected = source.with_weights({n: ir.tensor(w.copy(), name=n) for n, w in merged.items()}).run(inputs)
    without = source.run(inputs)
    assert found.without_db[GRAPH] == pytest.approx(
        min(sqnr(expected[n], without[n]) for n in expected), abs=0.01
    )
    changes = {name: values - array(source.weight(name)) for name, values in merged.items()}
    folders = {MERGED: "merged", BESIDE: "base", INTO_BASE: "again"}
    assert [way.name for way in found.ways] == list(folders)
    for way in found.ways:
        folder = tmp_path / folders[way.name]
        adapter, *_ = [*folder.glob("adapters/*/*.onnx_adapter"), None]
        stored = {name: array(weight) for name, weight in read_back(folder / FILE).items()}
        if adapter:
            stored = {name: values + changes[name] for name, values in stored.items()}
        made = source.with_weights({n: ir.tensor(w.copy(), name=n) for n, w in stored.items()}).run(inputs)
        error = min(sqnr(expected[name], made[name]) for name in expected)
        assert way.sqnr_db == pytest.approx(error, abs=0.01)
        assert way.sqnr_db > found.without_db[GRAPH]
        files = [
            folder / FILE,
            folder / "graphs" / "backbone" / "weights.bin",
            *([adapter] if adapter else []),
        ]
        assert way.bytes == sum(file.stat().st_size for file in files)
        assert way.further_bytes == (adapter.stat().st_size if adapter else way.bytes)
        assert way.milliseconds > 0

    base, again = (read_back(tmp_path / folder / FILE) for folder in ("base", "again"))
    assert sqnr(array(base[CHANGED]) + changes[CHANGED], array(again[CHANGED])) > 15
    assert sqnr(array(base[CHANGED]), array(again[CHANGED])) < 15
    np.testing.assert_allclose(array(again[SAME]), array(base[SAME]), rtol=1e-6)


Ran = tuple[object, str, str]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Return a function that runs the command; it returns the exit code, stdout and stderr."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["m4c", "adapters", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def test_an_adapter_without_slots_is_compared_merged(
    ran: Callable[..., Ran], checkpoint: Path, tmp_path: Path
) -> None:
    trained(tmp_path / "a", checkpoint, target_modules=["q_proj"], use_dora=True)
    options = ("--weights", checkpoint, "--submodel", GRAPH, "--format", "tflite", "--calls", "1")
    code, out, err = ran(tmp_path / "a", *options, "--json")
    assert code == 0, err
    said: dict[str, Any] = json.loads(out)
    assert [way["name"] for way in said["ways"]] == [MERGED, INTO_BASE]
    assert all(way["graphs"][GRAPH]["sqnr_db"] > 10 for way in said["ways"])
    assert "the lengths of rows (DoRA)" in said["not_beside"]
    assert said["not_beside"] in said["advice"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--quantize", "none"), "float32 weights are not compared"),
        (("--method", "gptq"), "gptq needs samples"),
        (("--submodel", "nope"), "there is no sub-model 'nope'"),
        ((), "there is no adapter backbone at"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    ran: Callable[..., Ran], tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    code, out, err = ran(tmp_path / "none", *options)
    assert (code, out) == (2, "")
    assert reason in err
    assert "  fix: " in err


def way(name: str, decibels: float, milliseconds: float = 10.0, further: int = 50_000_000) -> Way:
    return Way(name, 50_000_000, further, {GRAPH: Figures(decibels, milliseconds)})


def found(merged: float, beside: float, into: float, without: float = 5) -> Comparison:
    ways = (way(MERGED, merged), way(BESIDE, beside, 12, 1_000_000), way(INTO_BASE, into))
    return Comparison(ways, {GRAPH: without})


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (found(20, 20.5, 17), "Merge a single adapter, then quantize; keep several beside one base"),
        (found(20, 20.5, 17), "20% more time a call, and each further adapter adds 1.00 MB, merged 50.00 MB"),
        (found(20, 20.5, 17), "Merged into the rounded base it loses 3.0 dB"),
        (found(20, 20.5, 19.5), "Merged into the rounded base it is as exact as merged before"),
        (found(20, 23, 17), "Keep it beside the base: it gains 3.0 dB"),
        (found(20, 17, 17), "Merge it, then quantize: beside the base it loses 3.0 dB"),
        (found(20, 20, 20, without=19.5), "Rounding costs as much as leaving the adapter out (19.5 dB)"),
        (
            replace(found(20, 20, 20), ways=(way(MERGED, 20), way(INTO_BASE, 20)), not_beside="it has DoRA"),
            "it has DoRA.",
        ),
    ],
)
def test_advice_follows_from_the_figures(figures: Comparison, said: str) -> None:
    assert said in advice(figures)
    assert ("Rounding costs" in said) == ("Rounding costs" in advice(figures))
