"""Graphs on several targets at once: captured once, and the same as for each target by itself."""

import json
import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from m4c import capture, cli
from m4c.errors import UsageError
from m4c.models.graph import Graph
from m4c.operator_reports.across import across
from m4c.operator_reports.judged import judged
from m4c.operator_reports.placement import NotConverted
from m4c.operator_reports.render_placement import to_json
from m4c.progress import Silent
from m4c.targets.profile import load_target

TARGETS = [load_target(name) for name in ("cpu", "edgetpu", "gpu", "ethos-u55", "coreml")]
TEXT = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[1, 4] x) => (float[1, 4] y) { h = Acosh(x)  y = Tanh(h) }"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a file that has no form in TFLite."""
    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_submodel_is_captured_once_and_judged_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    captures: list[str] = []

    def spied(graph: Graph) -> ir.Model:
        captures.append(graph.name)
        return made(graph)

    made = capture.capture
    monkeypatch.setattr(capture, "capture", spied)
    found = across("projection", TARGETS, Silent())
    assert captures == ["projection/linear"] * 2  # at sizes that are numbers, and at those that change
    assert list(found) == [target.name for target in TARGETS]
    for target in TARGETS:
        alone = judged("projection", target, Silent())
        assert to_json(found[target.name], target.name) == to_json(alone, target.name)


def test_files_are_read_for_each_target(file: Path) -> None:
    found = across(str(file), TARGETS, Silent())
    assert [isinstance(found[name][0], NotConverted) for name in found] == [False, True, False, True, False]


def test_two_targets_of_one_name_are_a_mistake(file: Path) -> None:
    with pytest.raises(UsageError, match="two targets have the same name"):
        across(str(file), [TARGETS[0], TARGETS[0]], Silent())


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["m4c", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(str(ended.value.code))


def test_every_form_has_all_targets(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = (file, "--target", "cpu", "--target", "edgetpu")
    assert run(monkeypatch, *wanted, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["kind"], [one["target"] for one in made["targets"]]) == ("placements", ["cpu", "edgetpu"])
    for form in ("text", "md"):
        assert run(monkeypatch, *wanted, "--format", form) == 0
        text = capsys.readouterr().out
        assert "What runs on cpu" in text
        assert "What runs on edgetpu" in text


def test_mistakes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, file, "--target", "cpu", "-o", tmp_path / "m.html") == 2
    assert "--out is for --format html" in capsys.readouterr().err
    assert run(monkeypatch, file, "--target", "cpu", "--format", "html", "-o", tmp_path) == 2
    assert "cannot write the page: Is a directory" in capsys.readouterr().err
    assert run(monkeypatch, file, "--target", "nowhere", "--format", "html") == 2
    assert run(monkeypatch, "zoo", "--format", "html") == 2
    assert "zoo has no page of its own" in capsys.readouterr().err
