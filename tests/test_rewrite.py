import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from m4c.rewrite import Replacement, attribute, bypass, same_shape, static
from m4c.scopes import NAME_SCOPES
from m4c.weights import derive, small, stored_value


def chain(*operators: str) -> ir.Graph:
    """Return a graph that applies unary operators to x one after another."""
    value = x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2, 3])
    made = []
    for index, name in enumerate(operators):
        node = ir.node(
            name, [value], name=f"n{index}", metadata_props={NAME_SCOPES: f"['', 'm{index}', 'f']"}
        )
        value = node.outputs[0]
        value.name, value.type, value.shape = f"v{index}", x.type, x.shape
        made.append(node)
    return ir.Graph([x], [value], nodes=made, opset_imports={"": 20}, name="chain")


def run(graph: ir.Graph, x: np.ndarray) -> np.ndarray:
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def names(graph: ir.Graph) -> list[str | None]:
    return [value.name for node in graph for value in node.outputs]


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((2, 3)).astype(np.float32)


def test_a_value_keeps_its_name_and_a_node_its_module(x: np.ndarray) -> None:
    graph = chain("Abs", "Sqrt")
    node = graph[0]
    edit = Replacement(node)
    source = node.inputs[0]
    squared = edit.op("Mul", [source, source])
    edit.finish(edit.op("Sqrt", [squared], shape=[2, 3]))
    assert names(graph) == ["v0.mul_0", "v0", "v1"]
    assert [n.name for n in graph] == ["n0.mul_0", "n0.sqrt_1", "n1"]
    assert [n.metadata_props[NAME_SCOPES] for n in graph] == ["['', 'm0', 'f']"] * 2 + ["['', 'm1', 'f']"]
    assert (graph[0].outputs[0].dtype, graph[1].outputs[0].shape) == (ir.DataType.FLOAT, ir.Shape([2, 3]))
    np.testing.assert_allclose(run(graph, x), np.sqrt(np.abs(x)), rtol=1e-6)


def test_what_replaced_a_node_can_be_replaced_by_the_same_operators(x: np.ndarray) -> None:
    graph = chain("Abs")
    for _ in range(3):
        edit = Replacement(graph[-1])
        edit.finish(edit.op("Abs", [edit.op("Neg", [graph[-1].inputs[0]])]))
    assert len(set(names(graph))) == len(graph) == 4
    assert graph.outputs[0].name == "v0"
    np.testing.assert_array_equal(run(graph, x), np.abs(x))


def test_names_stay_apart_in_a_clone() -> None:
    graph = chain("Abs")
    edit = Replacement(graph[-1])
    edit.finish(edit.op("Abs", [edit.op("Neg", [graph[-1].inputs[0]])]))
    copy = graph.clone()
    edit = Replacement(copy[-1])
    edit.finish(edit.op("Abs", [edit.op("Neg", [copy[-1].inputs[0]])]))
    assert len(set(names(copy))) == len(copy) == 3


def test_an_existing_value_keeps_its_own_name(x: np.ndarray) -> None:
    graph = chain("Identity", "Neg")
    Replacement(graph[0]).finish(graph.inputs[0])
    assert graph.inputs[0].name == "x"
    assert names(graph) == ["v0", "v1"]
    np.testing.assert_array_equal(run(graph, x), -x)


def test_constants_belong_to_the_value(x: np.ndarray) -> None:
    graph = chain("Relu")
    edit = Replacement(graph[0])
    axes = edit.constant("axes", [0, 1])
    half = edit.constant("half", 0.5)
    exact = edit.constant("exact", np.array([1], np.int32))
    assert [(v.name, v.dtype) for v in (axes, half, exact)] == [
        ("v0.axes", ir.DataType.INT64), ("v0.half", ir.DataType.FLOAT), ("v0.exact", ir.DataType.INT32),
    ]  # fmt: skip
    edit.finish(edit.op("Mul", [graph.inputs[0], half]))
    np.testing.assert_array_equal(run(graph, x), x / 2)


def test_a_derived_weight_is_registered() -> None:
    graph = chain("Relu")
    weight = stored_value(ir.tensor(np.ones((2, 3), np.float32), name="w"))
    graph.register_initializer(weight)
    edit = Replacement(graph[0])
    turned = edit.weight(derive(weight, "t", np.transpose, shape=(3, 2)))
    assert graph.initializers["w.t"] is turned


def test_the_number_of_outputs_must_agree() -> None:
    graph = chain("Relu")
    with pytest.raises(ValueError, match="zip"):
        Replacement(graph[0]).finish()


def test_bypass(x: np.ndarray) -> None:
    graph = chain("Identity", "Neg", "Identity")
    assert bypass(graph[0], graph.inputs[0])
    assert not bypass(graph[-1], graph[0].outputs[0])  # its name is the interface's
    assert names(graph) == ["v1", "v2"]
    np.testing.assert_array_equal(run(graph, x), -x)


def test_reading_attributes() -> None:
    node = ir.node("Transpose", [], {"perm": [1, 0], "mode": "edge", "alpha": 0.5})
    assert attribute(node, "perm") == (1, 0)
    assert (attribute(node, "mode"), attribute(node, "alpha")) == ("edge", 0.5)
    assert attribute(node, "axis", -1) == -1
    assert attribute(node, "axis") is None


def test_shapes() -> None:
    def value(*dims: int | str | None) -> ir.Value:
        return ir.Value(name="v", shape=ir.Shape(dims))

    assert static(value(2, 3)) == (2, 3)
    assert static(value()) == ()
    assert [static(v) for v in (value("n", 3), value(None), ir.Value(name="v"), None)] == [None] * 4
    assert same_shape(value("n", 3), value("n", 3))
    assert not same_shape(value("n", 3), value("m", 3))
    assert not same_shape(value(None), value(None))
    assert not same_shape(value(2), ir.Value(name="v"))
    assert small(value(2)) is None
