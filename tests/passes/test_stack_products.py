"""One product for queries, keys and values: what it does to the graph, and that ONNX Runtime computes the same."""

import numpy as np
import onnx_ir as ir
import pytest

from m4c.blockwise import BlockwiseWeight, stacked
from m4c.grid import Grid
from m4c.model import fingerprint
from m4c.numerics import difference
from m4c.passes.pack_matmul import PackMatMul
from m4c.passes.quantize_weights import QuantizeWeights
from m4c.passes.stack_products import StackProducts
from m4c.pipeline import Pass, Pipeline
from m4c.rewrite import PARTS
from m4c.scheme import Scheme
from m4c.weights import Array, array
from tests.integer_graphs import run
from tests.passes.test_pack_matmul import exact
from tests.passes.test_quantize_weights import folded, matrix, operators, rounded

WIDTHS = {"q": 32, "k": 16, "v": 16}
PRODUCTS = """m (float[1, 1, 64] x) => (float[1, 1, 32] a, float[1, 1, 16] b, float[1, 1, 16] c) {{
    qt = Transpose<perm = [1, 0]>(q)
    kt = Transpose<perm = [1, 0]>(k)
    vt = Transpose<perm = [1, 0]>(v)
    r = Relu(x)
    a = MatMul(x, qt)
    b = MatMul(x, kt)
    c = MatMul({last}, vt)
}}"""


def matrices() -> dict[str, Array]:
    return {name: matrix(width + 1, 64)[:width] * (i + 1) for i, (name, width) in enumerate(WIDTHS.items())}


def attention(last: str = "x", outputs: int = 0) -> ir.Model:
    """Return an attention of two heads on one; the last of its operands are ``outputs`` of the graph too."""
    model = folded(PRODUCTS.format(last=last), matrices())
    graph, products = model.graph, list(model.graph.outputs)
    past = (1, 1, "past", 16)
    cache = [ir.val(name, ir.DataType.FLOAT, past) for name in ("pk", "pv")]
    ends = [ir.val("last", ir.DataType.INT32, (1,)), ir.val("total", ir.DataType.INT32, ())]
    heads = {"num_heads": 2, "kv_num_heads": 1}
    node = ir.node(
        "GroupQueryAttention", [*products, *cache, *ends], heads, domain="com.microsoft", num_outputs=3
    )
    for value, name in zip(node.outputs, ("y", "ks", "vs"), strict=True):
        value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
    graph.inputs.extend([*cache, *ends])
    graph.append(node)
    graph.outputs[:] = [*node.outputs, *products[3 - outputs :]]
    model.opset_imports["com.microsoft"] = 1
    return model


def feeds() -> dict[str, Array]:
    rng = np.random.default_rng(3)
    past = {name: rng.standard_normal((1, 1, 5, 16)).astype(np.float32) for name in ("pk", "pv")}
    ends = {"last": np.array([5], np.int32), "total": np.array(6, np.int32)}
    return {"x": rng.standard_normal((1, 1, 64)).astype(np.float32), **past, **ends}


def passed(model: ir.Model, *steps: Pass) -> ir.Model:
    return Pipeline(steps).run(model)[0]


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_results_are_the_same(symmetric: bool) -> None:
    quantize = QuantizeWeights(Scheme(4, 32, symmetric))
    apart = passed(attention(), quantize, PackMatMul())
    made = passed(attention(), quantize, StackProducts(), PackMatMul())
    assert operators(apart).count("MatMulNBits") == 3
    assert operators(made) == ["MatMulNBits", "GroupQueryAttention"]
    for one, other in zip(run(exact(apart), feeds()), run(exact(made), feeds()), strict=True):
        assert difference(one, other).max_relative < 1e-5
    assert fingerprint(passed(made, StackProducts())) == fingerprint(made)


def test_the_product_tells_its_parts() -> None:
    made = passed(attention(), QuantizeWeights(Scheme(4, 32)), StackProducts(), PackMatMul())
    assert made.graph.node(0).metadata_props[PARTS] == '{"q": 32, "k": 16, "v": 16}'


@pytest.mark.parametrize(
    ("model", "scheme"),
    [
        (attention(last="r"), Scheme(4, 32)),
        (attention(outputs=1), Scheme(4, 32)),
        (attention(), Scheme(4, 0)),
        (attention(), Scheme(4, 32, keep=(("v", "int8"),))),
        (attention(), Scheme(4, 32, keep=(("q", "float32"),))),
    ],
    ids=["another input", "another reader", "channels", "another grid", "no grid"],
)
def test_products_that_differ_stay(model: ir.Model, scheme: Scheme) -> None:
    before = passed(model, QuantizeWeights(scheme))
    made, reports = Pipeline((StackProducts(),)).run(before)
    assert fingerprint(made) == fingerprint(before)
    assert [note.text for note in reports[0].misses] == ["its products differ in more than their outputs"]


def test_rows_across_parts_are_those_of_each() -> None:
    made = passed(attention(), QuantizeWeights(Scheme(8, 16)))
    weights = [made.graph.initializers[f"{name}.q"].const_value.origin for name in WIDTHS]  # type: ignore[union-attr]
    assert all(isinstance(weight, BlockwiseWeight) for weight in weights)
    whole = stacked(weights)
    expected = np.concatenate([rounded(values, Grid(8, 16)) for values in matrices().values()])
    for rows in (slice(0, 64), slice(30, 50), slice(31, 33), slice(48, 64)):
        np.testing.assert_array_equal(whole.rows(rows).dequantized().numpy(), expected[rows])
    np.testing.assert_array_equal(array(whole.dequantized()), expected)
