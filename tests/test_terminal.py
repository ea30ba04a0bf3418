"""What the user sees: results on stdout, progress on stderr, JSON that is JSON."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from m4c.bundle import ShareRecord, read_manifest
from m4c.numerics import Difference
from m4c.selftest import Selftest
from m4c.terminal import ProgressBar, show_bundle, show_json, show_list, show_selftest

INFINITE = [
    Selftest("a/b", Difference(0.0, 0.0, float("inf"))),
    Selftest("c/d", Difference(1e-7, 2e-7, float("-inf"))),
    Selftest("e/f", Difference(1e-3, 2e-3, 60.25)),
]


def strict(text: str) -> object:
    """Read JSON as a strict reader does: NaN and Infinity are none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_figures_that_are_not_finite_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    show_selftest(INFINITE, as_json=True)
    assert strict(capsys.readouterr().out) == {
        "graphs": [
            {"graph": "a/b", "max_absolute": 0.0, "max_relative": 0.0, "sqnr_db": None},
            {"graph": "c/d", "max_absolute": 1e-7, "max_relative": 2e-7, "sqnr_db": None},
            {"graph": "e/f", "max_absolute": 1e-3, "max_relative": 2e-3, "sqnr_db": 60.25},
        ]
    }


def test_a_selftest_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    show_selftest(INFINITE, as_json=False)
    text = capsys.readouterr().out
    assert "exact" in text
    assert "60.2 dB" in text
    assert "inf" not in text


def test_json_is_one_line_and_never_nan(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"a": "ü", "b": [1, None]})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert strict(out) == {"a": "ü", "b": [1, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        show_json({"a": float("nan")})


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    show_list("targets", {"cpu": "any CPU"}, as_json=True)
    assert strict(capsys.readouterr().out) == {"targets": {"cpu": "any CPU"}}
    show_list("targets", {"cpu": "any CPU"}, as_json=False)
    assert capsys.readouterr().out.split() == ["cpu", "any", "CPU"]


def test_a_bundle_for_people(
    float_bundle: Path, int8_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_bundle(read_manifest(float_bundle), float_bundle)
    text = capsys.readouterr().out
    for word in ("projection", "linear", "gen_dec", "head", "onnx float32", "shared"):
        assert word in text
    assert "ONNX operator types in all: " in text
    show_bundle(read_manifest(int8_bundle), int8_bundle)
    text = capsys.readouterr().out
    assert "tflite int8" in text
    assert "projection/linear was calibrated on random numbers" in text
    assert "ONNX operator types" not in text
    assert "less than 20" not in text
    assert "nodes, 1 partition" in text
    assert "coverage: by lists and documented limits, an upper bound" in text


def test_what_is_left_on_the_cpu_is_counted(int8_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(int8_bundle)
    (submodel,) = manifest.submodels
    (graph,) = submodel.graphs
    assert graph.coverage is not None
    split = replace(graph.coverage, nodes=ShareRecord(87, 80, 75))
    shown = replace(manifest, submodels=(replace(submodel, graphs=(replace(graph, coverage=split),)),))
    show_bundle(shown, int8_bundle)
    assert "12 of 87 left on the CPU" in capsys.readouterr().out


def test_coarse_integers_are_pointed_out(int8_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(int8_bundle)
    (submodel,) = manifest.submodels
    (graph,) = submodel.graphs
    coarse = replace(graph, verification=replace(graph.verification, sqnr_db=12.25))
    show_bundle(replace(manifest, submodels=(replace(submodel, graphs=(coarse,)),)), int8_bundle)
    assert "projection/linear has 12.2 dB, less than 20" in capsys.readouterr().out


def test_progress_is_drawn_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(2) as progress:
        progress.step("a/b", 1, 2)  # before its stage: nothing to draw on
        progress.stage("a/b", "emit")
        progress.stage("c/d", "calibrate")
        progress.step("a/b", 3_000_000, 6_000_000)
        progress.step("c/d", 2, 0)
        assert [task.fields["figure"] for task in progress._rich.tasks] == [
            "0 of 2",
            "3 of 6 MB",
            "2 samples",
        ]
        assert [task.description for task in progress._rich.tasks][1:] == ["a/b: emit", "c/d: calibrate"]
        progress.finished("a/b")
        progress.completed("a")
        progress.completed("nobody")
        whole, *lines = progress._rich.tasks
        assert (whole.completed, whole.fields["figure"], len(lines)) == (2, "1 graphs done", 1)
    assert capsys.readouterr().out == ""
