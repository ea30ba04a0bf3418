"""The one predicate keeps every reason, each with numbers and a fix, whatever the graph is stored as."""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as tfl
from onnx import TensorProto, helper, numpy_helper

from m4c.errors import UsageError
from m4c.targets.legality import Illegal, Legal, judge, refusal, verdicts
from m4c.targets.profile import load_target
from m4c.targets.read_onnx import read_onnx
from m4c.targets.read_tflite import read_tflite
from m4c.targets.view import Node
from tests.targets.graphs import node, stored, tensor

CODES = tfl.BuiltinOperator
FLOAT = tfl.TensorType.FLOAT32


def test_an_unknown_operator_a_dynamic_size_and_a_fifth_dimension_are_three_reasons(tmp_path: Path) -> None:
    path = stored(
        tmp_path / "m.tflite",
        [("x", FLOAT, (1, 2, 3, 4, -1), None), ("y", FLOAT, (1, 2, 3, 4, -1), None)],
        [(CODES.LOCAL_RESPONSE_NORMALIZATION, [0], [1])],
    )
    (graph,) = read_tflite(path)
    verdict = judge(graph.nodes[0], load_target("gpu"))
    assert isinstance(verdict, Illegal)
    assert len(verdict.reasons) == 3
    assert {reason.text for reason in verdict.reasons} == {
        "LOCAL_RESPONSE_NORMALIZATION is not among the 100 operators of gpu",
        "LOCAL_RESPONSE_NORMALIZATION: ?4 of x (float32 1×2×3×4×?4) can change from call to call",
        "LOCAL_RESPONSE_NORMALIZATION: x (float32 1×2×3×4×?4) has rank 5, at most 4 is possible",
    }
    assert all(reason.fix and reason.source for reason in verdict.reasons)
    fixes = " ".join(reason.fix for reason in verdict.reasons)
    for way in ("rewrite it", "--size NAME=N", "reshape to fewer dimensions"):
        assert way in fixes
    found = refusal(verdicts(graph, load_target("gpu")))
    assert found is not None
    assert "can change" in found.text, "a dynamic tensor costs the whole model"


def test_the_same_in_onnx(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[n, 2, 3, 4, 5] x) => (float[n, 2, 3, 4, 5] y) { y = Erf(x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    profile = Path("tests/targets/data/small.toml")
    (graph,) = read_onnx(tmp_path / "m.onnx")
    verdict = judge(graph.nodes[0], load_target(str(profile)))
    assert isinstance(verdict, Illegal)
    assert [reason.text for reason in verdict.reasons] == [
        "Erf is not among the 1 operators of small",
        "Erf: n of x (float32 n×2×3×4×5) can change from call to call",
        "Erf: x (float32 n×2×3×4×5) has rank 5, at most 4 is possible",
    ]


def test_a_version_that_is_too_new_costs_the_model(tmp_path: Path) -> None:
    kinds = tfl.TensorType
    tensors = [("x", kinds.INT8, (1, 4), None), ("y", kinds.INT8, (1, 4), None)]
    target = load_target("edgetpu")
    for version, message in ((2, None), (3, "QUANTIZE: QUANTIZE has version 3, at most 2 is read")):
        path = stored(tmp_path / "m.tflite", tensors, [(CODES.QUANTIZE, [0], [1])], {CODES.QUANTIZE: version})
        found = refusal(verdicts(read_tflite(path)[0], target))
        assert (found.text if found else None) == message


@pytest.mark.parametrize(
    ("target", "call", "message"),
    [
        ("ethos-u55", node("LESS", [tensor()]), "LESS is refused by Vela 5.2.0 for ethos-u55-256"),
        ("ethos-u85", node("LESS", [tensor()]), ""),
        ("ethos-u85", node("ARG_MAX", [tensor(dtype="int32")]), "x (int32 1×4) is int32, not int8 or uint8"),
    ],
)
def test_what_ends_a_compiler_costs_the_model(target: str, call: Node, message: str) -> None:
    """These are what Vela 5.2.0 said of single operators: docs/evidence.md."""
    found = refusal((judge(call, load_target(target)),))
    assert (found is None) == (message == "")
    assert found is None or message in found.text


def test_an_operator_of_a_newer_runtime(tmp_path: Path) -> None:
    text = Path("targets/edgetpu.toml").read_text("utf-8")
    (tmp_path / "old.toml").write_text(text.replace("runtime_version = 14", "runtime_version = 12"), "utf-8")
    old, new = load_target(str(tmp_path / "old.toml")), load_target("edgetpu")
    transposed = node("TRANSPOSE", [tensor((1, 4, 4))])
    verdict = judge(transposed, old)
    assert isinstance(verdict, Illegal)
    assert [r.text for r in verdict.reasons] == ["TRANSPOSE needs runtime 14, the profile has 12"]
    assert verdict.reasons[0].fix == "raise runtime_version to 14"
    legal = judge(transposed, new)
    assert isinstance(legal, Legal)
    assert "unspecified limitation" in legal.doubts[0].text


def test_what_is_only_recalled_is_a_doubt() -> None:
    over_batch = node("SUM", [tensor((2, 1, 1, 4)), tensor(dtype="int32", values=[0])], [tensor((1, 4))])
    split = node("SPLIT", [tensor(dtype="int32", values=[0]), tensor((1, 4, 4, 4))])
    for call in (over_batch, split):
        verdict = judge(call, load_target("edgetpu"))
        assert {r.evidence for r in verdict.doubts} <= {"recalled", "issue"}
        assert not [r for r in getattr(verdict, "reasons", ()) if r.evidence == "recalled"]


def test_a_deny_list_lets_all_else_pass() -> None:
    target = load_target("google-tensor")
    assert isinstance(judge(node("GELU", [tensor()]), target), Legal)
    refused = judge(node("SHAPE", [tensor()]), target)
    assert isinstance(refused, Illegal)
    assert refused.reasons[0].text == "SHAPE is refused by LiteRT's Google Tensor plugin"
    assert isinstance(judge(node("Mine", [tensor()]), target), Illegal)
    named = node("STABLEHLO_COMPOSITE", [tensor()], name="odml.rms_norm")
    assert isinstance(judge(named, target), Legal)
    other = judge(node("STABLEHLO_COMPOSITE", [tensor()], name="odml.other"), target)
    assert isinstance(other, Illegal)
    assert "odml.other, not odml.rms_norm or" in other.reasons[0].text


def test_a_format_that_the_target_does_not_take() -> None:
    with pytest.raises(
        UsageError, match=r"edgetpu takes tflite graphs, this one is onnx\n  fix: export it"
    ) as caught:
        judge(node("Relu", [tensor()], form="onnx"), load_target("edgetpu"))
    assert caught.value.exit_code == 2


def test_a_large_file_is_judged_quickly_and_its_weights_are_not_read(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros((5000, 5000), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5000])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 5000])],
        [weight],
    )
    onnx.save(helper.make_model(graph, ir_version=10), tmp_path / "m.onnx")
    values = bytes(100_000_000)
    stored(
        tmp_path / "m.tflite",
        [("x", FLOAT, (1, 5000), None), ("w", FLOAT, (5000, 5000), values), ("y", FLOAT, (1, 5000), None)],
        [(CODES.FULLY_CONNECTED, [0, 1, -1], [2])],
    )
    del values
    for path, read in ((tmp_path / "m.onnx", read_onnx), (tmp_path / "m.tflite", read_tflite)):
        assert path.stat().st_size > 100_000_000
        start = time.process_time()
        (made,) = read(path)
        assert [isinstance(v, Legal) for v in verdicts(made, load_target("cpu"))] == [True] * len(made.nodes)
        assert time.process_time() - start < 0.5
        weight_ = made.nodes[0].input(1)
        assert weight_ is not None
        assert (weight_.constant, weight_.shape, weight_.dtype) == (True, (5000, 5000), "float32")
