"""One node in one chain: from its module to the verdict on each operator that it became."""

import json
from pathlib import Path

import onnx
import pytest

from m4c.bundle import read_manifest
from m4c.compile import compile_bundle
from m4c.errors import UsageError
from m4c.operator_reports.explain import Step, explain, lines, to_json
from m4c.progress import Silent
from m4c.request import Request
from m4c.targets.legality import Illegal
from m4c.targets.profile import load_target
from m4c.targets.read_tflite import read_tflite
from tests.end_to_end.command import m4c

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[2, 4] x) => (float[2, 4] y) {
        [first] h = Relu(x)
        [tail] t = LogSoftmax(h)
        [last] y = Reciprocal(t)
    }"""


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle for XNNPACK, which takes all but the LogSoftmax of its graph."""
    folder = tmp_path_factory.mktemp("split")
    onnx.save(onnx.parser.parse_model(TEXT), folder / "net.onnx")
    request = Request(target=load_target("xnnpack"), model=folder / "net.onnx")
    compile_bundle(request, folder / "out", Silent())
    return folder / "out"


def chain(step: Step) -> tuple[str, str, str]:
    assert step.origin is not None
    return step.origin.module, step.origin.operator, step.node.operator


def test_a_value_a_module_and_an_index_mean_the_node(split: Path) -> None:
    for name in ("t", "tail", "1", "net/net:t"):
        (step,) = explain(split, name)
        assert chain(step) == ("tail", "LogSoftmax", "LOG_SOFTMAX"), name
        assert (step.node.index, step.partition) == (1, None)
        assert isinstance(step.verdict, Illegal)


def test_the_text_has_the_verdict_every_reason_and_its_fix(split: Path) -> None:
    text = list(lines(explain(split, "t")))
    assert text[0] == "net/net: tail → LogSoftmax t → #1 LOG_SOFTMAX → t (float32 2×4)"
    assert text[1] == "  xnnpack does not run it"
    assert text[2].startswith("  why: LOG_SOFTMAX is not among the")
    assert text[3].startswith("  fix: rewrite it with operators that run there")
    assert "  xnnpack runs it, in partition 1; by lists and documented limits, an upper bound" in lines(
        explain(split, "h")
    )


def test_an_operator_that_became_several_has_them_all(int8_bundle: Path) -> None:
    record = read_manifest(int8_bundle).graph("projection/linear")
    (graph,) = read_tflite(int8_bundle / record.file.path)
    found = [chain(step)[2] for step in explain(int8_bundle, "linear")]
    assert set(found) <= {node.operator for node in graph.nodes}
    every = {step.node.index for node in graph.nodes for step in explain(int8_bundle, str(node.index))}
    assert every == set(range(len(graph.nodes)))


def test_another_target_may_be_asked(split: Path) -> None:
    (step,) = explain(split, "t", load_target("cpu"))
    assert (step.target, step.partition) == ("cpu", 0)


def test_what_is_not_there_gets_suggestions(split: Path) -> None:
    with pytest.raises(UsageError, match="called tial\n  fix: close to it: tail"):
        explain(split, "tial")
    with pytest.raises(UsageError, match="no graph has a node 9\n  fix: the last one has the index"):
        explain(split, "9")


def test_the_command(split: Path) -> None:
    made = json.loads(m4c("explain", str(split), "tail", "--json"))
    assert made == json.loads(json.dumps(to_json(explain(split, "tail"), "tail")))
    (node,) = made["nodes"]
    assert (node["module"], node["onnx"]) == ("tail", {"operator": "LogSoftmax", "value": "t"})
    assert (node["operator"], node["legal"], node["partition"]) == ("LOG_SOFTMAX", False, None)
    assert node["reasons"][0]["fix"]
