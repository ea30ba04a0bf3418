"""Evidence from QNN: whom ONNX Runtime gave which node of a graph, by their names.

Where ``M4C_QNN_PYTHON`` names a Python with onnxruntime-qnn, it is asked anew.
"""

import os
from pathlib import Path

import onnx
import pytest

from m4c.errors import UsageError
from m4c.operator_reports.judged import judged
from m4c.operator_reports.placement import Placement
from m4c.operator_reports.qnn import PYTHON, as_assigned, compiled
from m4c.progress import Silent
from m4c.targets.profile import load_target
from m4c.targets.read_onnx import read_onnx

HTP = load_target("qualcomm-htp")
TEXT = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[1, 4] x) => (float[1, 4] y) { h = Relu(x)  i = Acosh(h)  y = Tanh(i) }"""
ANSWER = {"n0": 0, "n2": 1, "n1": None}
SAID = "\tREASON : Operators of type `Acosh` are not supported by QNN EP.Acosh node `n1` will not be assigned to QNN EP.\n"
"""What onnxruntime-qnn 2.7.0 answered and said of this graph."""


@pytest.fixture
def split(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def check(found: Placement) -> None:
    assert (found.evidence, found.outcome) == ("compiled", "split")
    assert [p.nodes for p in found.cut.delegated] == [(0,), (2,)]
    first = found.first_break
    assert first is not None
    assert (first.node.operator, len(first.reasons)) == ("Acosh", 1)
    assert first.reasons[0].text == "Acosh: Operators of type `Acosh` are not supported by QNN EP"
    assert "rewrite it" in first.reasons[0].fix


def test_nodes_are_where_the_answer_has_them(split: Path) -> None:
    (graph,) = read_onnx(split)
    check(as_assigned(graph, ANSWER, SAID, HTP))
    invalid = "[W:] QNN.backendValidateOpConfig() failed for node `n1_2` of type `Acosh` with error code 3110"
    failed = as_assigned(graph, ANSWER, invalid, HTP).first_break
    assert failed is not None
    assert failed.reasons[0].text == "Acosh: QNN's backendValidateOpConfig failed with error code 3110"
    without = as_assigned(graph, ANSWER, "", HTP)
    assert without.first_break is not None
    assert "without a reason" in without.first_break.reasons[0].text


def test_a_node_that_is_in_another_is_where_that_is(split: Path) -> None:
    (graph,) = read_onnx(split)
    found = as_assigned(graph, {"n1/Fusion": 0, "n10": None}, "", HTP)
    assert [p.nodes for p in found.cut.delegated] == [(0, 1, 2)]
    assert as_assigned(graph, {"n2": None}, "", HTP).outcome == "refused"


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell script be the Python that has QNN."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(path))


def test_a_qnn_that_takes_nothing_is_not_believed(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, monkeypatch, """echo '{"n0": null}'; echo '{"n0": null, "n1": null, "n2": null}'""")
    with pytest.raises(UsageError, match="QNN does not work: it takes no single Relu") as caught:
        compiled(split, HTP)
    assert "onnxruntime-qnn" in caught.value.fix


def test_its_answer_is_reported(split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"""echo '{{"n0": 0}}'; echo '{{"n0": 0, "n2": 1, "n1": null}}'\ncat >&2 <<'END'\n{SAID}END"""
    program(tmp_path, monkeypatch, script)
    (found,) = judged(str(split), HTP, Silent(), evidence="compiled")
    assert isinstance(found, Placement)
    check(found)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo \"ModuleNotFoundError: No module named 'onnxruntime_qnn'\" >&2; exit 1", "is not installed"),
        ("echo 'out of memory' >&2; exit 1", "QNN does not take the file: out of memory"),
    ],
)
def test_failures_are_told(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    program(tmp_path, monkeypatch, script)
    with pytest.raises(UsageError, match=message) as caught:
        compiled(split, HTP)
    assert caught.value.fix
    monkeypatch.setenv(PYTHON, str(tmp_path / "none"))
    with pytest.raises(UsageError, match="none does not run"):
        compiled(split, HTP)


def test_a_target_without_it_says_so(split: Path) -> None:
    with pytest.raises(UsageError, match="no compiler to ask for coreml"):
        compiled(split, load_target("coreml"))


@pytest.mark.skipif(PYTHON not in os.environ, reason="QNN is optional")
def test_qnn_itself(split: Path) -> None:
    (found,) = compiled(split, HTP)
    check(found)
