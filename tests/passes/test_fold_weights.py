"""fold-weights: arithmetic on stored values becomes a recipe, as ONNX Runtime computes it."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from m4c.passes.fold_weights import EVALUATE, GROWN_BYTES, SHARED_BYTES, FoldWeights
from m4c.weights import array, is_weight
from tests.passes.rewriting import Rewritten, rewrite

FOLD = FoldWeights()
W = np.random.default_rng(3).standard_normal((3, 4)).astype(np.float32)
COUNTS = np.array([[7, -7, 5], [-9, 9, -1]], np.int64)


HALF = {"c": np.array(0.5, np.float32)}
BOUNDS = {**HALF, "d": np.array(-0.5, np.float32)}


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def fold(
    body: str, shape: tuple[int, ...], weight: np.ndarray, constants: dict[str, np.ndarray] | None = None
) -> Rewritten:
    """Fold ``w = body`` and add what comes out to an input, so that ONNX Runtime sees it."""
    kind = {"float32": "float", "int64": "int64"}[weight.dtype.name]
    sized = f"{kind}{list(shape)}" if shape else kind
    text = f"g ({sized} x) => ({sized} y) {{ {body} y = Add(x, f) }}"
    return rewrite(FOLD, text, weights={"w": weight}, constants=constants)


@pytest.mark.parametrize(
    ("body", "shape", "constants"),
    [
        ("f = Add(w, w)", (3, 4), {}),
        ("f = Add(w, c)", (3, 4), {"c": np.ones((3, 1), np.float32)}),
        ("f = Sub(w, c)", (3, 4), {"c": np.ones((3, 1), np.float32)}),
        ("f = Mul(w, c)", (3, 4), {"c": np.full((3, 1), 3, np.float32)}),
        ("f = Div(w, c)", (3, 4), {"c": np.full((3, 1), 3, np.float32)}),
        ("f = Exp(w)", (3, 4), {}),
        ("a = Mul(w, w) f = Sqrt(a)", (3, 4), {}),
        ("f = Min(w, c, d)", (3, 4), {"c": np.array(0.5, np.float32), "d": np.array(0.4, np.float32)}),
        ("f = Clip(w)", (3, 4), {}),
        ("f = Clip(w, c)", (3, 4), {"c": np.array(-0.5, np.float32)}),
        ("f = Clip(w, , c)", (3, 4), {"c": np.array(0.5, np.float32)}),
        ("f = Clip(w, c, d)", (3, 4), {"c": np.array(0.5, np.float32), "d": np.array(-0.5, np.float32)}),
        ("f = Identity(w)", (3, 4), {}),
        ("f = Concat<axis = -1>(w, w)", (3, 8), {}),
        ("f = Concat<axis = 0>(w, c, w)", (7, 4), {"c": np.zeros((1, 4), np.float32)}),
        ("f = Transpose(w)", (4, 3), {}),
        ("f = Transpose<perm = [1, 0]>(w)", (4, 3), {}),
        ("f = Reshape(w, s)", (2, 6), {"s": ints(2, -1)}),
        ("f = Reshape(w, s)", (3, 2, 2), {"s": ints(0, 2, 2)}),
        ("f = Unsqueeze(w, s)", (1, 3, 4, 1), {"s": ints(0, 3)}),
        ("a = Unsqueeze(w, s) f = Squeeze(a)", (3, 4), {"s": ints(0, 3)}),
        ("f = Expand(w, s)", (2, 3, 4), {"s": ints(2, 1, 1)}),
        ("f = Gather<axis = 1>(w, s)", (3, 2), {"s": ints(-1, 0)}),
        ("f = Gather(w, s)", (1, 2, 4), {"s": ints(2, 1).reshape(1, 2)}),
        ("f = ReduceSum(w, s)", (1, 4), {"s": ints(0)}),
        ("f = ReduceSum<keepdims = 0>(w, s)", (3,), {"s": ints(-1)}),
        ("f = ReduceMean<keepdims = 0>(w, s)", (), {"s": ints(0, 1)}),
        ("f = ReduceSum<keepdims = 1>(w)", (1, 1), {}),
        ("f = ReduceSum<noop_with_empty_axes = 1>(w)", (3, 4), {}),
        ("f = ReduceMean<keepdims = 0>(w, s)", (), {"s": ints()}),
        ("f = Abs(w)", (3, 4), {}),
        ("a = Abs(w) f = Log(a)", (3, 4), {}),
        ("f = Max(w, c)", (3, 4), {"c": np.array(0.5, np.float32)}),
        ("a = Less(w, c) b = Not(a) f = Where(b, w, c)", (3, 4), HALF),
        ("a = LessOrEqual(w, c) b = GreaterOrEqual(w, d) e = And(a, b) f = Where(e, w, c)", (3, 4), BOUNDS),
        ("a = Greater(w, c) b = Equal(w, w) e = Or(a, b) f = Cast<to = 1>(e)", (3, 4), HALF),
        ("f = GatherElements<axis = 1>(w, s)", (3, 2), {"s": ints(0, -1, 2, 2, 3, -4).reshape(3, 2)}),
        (
            "f = ScatterElements<axis = 1>(w, s, u)",
            (3, 4),
            {"s": ints(0, -1, 2).reshape(3, 1), "u": W[:, 1:2]},
        ),
        ("f = ScatterND(w, s, u)", (3, 4), {"s": ints(2, -3).reshape(2, 1), "u": W[:2]}),
        ("f = ScatterND(w, s, u)", (3, 4), {"s": ints(2, 1, 0, -1).reshape(2, 2), "u": W[0, :2]}),
        ("a = Cast<to = 7>(w) f = Cast<to = 1>(a)", (3, 4), {}),
        ("a = Cast<to = 10>(w) f = Cast<to = 1>(a)", (3, 4), {}),
    ],
)
def test_each_recipe_is_what_onnx_runtime_computes(
    body: str, shape: tuple[int, ...], constants: dict[str, np.ndarray]
) -> None:
    made = fold(body, shape, W, constants)
    assert made.operators == ["Add"]
    stored = made.model.graph[0].inputs[1]
    assert stored is not None
    assert is_weight(stored)
    assert str(stored.name).startswith("w.")


def test_every_recipe_is_tested() -> None:
    source = __file__
    with open(source, encoding="utf-8") as file:  # noqa: PTH123 - its own text
        text = file.read()
    assert [op for op in EVALUATE if f"{op}(" not in text and f"{op}<" not in text] == []


@pytest.mark.parametrize("divisor", [ints(2), ints(-2)])
def test_whole_numbers_divide_towards_zero(divisor: np.ndarray) -> None:
    assert fold("f = Div(w, c)", (2, 3), COUNTS, {"c": divisor}).operators == ["Add"]


def test_large_whole_numbers_divide_exactly() -> None:
    large = np.array([(1 << 60) + 1, -(1 << 60) - 1], np.int64)
    assert fold("f = Div(w, c)", (2,), large, {"c": ints(1)}).operators == ["Add"]


@settings(deadline=None, max_examples=40)
@given(
    start=st.integers(-7, 7),
    end=st.one_of(st.integers(-7, 7), st.sampled_from([-(1 << 63), (1 << 63) - 1])),
    step=st.sampled_from([None, 1, 2, -1, -3]),
    axis=st.sampled_from([0, 1, -1]),
)
@example(start=-6, end=-6, step=-1, axis=0)
@example(start=7, end=-6, step=-3, axis=1)
def test_slices_are_cut_as_onnx_does(start: int, end: int, step: int | None, axis: int) -> None:
    assume(step is None or step > 0 or end < 1 << 62)  # there ONNX Runtime does not clamp as ONNX says
    data = np.arange(25, dtype=np.float32).reshape(5, 5)
    constants = {"a": ints(start), "b": ints(end), "c": ints(axis)}
    if step is not None:
        constants["d"] = ints(step)
    text = f"g (float[1, 1] x) => (float[n, m] y) {{ f = Slice(w, {', '.join(constants)}) y = Add(x, f) }}"
    made = rewrite(FOLD, text, weights={"w": data}, constants=constants)
    assert made.operators == ["Add"]


def test_slices_without_axes_begin_at_the_first() -> None:
    made = fold("f = Slice(w, a, b)", (2, 3), W, {"a": ints(1, 0), "b": ints(3, -1)})
    assert made.operators == ["Add"]


def test_a_chain_folds_at_once() -> None:
    made = fold("a = Transpose(w) b = Mul(a, c) f = Reshape(b, s)", (12,), W, {"c": W[:, 0], "s": ints(-1)})
    assert made.operators == ["Add"]
    assert [note.text.split(" became")[0] for note in made.changes] == ["Transpose", "Mul", "Reshape"]


BIG = np.zeros((SHARED_BYTES // 16, 8), np.float32)
"""Twice the size that may be stored twice."""


def test_a_large_weight_that_the_model_reads_too_stays() -> None:
    rows, columns = BIG.shape
    text = (
        f"g (float[2, {rows}] x, float[2, {columns}] z) => (float[2, {columns}] y, float[2, {rows}] v) "
        "{ y = MatMul(x, w) t = Transpose(w) v = MatMul(z, t) }"
    )
    made = rewrite(FOLD, text, weights={"w": BIG})
    assert "Transpose" in made.operators
    assert [note.text for note in made.misses] == [
        f"w is used elsewhere: folding Transpose would store {BIG.nbytes} bytes twice"
    ]
    small = text.replace(str(rows), "16")
    assert "Transpose" not in rewrite(FOLD, small, weights={"w": BIG[:16]}).operators


def test_a_large_weight_whose_readers_all_fold_is_cut() -> None:
    rows, columns = BIG.shape
    half = rows // 2
    text = (
        f"g (float[2, {half}] x) => (float[2, {columns}] y) {{ a = Slice(w, n, h, n) b = Slice(w, h, r, n)"
        " p = MatMul(x, a) q = MatMul(x, b) y = Add(p, q) }"
    )
    made = rewrite(FOLD, text, weights={"w": BIG}, constants={"n": ints(0), "h": ints(half), "r": ints(rows)})
    assert made.operators == ["MatMul", "MatMul", "Add"]


def test_what_is_free_after_another_folded_folds_too() -> None:
    rows, columns = BIG.shape
    text = (
        f"g (float[2, {columns}] x) => (float[2, {rows}] y, float[2, {columns}] v) "
        "{ t = Transpose(w) y = MatMul(x, t) a = Slice(w, n, h, n) v = Add(x, a) }"
    )
    made = rewrite(FOLD, text, weights={"w": BIG}, constants={"n": ints(0), "h": ints(1)})
    assert made.operators == ["MatMul", "Add"]
    assert not made.misses


def test_a_result_much_larger_than_what_it_is_made_of_stays() -> None:
    rows = GROWN_BYTES // 4096 + 1
    text = f"g (float[{rows}, 1024] x) => (float[{rows}, 1024] y) {{ e = Expand(w, s) y = Add(x, e) }}"
    weights = {"w": np.ones((1, 1024), np.float32)}
    made = rewrite(FOLD, text, weights=weights, constants={"s": ints(rows, 1024)})
    assert made.operators == ["Expand", "Add"]
    assert made.misses[0].text == f"Expand would store {rows * 1024 * 4} bytes instead of {1024 * 4 + 16}"


def test_outputs_and_operators_without_a_recipe_stay_with_a_reason() -> None:
    text = (
        "g (float[3, 4] x) => (float[4, 3] t, float[3, 4] y) { t = Transpose(w) a = Tanh(w) y = Add(x, a) }"
    )
    made = rewrite(FOLD, text, weights={"w": W})
    assert made.operators == ["Transpose", "Tanh", "Add"]
    assert [note.text for note in made.misses] == [
        "t is an output of the graph",
        "Tanh of stored values has no recipe",
    ]


def test_what_is_computed_is_no_business_of_it() -> None:
    made = rewrite(FOLD, "g (float[3, 4] x) => (float[3, 4] y) { y = Add(x, w) }", weights={"w": W})
    assert made.operators == ["Add"]
    assert not made.misses


def test_two_recipes_of_one_weight_have_two_names() -> None:
    made = fold("a = Mul(w, c) b = Mul(w, d) f = Add(a, b)", (3, 4), W, {"c": W, "d": -W})
    (stored,) = (v for v in made.model.graph.initializers.values() if is_weight(v))
    assert stored.const_value is not None
    np.testing.assert_array_equal(array(stored.const_value), np.zeros((3, 4), np.float32))


def test_a_scatter_that_adds_up_stays() -> None:
    body = 'f = ScatterND<reduction = "add">(w, s, u)'
    made = fold(body, (3, 4), W, {"s": ints(2, 2).reshape(2, 1), "u": W[:2]})
    assert made.operators == ["ScatterND", "Add"]
    assert [miss.text for miss in made.misses] == ["ScatterND with a reduction has no recipe"]


def test_parts_of_a_large_weight_that_are_joined_again_are_stored_once() -> None:
    """Gates of a recurrent layer, whose order ONNX has otherwise than torch."""
    rows, columns = BIG.shape
    text = (
        f"g (float[2, {columns}] x) => (float[2, {rows}] y) {{ a = Slice(w, zero, half, zero) "
        "b = Slice(w, half, whole, zero) c = Concat<axis = 0>(b, a) t = Transpose(c) y = MatMul(x, t) }"
    )
    constants = {"zero": ints(0), "half": ints(rows // 2), "whole": ints(rows)}
    made = rewrite(FOLD, text, weights={"w": BIG}, constants=constants)
    assert made.operators == ["MatMul"]
    assert len(made.model.graph.initializers) == 1
