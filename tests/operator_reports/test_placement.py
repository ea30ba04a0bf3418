"""Where graphs run on a target, as text and as JSON, from files, bundles and sub-models."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from ai_edge_litert import schema_py_generated as tfl
from rich.console import Console

from m4c.errors import UsageError
from m4c.operator_reports.judged import judged
from m4c.operator_reports.placement import LEVELS, NotConverted, Placement, place
from m4c.operator_reports.render_placement import SHOWN, notes, reasons, summary, to_json, to_markdown
from m4c.progress import Silent
from m4c.targets.profile import load_target
from m4c.targets.read_tflite import read_tflite
from tests.end_to_end.command import m4c
from tests.targets.graphs import stored

CODES, KINDS = tfl.BuiltinOperator, tfl.TensorType


def chain(path: Path, *operators: int, shape: tuple[int, ...] = (1, 4), kind: int = KINDS.INT8) -> Path:
    """Write a file of operators one after another."""
    tensors = [(f"t{i}", kind, shape, None) for i in range(len(operators) + 1)]
    calls = [(operator, [i], [i + 1]) for i, operator in enumerate(operators)]
    return stored(path, tensors, calls, None, ([0], [len(operators)]))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Write a file that the Edge TPU takes up to its third operator."""
    return chain(tmp_path / "m.tflite", CODES.RELU, CODES.TANH, CODES.GELU, CODES.LOGISTIC)


def placed(path: Path, target: str) -> Placement:
    return place(read_tflite(path)[0], load_target(target))


def printed(table: Any) -> str:
    console = Console(width=200, record=True)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_a_prefix_runs_and_the_rest_does_not(broken: Path) -> None:
    found = placed(broken, "edgetpu")
    assert (found.outcome, found.legal, len(found.delegated)) == ("split", 3, 2)
    (partition,) = found.cut.delegated
    assert (partition.nodes, [t.name for t in (*partition.inputs, *partition.outputs)]) == (
        (0, 1),
        ["t0", "t2"],
    )
    assert found.crossing == 8
    first = found.first_break
    assert first is not None
    assert (first.node.operator, first.node.index, len(first.reasons)) == ("GELU", 2, 1)
    assert found.evidence == "table"


def test_a_gpu_takes_the_largest_partition_only(tmp_path: Path) -> None:
    path = chain(tmp_path / "m.tflite", *[CODES.RELU] * 2, CODES.SHAPE, *[CODES.RELU] * 3)
    found = placed(path, "gpu")
    assert ([len(p.nodes) for p in found.cut.eligible], len(found.delegated), found.legal) == ([2, 3], 3, 5)
    assert "1 of 2" in printed(summary([found], "gpu"))


def test_one_dynamic_tensor_refuses_the_model(tmp_path: Path) -> None:
    path = chain(tmp_path / "m.tflite", CODES.RELU, CODES.TANH, shape=(-1, 4))
    found = placed(path, "gpu")
    assert (found.outcome, found.cut.delegated) == ("refused", ())
    assert found.refused is not None
    assert "the whole model: RELU: ?0 of t0" in printed(summary([found], "gpu"))


def test_text_says_upper_bound_in_words_and_every_fix(broken: Path) -> None:
    found = [placed(broken, "edgetpu")]
    text = " ".join(printed(summary(found, "edgetpu")).split())
    for part in ("2 of 4 (50%)", "#2 GELU (t3)", "evidence: table (upper bound: lists and documented limits"):
        assert part in text
    table = reasons(found)
    assert table is not None
    why = " ".join(printed(table).split())
    assert "GELU is not among the 40 operators of edgetpu" in why
    assert "rewrite it with operators that run there" in why
    whole = chain(broken.with_name("w.tflite"), CODES.RELU)
    assert placed(whole, "edgetpu").outcome == "whole"
    assert reasons([placed(whole, "edgetpu")]) is None


def test_notes_on_branches_doubts_and_memory(tmp_path: Path) -> None:
    size = 9_000_000
    path = stored(
        tmp_path / "m.tflite",
        [
            ("x", KINDS.INT8, (1, 1), None),
            ("w", KINDS.INT8, (size, 1), bytes(size)),
            ("y", KINDS.INT8, (1, size), None),
            ("z", KINDS.INT8, (1, 1), None),
            ("r", KINDS.INT8, (1, 1), None),
        ],
        [(CODES.FULLY_CONNECTED, [0, 1], [2]), (CODES.GELU, [0], [3]), (CODES.RESHAPE, [0], [4])],
        None,
        ([0], [2, 3, 4]),
    )
    lines = "\n".join(notes([placed(path, "edgetpu")]))
    assert (
        "1 nodes come before the first break; if branches beside it are taken as well (not documented), 2"
        in lines
    )
    assert "957.4 kB of parameters do not fit on the chip" in lines
    assert "at least 1.91 ms on the target: an estimate from its published figures" in lines
    assert "1 × RESHAPE: large tensors may be refused; no bound is published, in doubt" in lines


def test_json_has_every_reason_and_equal_graphs_give_equal_objects(broken: Path) -> None:
    made = to_json([placed(broken, "edgetpu")], "edgetpu")
    assert json.loads(json.dumps(made)) == made == to_json([placed(broken, "edgetpu")], "edgetpu")
    (graph,) = made["graphs"] if isinstance(made["graphs"], list) else []
    assert (graph["outcome"], graph["nodes"]) == ("split", {"all": 4, "legal": 3, "delegated": 2})
    assert (graph["evidence"], graph["evidence_means"]) == ("table", LEVELS["table"])
    assert graph["first_break"]["reasons"][0]["source"]
    assert [cause["operator"] for cause in graph["reasons"]] == ["GELU"]
    assert graph["partitions"]["delegated"] == [
        {"nodes": [0, 1], "inputs": ["t0"], "outputs": ["t2"], "bytes": 8}
    ]


def test_markdown_is_a_table_and_reasons_folded_away(broken: Path, tmp_path: Path) -> None:
    page = to_markdown([placed(broken, "edgetpu")], "edgetpu").splitlines()
    assert page[0] == "### What runs on edgetpu"
    assert page[2].startswith("| graph | outcome | nodes |")
    assert page[3].startswith("| --- | --- | ---: |")
    assert "| 2 of 4 (50%) |" in page[4]
    assert "<details><summary>Why not: 1 reasons</summary>" in page
    assert any(line.startswith("| GELU |") and "rewrite it" in line for line in page)
    many = [placed(chain(tmp_path / f"{i}|.tflite", CODES.GELU), "edgetpu") for i in range(SHOWN + 3)]
    page = to_markdown(many, "edgetpu").splitlines()
    assert "… and 3 more: `m4c report … --target edgetpu`" in page
    assert sum(line.startswith("| GELU |") for line in page) == SHOWN
    assert {line.replace("\\|", "").count("|") for line in page if line.startswith("| GELU")} == {6}


def test_a_submodel_is_judged_as_its_integer_build_would_be(int8_bundle: Path) -> None:
    target = load_target("ethos-u55")
    (unwritten,) = judged("projection", target, Silent())
    (written,) = judged(str(int8_bundle), target, Silent())
    assert isinstance(unwritten, Placement)
    assert isinstance(written, Placement)
    assert (unwritten.assumed, written.assumed) == ("int8", "")
    assert unwritten.outcome == written.outcome == "whole"
    assert unwritten.graph.name == written.graph.name == "projection/linear"
    assert "judged as if quantized to int8: nothing was calibrated" in " ".join(
        printed(summary([unwritten], "t")).split()
    )


def test_an_onnx_file_is_lowered_for_a_target_without_onnx(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 4] x) => (float[1, 4] y) { h = Relu(x)  y = Tanh(h) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    (found,) = judged(str(tmp_path / "m.onnx"), load_target("edgetpu"), Silent())
    assert isinstance(found, Placement)
    assert ([n.operator for n in found.graph.nodes], found.outcome) == (["RELU", "TANH"], "whole")
    (direct,) = judged(str(tmp_path / "m.onnx"), load_target("nnapi"), Silent())
    assert isinstance(direct, Placement)
    assert [n.operator for n in direct.graph.nodes] == ["Relu", "Tanh"]


def test_what_cannot_be_lowered_says_why(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 4] x) => (float[1, 4] y) { y = Mish(x) }"""
    onnx.save(onnx.parser.parse_model(text.replace("Mish", "Acosh")), tmp_path / "m.onnx")
    found = judged(str(tmp_path / "m.onnx"), load_target("edgetpu"), Silent())
    assert isinstance(found[0], NotConverted)
    assert "no function for Acosh" in found[0].why
    assert to_json(found, "edgetpu")["graphs"] == [
        {"graph": "m", "outcome": "not converted", "why": found[0].why, "fix": found[0].fix}
    ]
    assert "not converted" in printed(summary(found, "edgetpu"))


def test_artifacts_of_another_format_say_why(float_bundle: Path) -> None:
    found = judged(str(float_bundle), load_target("edgetpu"), Silent())
    assert {type(one) for one in found} == {NotConverted}
    assert isinstance(found[0], NotConverted)
    assert (found[0].why, found[0].fix) == ("its artifact is onnx", "export it with --target edgetpu")


def test_nothing_to_report_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing to report on at .*\n  fix: give a preset .*a sub-model"):
        judged(str(tmp_path / "none"), load_target("gpu"), Silent())


def test_the_command(broken: Path, tmp_path: Path) -> None:
    made = json.loads(m4c("report", str(broken), "--target", "edgetpu", "--json"))
    assert (made["kind"], made["target"], made["graphs"][0]["outcome"]) == ("placement", "edgetpu", "split")
    assert m4c("report", str(broken), "--target", "edgetpu", "--format", "md").startswith("### What runs")
    text = m4c("report", str(broken), "--target", "edgetpu")
    assert "upper bound" in text
    assert "GELU is not among the 40" in " ".join(text.split())
