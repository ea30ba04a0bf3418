"""equalize-norms: scales and shifts of channels become part of the matrices that read them."""

from collections.abc import Mapping

import numpy as np
import pytest

from m4c.passes.decompose_layer_norm import DecomposeLayerNorm
from m4c.passes.equalize_norms import EqualizeNorms
from m4c.pipeline import Pipeline
from m4c.weights import array, is_weight
from tests.integer_graphs import graph, run
from tests.passes.rewriting import rewrite

RNG = np.random.default_rng(5)
Arrays = Mapping[str, np.ndarray]


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


WEIGHTS = {"g": normal(8), "be": normal(8), "w": normal(8, 4), "v": normal(8, 4), "b": normal(4)}
NORM = "m = Mul(x, g) n = Add(m, be)"


def only(*names: str) -> Arrays:
    return {name: WEIGHTS[name] for name in names}


def test_one_norm_and_two_matrices_with_and_without_a_bias() -> None:
    text = f"""g (float[2,3,8] x) => (float[2,3,4] y, float[2,3,4] z) {{
        {NORM} p = MatMul(n, w) y = Add(p, b) z = MatMul(n, v) }}"""
    made = rewrite(EqualizeNorms(), text, weights=WEIGHTS)
    assert made.texts == ["scale of channels folded into 2 matrices"]
    assert sorted(made.operators) == ["Add", "Add", "MatMul", "MatMul"]
    folded = made.model.graph.initializers["w.by.g"]
    assert is_weight(folded)
    assert folded.const_value is not None
    np.testing.assert_array_equal(array(folded.const_value), WEIGHTS["w"] * WEIGHTS["g"][:, None])


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        ("m = Mul(x, g) y = MatMul(m, w)", ["MatMul"]),
        ("m = Mul(g, x) n = Add(be, m) p = MatMul(n, w) y = Add(b, p)", ["MatMul", "Add"]),
    ],
)
def test_either_order_and_no_shift(body: str, operators: list[str]) -> None:
    used = [name for name in WEIGHTS if f"({name}," in body or f" {name})" in body]
    text = f"g (float[3,8] x) => (float[3,4] y) {{ {body} }}"
    assert rewrite(EqualizeNorms(), text, weights=only(*used)).operators == operators


@pytest.mark.parametrize(
    ("text", "names", "reason"),
    [
        (f"(float[3,8] x) => (float[3,8] n) {{ {NORM} }}", "g be", "n is an output of the graph"),
        (
            f"(float[3,8] x) => (float[3,4] y, float[3,8] r) {{ {NORM} y = MatMul(n, w) r = Relu(n) }}",
            "g be w",
            "Relu reads n, not a linear layer",
        ),
        (
            f"(float[3,8] x, float[8,4] c) => (float[3,4] y) {{ {NORM} y = MatMul(n, c) }}",
            "g be",
            "c is not a stored matrix",
        ),
        (
            f"(float[3,8] x, float[5,3] c) => (float[5,8] y) {{ {NORM} y = MatMul(c, n) }}",
            "g be",
            "MatMul reads n, not a linear layer",
        ),
    ],
)
def test_what_something_else_reads_stays(text: str, names: str, reason: str) -> None:
    made = rewrite(EqualizeNorms(), f"g {text}", weights=only(*names.split()))
    assert not made.changes
    assert [miss.text for miss in made.misses] == [reason]


def test_a_factor_that_is_not_of_channels_is_no_norm() -> None:
    text = "g (float[3,8] x) => (float[3,4] y) { m = Mul(x, c) y = MatMul(m, w) }"
    made = rewrite(EqualizeNorms(), text, weights=only("w"), constants={"c": np.array([2], np.float32)})
    assert (made.changes, made.misses) == ((), ())


def test_a_matrix_that_two_norms_share_is_folded_for_each() -> None:
    text = """g (float[3,8] x) => (float[3,4] y, float[3,4] z) {
        a = Mul(x, g) y = MatMul(a, w) c = Mul(x, be) z = MatMul(c, w) }"""
    made = rewrite(EqualizeNorms(), text, weights=only("g", "be", "w"))
    assert {"w.by.g", "w.by.be"} <= set(made.model.graph.initializers)


def test_a_layer_norm_leaves_nothing_but_its_core() -> None:
    text = """g (float[2,8] x) => (float[2,4] y) {
        n = LayerNormalization<axis = -1, epsilon = 1e-12>(x, g, be) p = MatMul(n, w) y = Add(p, b) }"""
    model = graph(text, **only("g", "be", "w", "b"))
    feeds = {"x": normal(2, 8)}
    made, _ = Pipeline((DecomposeLayerNorm("norm"), EqualizeNorms())).run(model)
    assert [n.op_type for n in made.graph] == ["ReduceMean", "Sub", "LpNormalization", "MatMul", "Add"]
    np.testing.assert_allclose(run(made, feeds)[0], run(model, feeds)[0], rtol=1e-4, atol=1e-5)
