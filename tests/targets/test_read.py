"""Files and models as graphs to judge: what is read of each, and that it is the same."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from ai_edge_litert import schema_py_generated as tfl
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper

from m4c.assemble import open_sources
from m4c.errors import UsageError
from m4c.onnx_file import HELD_BYTES
from m4c.passes import for_format
from m4c.request import Request
from m4c.targets.emit_onnx import to_onnx
from m4c.targets.emit_tflite import to_tflite
from m4c.targets.emit_tflite.emit import lower
from m4c.targets.legality import Legal, verdicts
from m4c.targets.partition import cut
from m4c.targets.profile import load_target
from m4c.targets.read_onnx import read_onnx
from m4c.targets.read_tflite import read_tflite
from m4c.targets.view import Graph, Node
from m4c.targets.view_flat import as_if, view_flat
from m4c.targets.view_model import view_model
from m4c.weight_file import WeightFile
from tests.targets.graphs import stored


def said(graph: Graph) -> list[tuple[object, ...]]:
    """Return all that a rule can ask of a graph."""

    def told(node: Node) -> tuple[object, ...]:
        tensors = tuple(
            None if t is None else (str(t), t.constant, t.dequantized) for t in (*node.inputs, *node.outputs)
        )
        options = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in node.options.items()}
        return node.operator, node.version, tensors, options

    return [told(node) for node in graph.nodes]


def model(folder: Path) -> Path:
    """Write a model with a large and a small constant, a Constant node, an attribute, and an unknown size."""
    large = numpy_helper.from_array(np.ones((8, HELD_BYTES // 8), np.float32), "w")
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="first"),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Add", ["product", "one"], ["sum"]),
        helper.make_node("ReduceMean", ["sum", "axes"], ["y"], keepdims=0),
        helper.make_node("Mine", ["y"], ["z"], domain="here"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [large, axes],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("here", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "m.onnx")
    return folder / "m.onnx"


def test_an_onnx_file(tmp_path: Path) -> None:
    (graph,) = read_onnx(model(tmp_path))
    product, _, total, mean, mine = graph.nodes
    assert (product.where, mine.operator, mine.version, mean.version) == ("first", "here::Mine", 3, 20)
    x, w = product.inputs
    assert x is not None
    assert w is not None
    assert (x.shape, w.constant, w.values()) == (("n", 8), True, None), "a weight is not read"
    assert product.outputs[0].shape == ("n", HELD_BYTES // 8), "inferred, though the weight is not there"
    one, axes = total.input(1), mean.input(1)
    assert one is not None
    assert axes is not None
    assert one.constant
    assert [np.array(t.values()).tolist() for t in (one, axes)] == [1.0, [1]]
    assert mean.options["keepdims"] == 0
    assert (mine.outputs[0].shape, mine.outputs[0].dtype) == (None, "float32")
    assert [t.name for t in graph.inputs] == ["x"]


def test_external_weights_are_not_opened(tmp_path: Path) -> None:
    proto = onnx.load(model(tmp_path))
    onnx.save(proto, tmp_path / "e.onnx", save_as_external_data=True, location="w.bin", size_threshold=1000)
    (tmp_path / "w.bin").unlink()
    assert said(read_onnx(tmp_path / "e.onnx")[0]) == said(read_onnx(tmp_path / "m.onnx")[0])


def test_what_is_dequantized_from_a_constant_is_stored(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 4] x) => (float[1, 2] y) <int8[4, 2] w = {1,2,3,4,5,6,7,8}, float s = {0.5}>
        { f = DequantizeLinear(w, s)
          y = MatMul(x, f) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    for graph in (
        read_onnx(tmp_path / "m.onnx")[0],
        view_model(ir.load(tmp_path / "m.onnx"), "m"),
    ):
        first, second = graph.nodes[1].inputs
        assert first is not None
        assert second is not None
        assert (first.stored, second.constant, second.stored) == (False, False, True)


def xnnpack_partitions(path: Path) -> int:
    """Return how many partitions XNNPACK itself makes of a file; the interpreter lists them behind the operators."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return sum(one["op_name"] == "DELEGATE" for one in interpreter._get_ops_details())


def partitions_of(graph: Graph, name: str) -> int:
    """Return how many partitions a profile foretells."""
    target = load_target(name)
    supported = [isinstance(verdict, Legal) for verdict in verdicts(graph, target)]
    return len(cut(graph, supported, target.runtimes[graph.format].partition).delegated)


@pytest.fixture(scope="module")
def encoder() -> ir.Model:
    """Return the motion encoder as it is captured, with random weights."""
    request = Request(load_target("cpu"), ("imu_enc",))
    captured: ir.Model = open_sources(request, "imu_enc")[2][0].capture()
    return captured


def test_a_model_in_hand_is_seen_as_its_file(encoder: ir.Model, tmp_path: Path) -> None:
    rewritten = for_format("onnx").run(encoder)[0]
    with WeightFile(tmp_path / "weights.bin") as weights:
        to_onnx(rewritten, tmp_path / "m.onnx", weights)
    held, written = view_model(rewritten, "m"), read_onnx(tmp_path / "m.onnx")[0]
    assert len(held.nodes) > 60
    assert said(held) == said(written)
    assert held.nodes[-1].where.startswith("modality_postprocessors.imu"), "its module"


def test_a_graph_that_was_never_written_is_seen_as_its_file(encoder: ir.Model, tmp_path: Path) -> None:
    rewritten = for_format("tflite", "norm").run(encoder)[0]
    to_tflite(rewritten, tmp_path / "m.tflite")
    (written,) = read_tflite(tmp_path / "m.tflite")
    unwritten = view_flat(lower(rewritten), "m")
    assert len(written.nodes) > 80
    assert said(unwritten) == said(written)
    assert xnnpack_partitions(tmp_path / "m.tflite") == partitions_of(written, "xnnpack")
    integer = as_if(unwritten, "int8")
    assert {t.dtype for node in integer.nodes for t in node.activations} == {"int8"}
    biases = {node.inputs[2].dtype for node in integer.nodes if len(node.inputs) == 3 and node.inputs[2]}
    assert biases == {"int32"}


def test_a_tflite_file(tmp_path: Path) -> None:
    kinds, codes = tfl.TensorType, tfl.BuiltinOperator
    path = stored(
        tmp_path / "m.tflite",
        [
            ("x", kinds.FLOAT32, (-1, 4), None),
            ("shape", kinds.INT32, (2,), np.array([-1, 2], np.int32).tobytes()),
            ("y", kinds.FLOAT32, (-1, 2), None),
        ],
        [(codes.RESHAPE, [0, 1], [2]), (codes.SELECT, [2, -1], [2])],
        {codes.SELECT: 7},
        ([0], [2]),
    )
    (graph,) = read_tflite(path)
    first, second = graph.nodes
    assert (first.operator, first.version, second.version, second.inputs[1]) == ("RESHAPE", 1, 7, None)
    x, shape = first.inputs
    assert x is not None
    assert shape is not None
    assert (x.shape, x.static, shape.constant) == (("?0", 4), False, True)
    values = shape.values()
    assert values is not None
    assert values.tolist() == [-1, 2]
    assert (graph.inputs, graph.outputs) == ((x,), (first.outputs[0],))


@pytest.mark.parametrize("content", [b"", b"text", bytes(100), b"\x08\x0a", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    for read in (read_onnx, read_tflite):
        with pytest.raises(UsageError, match=r"not an? (ONNX|TFLite) model") as caught:
            read(path)
        assert caught.value.fix


@pytest.mark.parametrize(
    ("scopes", "where"),
    [
        ("['', 'source', 'source.blocks.1', 'relu']", "blocks.1"),
        ("['', 'blocks.1.act', 'relu']", "blocks.1.act"),
        ("['relu']", "node_relu"),
        ("not a list", "node_relu"),
        ("3", "node_relu"),
        ("", "node_relu"),
    ],
)
def test_a_node_of_an_onnx_file_is_where_its_module_is(tmp_path: Path, scopes: str, where: str) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"], name="node_relu")
    relu.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph([relu], "g", ports[:1], ports[1:])), path)
    assert [node.where for node in read_onnx(path)[0].nodes] == [where]
