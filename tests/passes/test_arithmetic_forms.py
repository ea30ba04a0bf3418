"""The forms that compute: when they apply, when not, and that the numbers stay."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from m4c.passes.arithmetic_forms import TINY
from m4c.passes.canonicalize import Canonicalize
from m4c.weights import array
from tests.integer_graphs import run
from tests.passes.rewriting import Rewritten, build, rewrite

CANONICALIZE = Canonicalize()


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def canonical(text: str, **constants: np.ndarray) -> Rewritten:
    """Rewrite a graph over constants in memory; ``n`` is 3."""
    return rewrite(CANONICALIZE, text, constants=constants, sizes={"n": 3})


@pytest.mark.parametrize("bias", [(), (5,), (1, 5), (3, 1), (3, 5), None])
@pytest.mark.parametrize("turned", [0, 1])
def test_gemm_becomes_matmul_and_add(bias: tuple[int, ...] | None, turned: int) -> None:
    weights = {"w": floats(5, 4) if turned else floats(4, 5)}
    if bias is not None:
        weights["b"] = floats(*bias)
    operands = "x, w" if bias is None else "x, w, b"
    text = f"g (float[3, 4] x) => (float[3, 5] y) {{ y = Gemm<transB = {turned}>({operands}) }}"
    made = rewrite(CANONICALIZE, text, weights=weights)
    wanted = ["Transpose"] * turned + ["MatMul"] + (["Add"] if bias is not None else [])
    assert made.operators == wanted
    assert made.texts == ["Gemm became MatMul and Add"]


def test_gemm_by_a_computed_matrix_with_unknown_rows() -> None:
    text = "g (float[n, 4] x, float[5, 4] w) => (float[n, 5] y) { y = Gemm<transB = 1>(x, w) }"
    assert canonical(text).operators == ["Transpose", "MatMul"]


@pytest.mark.parametrize("form", ["alpha = 0.5", "beta = 2.0", "transA = 1"])
def test_other_gemms_stay(form: str) -> None:
    text = f"g (float[4, 4] x) => (float[4, 5] y) {{ y = Gemm<{form}>(x, w, b) }}"
    made = rewrite(CANONICALIZE, text, weights={"w": floats(4, 5), "b": floats(5)})
    assert made.operators == ["Gemm"]


@pytest.mark.parametrize("exponent", [scalar(2), np.array([2.0], np.float32), np.array(2, np.int64)])
def test_a_square_becomes_a_product(exponent: np.ndarray) -> None:
    made = canonical("g (float[n, 4] x) => (float[n, 4] y) { y = Pow(x, e) }", e=exponent)
    assert made.operators == ["Mul"]


def test_other_powers_stay() -> None:
    text = "g (float[3, 4] x) => (float[3, 4] y) { a = Abs(x) y = Pow(a, e) }"
    for exponent in (scalar(3), scalar(0.5), np.full((4,), 2, np.float32)):
        assert canonical(text, e=exponent).operators == ["Abs", "Pow"]
    wider = "g (float[4] x) => (float[1, 1, 4] y) { y = Pow(x, e) }"
    assert canonical(wider, e=np.full((1, 1, 1), 2, np.float32)).operators == ["Pow"]
    computed = "g (float[4] x, float e) => (float[4] y) { a = Abs(x) y = Pow(a, e) }"
    assert canonical(computed).operators == ["Abs", "Pow"]
    stored = rewrite(
        CANONICALIZE, "g (float[4] x) => (float[4] y) { y = Pow(x, e) }", weights={"e": scalar(2)}
    )
    assert stored.operators == ["Pow"]


@pytest.mark.parametrize("product", ["x, r", "r, x"])
def test_times_a_reciprocal_becomes_a_division(product: str) -> None:
    text = f"g (float[3, 4] x, float[3, 1] z) => (float[3, 4] y) {{ r = Reciprocal(z) y = Mul({product}) }}"
    made = canonical(text)
    assert made.operators == ["Div"]
    assert made.texts == ["Mul by a Reciprocal became Div"]


def test_every_reader_of_a_reciprocal_divides() -> None:
    text = (
        "g (float[4] x, float[4] z) => (float[4] y, float[4] v) "
        "{ r = Reciprocal(z) y = Mul(x, r) v = Mul(r, y) }"
    )
    assert canonical(text).operators == ["Div", "Div"]


@pytest.mark.parametrize(
    ("outputs", "body", "wanted"),
    [
        ("float[4] y", "y = Reciprocal(z)", ["Div"]),
        ("float[4] y", "r = Reciprocal(z) y = Add(x, r)", ["Div", "Add"]),
        (
            "float[4] y, float[4] v",
            "r = Reciprocal(z) y = Mul(x, r) v = Add(r, x)",
            ["Div", "Mul", "Add"],
        ),
        ("float[4] r, float[4] y", "r = Reciprocal(z) y = Mul(x, r)", ["Div", "Div"]),
        ("float[4] y", "r = Reciprocal(z) y = Mul(r, r)", ["Div", "Div"]),
    ],
    ids=["output", "sum", "product and sum", "output and product", "its own square"],
)
def test_reciprocals_that_others_read_become_divisions(outputs: str, body: str, wanted: list[str]) -> None:
    made = canonical(f"g (float[4] x, float[4] z) => ({outputs}) {{ {body} }}")
    assert made.operators == wanted


def test_factors_of_one_go() -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { a = Mul(x, f) b = Mul(f, a) y = Relu(b) }"
    assert canonical(text, f=scalar(1)).operators == ["Relu"]
    assert canonical(text, f=np.array([[1.0]], np.float32)).operators == ["Relu"]
    assert canonical(text, f=scalar(2)).operators == ["Mul", "Mul", "Relu"]
    assert canonical(text, f=np.ones(4, np.float32)).operators == ["Mul", "Mul", "Relu"]


def test_a_factor_of_one_that_adds_a_dimension_or_makes_an_output_stays() -> None:
    wider = "g (float[4] x) => (float[1, 4] y) { a = Mul(x, f) y = Relu(a) }"
    assert canonical(wider, f=np.array([[1.0]], np.float32)).operators == ["Mul", "Relu"]
    output = "g (float[4] x) => (float[4] y) { y = Mul(x, f) }"
    assert canonical(output, f=scalar(1)).operators == ["Mul"]


def test_a_stored_factor_is_not_looked_at() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Mul(x, f) y = Relu(a) }"
    assert rewrite(CANONICALIZE, text, weights={"f": scalar(1)}).operators == ["Mul", "Relu"]


def test_float_negation_becomes_a_product() -> None:
    assert canonical("g (float[n, 4] x) => (float[n, 4] y) { y = Neg(x) }").operators == ["Mul"]
    assert canonical("g (int64[4] x) => (int64[4] y) { y = Neg(x) }").operators == ["Neg"]


NORM = "l = ReduceL2<keepdims = 1>(x, a) c = Clip(l, low) e = Expand(c, s) y = Div(x, e)"
AXES = {"a": ints(-1), "low": scalar(1e-12), "s": ints(3, 4)}


@pytest.mark.parametrize("body", [NORM, NORM.replace("e = Expand(c, s) ", "").replace("(x, e)", "(x, c)")])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_normalize_becomes_one_operator(body: str, axis: int) -> None:
    text = f"g (float[3, 4] x) => (float[3, 4] y) {{ {body} }}"
    constants = {**AXES, "a": ints(axis)}
    if "Expand" not in body:
        constants.pop("s")
    x = floats(3, 4)
    made = rewrite(CANONICALIZE, text, constants=constants, feeds={"x": x})
    assert made.operators == ["LpNormalization"]
    (actual,) = run(made.model, {"x": x})
    expected = functional.normalize(torch.from_numpy(x), dim=axis)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-6, atol=1e-7)


def test_nothing_normalized_is_nothing() -> None:
    text = f"g (float[3, 4] x) => (float[3, 4] y) {{ {NORM} }}"
    made = rewrite(CANONICALIZE, text, constants=AXES, feeds={"x": np.zeros((3, 4), np.float32)})
    assert made.operators == ["LpNormalization"]


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (NORM, {"low": scalar(2 * TINY)}),
        (NORM, {"low": scalar(0)}),
        (NORM, {"low": scalar(-1)}),
        (NORM, {"a": ints(0, 1)}),
        (NORM.replace("Clip(l, low)", "Clip(l, low, high)"), {"high": scalar(1)}),
        (NORM.replace("ReduceL2", "ReduceL1"), {}),
        (NORM.replace("ReduceL2<keepdims = 1>(x, a)", "ReduceL2<keepdims = 1>(x)"), {"s": ints(3, 4)}),
        (NORM.replace("Div(x, e)", "Div(z, e)"), {}),
        (NORM.replace("Clip(l, low)", "Add(l, low)"), {}),
        (NORM.replace("Clip(l, low)", "Clip(l)"), {}),
        ("l = ReduceL2<keepdims = 0>(x, a) c = Clip(l, low) y = Div(x, c)", {}),
        ("y = Div(x, z)", {}),
    ],
    ids=[
        "bound too high",
        "no bound",
        "bound below",
        "two axes",
        "upper bound",
        "sum of magnitudes",
        "all axes",
        "another numerator",
        "sum",
        "no lower bound",
        "dimension dropped",
        "plain",
    ],
)
def test_other_divisions_stay(body: str, changed: dict[str, np.ndarray]) -> None:
    square = body if "keepdims = 0" not in body else body.replace("(x, a)", "(x, a)")
    text = f"g (float[4, 4] x, float[4, 4] z) => (float[4, 4] y) {{ {square} }}"
    constants = {"a": ints(-1), "low": scalar(1e-12), "s": ints(4, 4), "high": scalar(9), **changed}
    used = {name: v for name, v in constants.items() if f", {name}" in square}
    if "s" in used:
        used["s"] = ints(4, 4)
    assert "LpNormalization" not in canonical(text, **used).operators


def test_a_division_that_broadcasts_its_numerator_stays() -> None:
    text = f"g (float[1, 4] x) => (float[3, 4] y) {{ {NORM} }}"
    assert "LpNormalization" not in canonical(text, **AXES).operators


STATISTICS = {
    "scale": np.array([0.5, 2, -1], np.float32),
    "shift": np.array([1, 0, -2], np.float32),
    "mean": np.array([0.1, -0.2, 0.3], np.float32),
    "variance": np.array([0.5, 2, 1e-4], np.float32),
}
NORMAL = "y = BatchNormalization<epsilon = 0.001>(c, scale, shift, mean, variance)"


@settings(deadline=None, max_examples=12)
@given(groups=st.sampled_from([1, 3]), stride=st.integers(1, 2), pad=st.integers(0, 1), bias=st.booleans())
def test_batch_normalization_joins_the_convolution(groups: int, stride: int, pad: int, bias: bool) -> None:
    size = (6 + 2 * pad - 3) // stride + 1
    weights = {"w": floats(3, 3 // groups, 3, 3), **STATISTICS, **({"b": floats(3)} if bias else {})}
    form = f"group = {groups}, strides = [{stride}, {stride}], pads = [{pad}, {pad}, {pad}, {pad}]"
    operands = "x, w, b" if bias else "x, w"
    text = (
        f"g (float[2, 3, 6, 6] x) => (float[2, 3, {size}, {size}] y) "
        f"{{ c = Conv<{form}>({operands}) {NORMAL} }}"
    )
    made = rewrite(CANONICALIZE, text, weights=weights)
    assert made.operators == ["Conv"]
    assert made.texts == ["BatchNormalization became part of the Conv before it"]


def test_one_kernel_before_two_normalizations_and_one_normalization_after_two_kernels() -> None:
    text = (
        "g (float[1, 3, 4] x, float[1, 3, 4] z) => (float[1, 3, 4] y, float[1, 3, 4] v, float[1, 3, 4] u) {"
        "c = Conv(x, w) d = Conv(z, w) e = Conv(x, k, shift)"
        "y = BatchNormalization(c, scale, shift, mean, variance)"
        "v = BatchNormalization(d, shift, scale, scale, variance)"
        "u = BatchNormalization(e, scale, shift, mean, variance) }"
    )
    made = rewrite(CANONICALIZE, text, weights={"w": floats(3, 3, 1), "k": -floats(3, 3, 1), **STATISTICS})
    assert made.operators == ["Conv"] * 3


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        (f"c = Relu(x) {NORMAL}", True),
        (f"c = Conv(x, w) v = Relu(c) {NORMAL}", True),
        (f"v = Conv(x, w) c = Identity(v) {NORMAL}", True),
        (f"k = Relu(w) c = Conv(x, k) {NORMAL} v = Relu(y)", True),
        (f"c = Conv(x, w) {NORMAL} v = Relu(y)", False),
    ],
    ids=["no convolution", "another reader", "returned", "computed kernel", "computed statistics"],
)
def test_other_batch_normalizations_stay(body: str, stored: bool) -> None:
    outputs = "float[1, 3, 4] y, float[1, 3, 4] v" if "v =" in body else "float[1, 3, 4] y"
    inputs = "float[1, 3, 4] x" + ("" if stored else ", float[3] shift")
    text = f"g ({inputs}) => ({outputs}) {{ {body} }}"
    weights = {"w": floats(3, 3, 1), **STATISTICS}
    if "w)" not in body:
        weights.pop("w")
    if not stored:
        weights.pop("shift")
    assert "BatchNormalization" in rewrite(CANONICALIZE, text, weights=weights).operators


def test_other_dtypes_keep_their_batch_normalization() -> None:
    wide = {name: values.astype(np.float64) for name, values in STATISTICS.items()}
    text = f"g (double[1, 3, 4] x) => (double[1, 3, 4] y) {{ c = Conv(x, w) {NORMAL} }}"
    model = build(
        text, {"w": floats(3, 3, 1).astype(np.float64), **wide}, {}
    )  # ONNX Runtime has no such Conv
    result = CANONICALIZE(model)
    assert not result.modified
    assert [node.op_type for node in result.model.graph] == ["Conv", "BatchNormalization"]


def test_folded_kernels_are_read_when_they_are_written() -> None:
    text = f"g (float[1, 3, 4] x) => (float[1, 3, 4] y) {{ c = Conv(x, w) {NORMAL} }}"
    model = CANONICALIZE(build(text, {"w": floats(3, 3, 1), **STATISTICS}, {})).model
    kernel = model.graph.initializers["w.normalized"].const_value
    assert kernel is not None
    gain = STATISTICS["scale"] / np.sqrt(STATISTICS["variance"] + np.float32(0.001))
    np.testing.assert_allclose(array(kernel), floats(3, 3, 1) * gain[:, None, None], rtol=1e-6)
