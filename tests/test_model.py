from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import Bug
from m4c.model import (
    fingerprint,
    fresh_name,
    module_path,
    nodes,
    operator,
    operator_counts,
    value_names,
)
from m4c.scopes import NAME_SCOPES
from m4c.weights import Array, lazy, stored_value


def small_model() -> ir.Model:
    """Return relu(x · w) with an If after it; reading w is a bug."""

    def read() -> Array:
        raise Bug("w was read")

    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=["batch", 4])
    w = stored_value(lazy("w", ir.DataType.FLOAT, (4, 4), read))
    product = ir.node("MatMul", [x, w], name="product")
    branch = ir.Graph([], [], nodes=[ir.node("Constant", [], {"value": ir.tensor(np.arange(2000.0))})])
    choice = ir.node(
        "If", [x], {"then_branch": branch, "else_branch": ir.Graph([], [], nodes=[])}, name="choice"
    )
    relu = ir.node("Relu", [product.outputs[0]], name="relu")
    for node in (product, choice, relu):
        node.outputs[0].name = f"{node.name}_out"
    graph = ir.Graph(
        [x], [relu.outputs[0]], nodes=[product, relu, choice], initializers=[w], opset_imports={"": 20}
    )
    return ir.Model(graph, ir_version=10)


def test_module_path_is_where_a_node_was_captured() -> None:
    node = ir.node("Add", [], name="n7")
    assert module_path(node) == "n7"
    node.metadata_props[NAME_SCOPES] = "['', 'source', 'source.blocks.1', 'source.blocks.1.fc', 'linear_1']"
    assert module_path(node) == "blocks.1.fc"
    for scopes in ("['', 'add']", "['', 'source', 'add']"):  # of the captured module itself
        node.metadata_props[NAME_SCOPES] = scopes
        assert module_path(node) == "n7"
    assert module_path(ir.node("Add", [])) == "Add"


def test_operators_are_counted_with_their_domain_and_in_every_graph() -> None:
    model = small_model()
    inner = ir.node("Neg", [])
    model.functions[("f", "g", "")] = ir.Function(
        "f", "g", graph=ir.Graph([], [], nodes=[inner]), attributes=[]
    )
    model.graph.append(ir.node("MatMulNBits", [], domain="com.microsoft"))
    assert operator_counts(model) == {
        "MatMul": 1, "Relu": 1, "If": 1, "Constant": 1, "com.microsoft::MatMulNBits": 1, "Neg": 1,
    }  # fmt: skip
    assert operator(ir.node("Relu", [], domain="ai.onnx")) == "Relu"
    assert inner in list(nodes(model))


def constant_in_branch(model: ir.Model) -> None:
    values = np.arange(2000.0)
    values[1000] = 0  # in the middle, which a printed array leaves out
    branch = next(n for n in model.graph if n.op_type == "If").attributes["then_branch"].as_graph()
    branch[0].attributes["value"] = ir.AttrTensor("value", ir.tensor(values))


CHANGES: dict[str, Callable[[ir.Model], object]] = {
    "node": lambda m: m.graph.append(ir.node("Relu", [])),
    "attribute": lambda m: m.graph[1].attributes.add(ir.AttrFloat32("alpha", 1.0)),
    "domain": lambda m: setattr(m.graph[1], "domain", "com.microsoft"),
    "operand": lambda m: m.graph[1].replace_input_with(0, m.graph.inputs[0]),
    "name": lambda m: setattr(m.graph[1].outputs[0], "name", "other"),
    "shape": lambda m: setattr(m.graph.inputs[0], "shape", ir.Shape([1, 4])),
    "initializer": lambda m: setattr(m.graph.initializers["w"], "dtype", ir.DataType.FLOAT16),
    "a constant in a branch": constant_in_branch,
    "reference": lambda m: m.graph[1].attributes.add(ir.RefAttr("alpha", "beta", ir.AttributeType.FLOAT)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_sees(change: str) -> None:
    model = small_model()
    before = fingerprint(model)
    CHANGES[change](model)
    assert fingerprint(model) != before


def test_fingerprint_of_a_clone_is_the_same_and_reads_no_weight() -> None:
    assert fingerprint(small_model()) == fingerprint(small_model().clone())


def test_fresh_names() -> None:
    taken = value_names(small_model().graph)
    assert fresh_name(taken, "new") == "new"
    assert [fresh_name(taken, name) for name in ("x", "w", "relu_out")] == ["x.2", "w.2", "relu_out.2"]
    assert [fresh_name(taken, name) for name in ("w", "new", "w.2")] == ["w.3", "new.2", "w.2.2"]
