"""Operator counts of models in hand, ONNX files and TFLite files, each against what was written into them."""

import subprocess
import sys
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from m4c.errors import UsageError
from m4c.operator_reports.coverage import GraphOperators, of_file, of_model, of_onnx, of_tflite, union

COUNTS = {"Add": 2, "Constant": 1, "Identity": 2, "If": 1, "Relu": 2, "here::Twice": 2}
"""Of :func:`onnx_model`: the function's body counts once, however often it is called."""


def info(name: str, kind: int, shape: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def onnx_model() -> onnx.ModelProto:
    """Return a model with a sub-graph in each branch of an ``If``, a function called twice, and weights."""
    number = TensorProto.FLOAT
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["t"])], "then", [], [info("t", number, [4])])
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])], "else", [], [info("e", number, [4])]
    )
    twice = helper.make_function(
        "here",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other),
        helper.make_node("Add", ["y", "w"], ["z"]),
        helper.make_node("Twice", ["z"], ["u"], domain="here"),
        helper.make_node("Twice", ["u"], ["v"], domain="here"),
        helper.make_node("Relu", ["v"], ["r"], domain="ai.onnx"),
        helper.make_node("Identity", ["r"], ["out"]),
    ]
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    graph = helper.make_graph(nodes, "g", [info("x", number, [4])], [info("out", number, [4])], [weight])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("here", 1)]
    return helper.make_model(graph, functions=[twice], opset_imports=opsets, ir_version=10)


def tflite(path: Path, graphs: list[list[int]], codes: list[schema.OperatorCodeT]) -> Path:
    """Write a file whose sub-graphs hold operators by their index into ``codes``."""
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, codes, []
    for indices in graphs:
        graph = schema.SubGraphT()
        graph.operators = [schema.OperatorT() for _ in indices]
        for made, index in zip(graph.operators, indices, strict=True):
            made.opcodeIndex = index
        model.subgraphs.append(graph)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def code(number: int, custom: str | None = None) -> schema.OperatorCodeT:
    made = schema.OperatorCodeT()
    made.builtinCode, made.deprecatedBuiltinCode, made.customCode = number, min(number, 127), custom
    return made


def test_a_file_and_the_model_in_hand_count_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx_model(), path)
    stored, held = of_onnx(path), of_model("model", ir.from_proto(onnx_model()))
    assert dict(stored.counts) == COUNTS
    assert stored == held
    assert (stored.nodes, stored.types, stored.format) == (10, tuple(sorted(COUNTS)), "onnx")


def test_external_weights_need_not_be_there(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = onnx_model()
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    assert dict(of_onnx(path).counts) == COUNTS


def test_every_subgraph_of_a_tflite_file_counts(tmp_path: Path) -> None:
    names = schema.BuiltinOperator
    codes = [code(names.CONV_2D), code(names.GELU), code(names.CUSTOM, "Mine"), code(names.ADD)]
    made = of_tflite(tflite(tmp_path / "m.tflite", [[0, 0, 1], [2, 1], []], codes))
    assert made == GraphOperators("m", {"CONV_2D": 2, "GELU": 2, "Mine": 1}, "tflite")
    assert made.nodes == 5


def test_old_and_nameless_operator_codes(tmp_path: Path) -> None:
    old = schema.OperatorCodeT()
    old.deprecatedBuiltinCode = schema.BuiltinOperator.SOFTMAX
    made = of_tflite(tflite(tmp_path / "m.tflite", [[0, 1]], [old, code(schema.BuiltinOperator.CUSTOM)]))
    assert dict(made.counts) == {"CUSTOM": 1, "SOFTMAX": 1}


def test_files_are_told_apart_by_their_content(tmp_path: Path) -> None:
    onnx.save(onnx_model(), tmp_path / "a.bin", format="protobuf")
    tflite(tmp_path / "b.bin", [[0]], [code(schema.BuiltinOperator.ADD)])
    assert of_file(tmp_path / "a.bin").format == "onnx"
    assert of_file(tmp_path / "b.bin").format == "tflite"


@pytest.mark.parametrize("content", [b"", b"just some text, no model at all", bytes(100), b"\x08\x0a"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    for read in (of_file, of_onnx, of_tflite):
        with pytest.raises(UsageError, match=r"not an? (ONNX|TFLite) model") as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert caught.value.fix


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    for read in (of_file, of_onnx, of_tflite):
        with pytest.raises(UsageError, match="cannot read the graph: No such file"):
            read(tmp_path / "none")
    path = tflite(tmp_path / "m.tflite", [[0, 0]], [code(schema.BuiltinOperator.ADD)])
    whole = path.read_bytes()
    for length in (8, 20, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="damaged"):
            of_file(path)
    path.write_bytes(b"\xff\xff\xff\x00" + whole[4:])
    with pytest.raises(UsageError, match="damaged"):
        of_file(path)
    unknown = tflite(tmp_path / "m.tflite", [[0]], [code(9999)])
    with pytest.raises(UsageError, match="operator number 9999"):
        of_file(unknown)


def test_the_union_tells_how_common_an_operator_is() -> None:
    first = GraphOperators("a", {"Add": 3, "Relu": 1}, "onnx")
    second = GraphOperators("b", {"Add": 1}, "onnx")
    both = union([first, second])
    assert [(u.operator, u.graphs, u.share, u.nodes) for u in both] == [
        ("Add", 2, 1.0, 4),
        ("Relu", 1, 0.5, 1),
    ]
    assert union([]) == ()
    with pytest.raises(UsageError, match="cannot be united") as caught:
        union([first, GraphOperators("c", {"ADD": 1}, "tflite")])
    assert "c (tflite)" in str(caught.value)


def test_a_report_of_files_needs_no_torch() -> None:
    program = (
        "import sys, m4c.operator_reports.coverage, m4c.operator_reports.render\n"
        "print(sorted({'torch', 'transformers', 'onnx_ir', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
