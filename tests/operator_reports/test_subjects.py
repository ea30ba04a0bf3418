"""What reports are about: presets, bundles, files."""

from pathlib import Path

import onnx
import pytest

from m4c.bundle import read_manifest
from m4c.errors import UsageError
from m4c.models import SUBMODELS
from m4c.operator_reports import subjects
from m4c.operator_reports.coverage import GraphOperators
from m4c.operator_reports.subjects import operators_of
from m4c.progress import Progress, Silent


def test_a_submodel_counts_as_its_artifact_does(float_bundle: Path) -> None:
    for name in ("projection", "gen_dec"):
        (made,) = subjects.of_submodel("m4-nano", name, Silent())
        graph = read_manifest(float_bundle).graph(made.graph)
        assert (dict(made.counts), made.format) == (graph.operators, "onnx")


def test_a_preset_is_all_its_submodels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def one(preset: str, name: str, progress: Progress) -> list[GraphOperators]:
        asked.append((name, preset))
        return [GraphOperators(f"{name}/graph", {"Add": 1}, "onnx")]

    monkeypatch.setattr(subjects, "of_submodel", one)
    assert [g.graph for g in operators_of("m4-nano", Silent())] == [f"{name}/graph" for name in SUBMODELS]
    assert {preset for _, preset in asked} == {"m4-nano"}


def test_a_bundle(float_bundle: Path, int8_bundle: Path) -> None:
    made = operators_of(str(float_bundle), Silent())
    manifest = read_manifest(float_bundle)
    assert [(g.graph, dict(g.counts)) for g in made] == [(g.name, g.operators) for g in manifest.graphs]
    (integer,) = operators_of(str(int8_bundle), Silent())
    assert (integer.graph, integer.format) == ("projection/linear", "tflite")
    assert "CONV_2D" in integer.counts  # a product, as the Edge TPU has it


def test_single_files(float_bundle: Path, int8_bundle: Path, tmp_path: Path) -> None:
    (made,) = operators_of(str(float_bundle / "graphs" / "gen_dec" / "head.onnx"), Silent())
    assert (made.graph, dict(made.counts)) == ("head", {"MatMul": 1})
    (made,) = operators_of(str(int8_bundle / "graphs" / "projection" / "linear.tflite"), Silent())
    assert made.format == "tflite"
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[4] x) => (float[4] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m4-nano.onnx")
    (made,) = operators_of(str(tmp_path / "m4-nano.onnx"), Silent())
    assert dict(made.counts) == {"Relu": 1}


def test_nothing_to_report_on(tmp_path: Path) -> None:
    for subject in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            UsageError, match=r"nothing to report on at .*\n  fix: give a preset \(m4-nano, m4\)"
        ):
            operators_of(str(subject), Silent())
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(UsageError, match="not an ONNX model"):
        operators_of(str(tmp_path / "text.onnx"), Silent())
