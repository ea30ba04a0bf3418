"""MatMulNBits in place of MatMul and DequantizeLinear: computed by ONNX Runtime, it is the same product."""

import numpy as np
import onnx_ir as ir
import pytest

from m4c.grid import Grid
from m4c.model import fingerprint
from m4c.numerics import difference, sqnr
from m4c.passes.fold_weights import FoldWeights
from m4c.passes.pack_matmul import PackMatMul
from m4c.passes.properties import typed
from m4c.passes.quantize_weights import QuantizeWeights
from m4c.pipeline import Pass, Pipeline, Report
from m4c.rewrite import attribute
from m4c.scheme import Scheme
from tests.integer_graphs import run
from tests.passes.rewriting import build
from tests.passes.test_quantize_weights import (
    LINEAR,
    TABLE,
    TWO_PRODUCTS,
    feed,
    folded,
    given,
    matrix,
    operators,
    rounded,
)


def passed(model: ir.Model, *steps: Pass) -> tuple[ir.Model, tuple[Report, ...]]:
    return Pipeline(steps).run(model)


def linear(inputs: int = 64) -> ir.Model:
    return folded(LINEAR.format(inputs=inputs, outputs=24), {"w": matrix(24, inputs)})


def exact(model: ir.Model) -> ir.Model:
    """Return ``model`` with activations that the kernel does not round."""
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
    return model


@pytest.mark.parametrize("group", [16, 32, 64])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_product_is_the_same(bits: int, symmetric: bool, group: int) -> None:
    scheme = Scheme(bits, group, symmetric)
    made, reports = passed(linear(192), QuantizeWeights(scheme), PackMatMul())
    assert operators(made) == ["MatMulNBits"]
    assert [note.text for note in reports[1].changes] == ["w is packed"]
    assert set(made.graph.initializers) == {"w.packed", "w.packed.scales"} | (
        set() if symmetric else {"w.packed.zeros"}
    )
    x = feed((2, 3, 192))
    expected = x @ rounded(matrix(24, 192), Grid(bits, group, symmetric)).T
    assert sqnr(expected, run(made, {"x": x})[0]) > 35  # activations are rounded to int8
    assert difference(expected, run(exact(made), {"x": x})[0]).max_relative < 1e-5


def test_the_operator_as_onnx_runtime_wants_it() -> None:
    made, _ = passed(linear(), QuantizeWeights(Scheme(4, 16)), PackMatMul())
    node = made.graph.node(0)
    assert node.domain == "com.microsoft"
    assert made.opset_imports["com.microsoft"] == 1
    assert {name: attribute(node, name) for name in node.attributes} == {
        "K": 64,
        "N": 24,
        "bits": 4,
        "block_size": 16,
        "accuracy_level": 4,
    }
    assert [value.name for value in made.graph.outputs] == ["y"]
    again, reports = passed(made, PackMatMul())
    assert fingerprint(again) == fingerprint(made)
    assert not reports[0].changes


def test_an_odd_number_of_groups_has_zero_points_with_a_gap() -> None:
    """Three groups take a byte and a half of each row, and the next row begins at a byte."""
    made, _ = passed(linear(96), QuantizeWeights(Scheme(4, 32, symmetric=False)), PackMatMul())
    x = feed((2, 3, 96))
    expected = x @ rounded(matrix(24, 96), Grid(4, 32, symmetric=False)).T
    assert made.graph.initializers["w.packed.zeros"].shape == ir.Shape([24, 2])
    assert difference(expected, run(exact(made), {"x": x})[0]).max_relative < 1e-5


def test_weights_with_an_order_of_their_own() -> None:
    weight, values = given(np.random.default_rng(4).permutation(64))
    made, _ = passed(linear(), QuantizeWeights(Scheme(4), given={"w": weight}), PackMatMul())
    assert operators(made) == ["Gather", "MatMulNBits"]
    x = feed((2, 3, 64))
    assert difference(x @ values.T, run(exact(made), {"x": x})[0]).max_relative < 1e-5


def test_one_scale_a_channel_stays() -> None:
    before, _ = passed(linear(), QuantizeWeights(Scheme(4, 0)))
    made, reports = passed(before, PackMatMul())
    assert fingerprint(made) == fingerprint(before)
    assert [note.text for note in reports[0].misses] == ["w has one scale a channel"]


def test_tables_stay() -> None:
    before, _ = passed(folded(TABLE.format(inputs=64), {"w": matrix()}), QuantizeWeights(Scheme(4)))
    assert fingerprint(passed(before, PackMatMul())[0]) == fingerprint(before)


def test_foreign_integers_stay() -> None:
    text = """m (float[3, 64] x) => (float[3, 24] y) {
        w = DequantizeLinear<axis = 1>(q, s)
        y = MatMul(x, w)
    }"""
    q = np.random.default_rng(1).integers(-128, 128, (64, 24), np.int8)
    model = build(text, {"q": q, "s": np.ones(24, np.float32)}, {})
    made, reports = Pipeline((FoldWeights(), PackMatMul()), given=(typed,)).run(model)
    assert operators(made) == ["DequantizeLinear", "MatMul"]
    assert [note.text for note in reports[1].misses] == ["its weights are not quantized by m4c"]


def test_one_matrix_of_two_products_is_stored_once() -> None:
    made, _ = passed(folded(TWO_PRODUCTS, {"w": matrix()}), QuantizeWeights(Scheme(4)), PackMatMul())
    assert operators(made).count("MatMulNBits") == 2
    assert set(made.graph.initializers) == {"w.packed", "w.packed.scales"}
