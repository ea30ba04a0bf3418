"""The smaller rewrites for targets with few operators: the same numbers, in operators that are allowed."""

import numpy as np
import pytest

from m4c.passes.legalize_batch import LegalizeBatch
from m4c.passes.legalize_concat import LegalizeConcat
from m4c.passes.legalize_gather import LegalizeGather
from m4c.passes.legalize_gelu import LegalizeGelu
from m4c.passes.legalize_indices import LegalizeIndices
from m4c.passes.legalize_l2 import LegalizeL2
from m4c.passes.legalize_mean import LegalizeMean
from m4c.passes.legalize_outputs import LegalizeOutputs
from m4c.passes.legalize_rms import LegalizeRms
from m4c.passes.legalize_rows import LegalizeRows
from m4c.passes.legalize_tied import LegalizeTied
from m4c.pipeline import Pass, Result
from tests.integer_graphs import run
from tests.passes.rewriting import build

Array = np.ndarray

TOKEN = np.arange(4, dtype=np.float32).reshape(1, 1, 4) + 1
TABLE = np.linspace(-1, 1, 20, dtype=np.float32).reshape(1, 5, 4)

GELU = "g (float[2,9] x) => (float[2,9] y) { y = Gelu(x) }"
FIRST = "g (float[1,4,4] x) => (float[1,5,4] y) { y = Concat<axis = 1>(token, x) }"
LAST = "g (float[1,4,4] x) => (float[1,5,4] y) { y = Concat<axis = 1>(x, token) }"
PLACED = "g (float[1,4,4] x) => (float[1,5,4] y) { c = Concat<axis = 1>(token, x) y = Add(c, table) }"
RMS = """g (float[3,8] x) => (float[3,8] y) {
    s = Mul(x, x) m = ReduceMean(s, axes) e = Add(m, tiny) r = Sqrt(e) d = Div(x, r) y = Mul(gamma, d) }"""
ROW = "g (float[5,4] x, int64[1] i) => (float[1,4] y) { y = Gather<axis = 0>(x, i) }"
IMAGES = "g (float[2,3,6,6] x) => (float[2,4,3,3] y) { y = Conv<strides = [2, 2]>(x, w) }"
MEAN = "g (float[2,6] x) => (float[2,1] y) { y = ReduceMean<keepdims = 1>(x, axes) }"
CLIPS = "g (float[3,5,8] x) => (float[3,5,1] y) { y = ReduceMean<keepdims = 1>(x, axes) }"
DROPPED = "g (float[3,5,8] x) => (float[3,5] y) { y = ReduceMean<keepdims = 0>(x, axes) }"
L2 = "g (float[2,3,8] x) => (float[2,3,8] y) { y = LpNormalization<axis = 1, p = 2>(x) }"
IN_ROWS = "g (float[2,5,4] x, int64[1,3] i) => (float[2,1,3,4] y) { y = Gather<axis = 1>(x, i) }"
INSIDE = "g (float[2,4] x) => (float[2,4] z, float[2,4] y) { y = Relu(x) z = Sqrt(y) }"
LINE = np.linspace(0.5, 2, 8, dtype=np.float32)
OF_RMS = {"axes": np.array([-1]), "tiny": np.array(1e-5, np.float32), "gamma": LINE}
KERNEL = {"w": np.linspace(-1, 1, 48, dtype=np.float32).reshape(4, 3, 2, 2)}
BY_ROWS = ["Reshape", "ReduceMean", "Reshape"]
ONE_BY_ONE = ["Reshape", *["Slice", "Reshape", "Conv", "Reshape"] * 2, "Concat", "Reshape"]

CASES: dict[str, tuple[Pass, str, dict[str, Array], float, list[str]]] = {
    "gelu by tanh": (LegalizeGelu(), GELU, {}, 1e-3, ["Clip", "Mul", "Mul", "Add", "Mul", "Sigmoid", "Mul"]),
    "gelu by a sigmoid": (LegalizeGelu("quick"), GELU, {}, 0.021, ["Mul", "Sigmoid", "Mul"]),
    "token first": (LegalizeConcat(), FIRST, {"token": TOKEN}, 1e-6, ["Concat", "Add"]),
    "token last": (LegalizeConcat(), LAST, {"token": TOKEN}, 1e-6, ["Concat", "Add"]),
    "token and places": (LegalizeConcat(), PLACED, {"token": TOKEN, "table": TABLE}, 1e-6, ["Concat", "Add"]),
    "rms norm": (LegalizeRms(), RMS, OF_RMS, 1e-4, ["LpNormalization", "Mul"]),
    "chosen row": (LegalizeGather(), ROW, {}, 1e-6, ["Gather", "Reshape", "Reshape", "Mul", "ReduceSum"]),
    "images one by one": (LegalizeBatch(), IMAGES, KERNEL, 1e-6, ONE_BY_ONE),
    "mean of clips": (LegalizeRows(), CLIPS, {"axes": np.array([-1])}, 1e-6, BY_ROWS),
    "mean of clips, its axis dropped": (LegalizeRows(), DROPPED, {"axes": np.array([2])}, 1e-6, BY_ROWS),
    "l2 norm": (LegalizeL2(), L2, {}, 1e-6, ["Mul", "ReduceSum", "Max", "Sqrt", "Reciprocal", "Mul"]),
    "indices in rows": (LegalizeIndices(), IN_ROWS, {}, 0, ["Reshape", "Gather", "Reshape"]),
    "an output read inside": (LegalizeOutputs(), INSIDE, {}, 0, ["Relu", "Reshape", "Sqrt"]),
    "mean of six": (LegalizeMean(), MEAN, {"axes": np.array([-1])}, 1e-6, ["Mul", "ReduceSum"]),
}
"""A pass, a graph, what it stores, the largest error as a share of the largest value, and the operators that come of it."""


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_stay(rng: np.random.Generator, name: str) -> None:
    step, text, stored, bound, operators = CASES[name]
    model = build(text, {}, stored)
    feeds: dict[str, Array] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        shape = value.shape.numpy()
        feeds[str(value.name)] = (
            np.full(shape, 3) if value.name == "i" else rng.normal(0, 1.5, shape).astype(np.float32)
        )
    expected = run(model, feeds)
    result = step(model)
    assert result.modified
    assert [node.op_type for node in model.graph] == operators
    for made, true in zip(run(result.model, feeds), expected, strict=True):
        assert np.abs(made - true).max() <= bound * max(1, np.abs(true).max())
    assert not step(model).modified


def test_what_is_joined_is_zeros_alone() -> None:
    model = build(FIRST, {}, {"token": TOKEN})
    LegalizeConcat()(model)
    zeros = model.graph[0].inputs[0]
    assert zeros is not None
    assert zeros.const_value is not None
    assert not zeros.const_value.numpy().any()


BETWEEN = "g (float[1,4,4] x) => (float[1,6,4] y) { y = Concat<axis = 1>(token, x, token) }"
PLAIN = "g (float[2,4] x) => (float[2,4] y) { r = Sqrt(x) y = Div(x, r) }"
OVER_TWO = "g (float[3,5,8] x) => (float[3,1,1] y) { y = ReduceMean(x, axes) }"
ROWS = "g (float[5,4] x, int64[2] i) => (float[2,4] y) { y = Gather<axis = 0>(x, i) }"

ANY = "g (float[5,4] x, int64[1,N] i) => (float[1,N,4] y) { y = Gather(x, i) }"
COUNT = "g (float[2,4] x) => (int64[2,1] n, int64[2,1] m) { n = ArgMax<axis = 1>(x) m = Neg(n) }"

NEAR: dict[str, tuple[Pass, str, dict[str, Array]]] = {
    "two stored": (LegalizeConcat(), BETWEEN, {"token": TOKEN}),
    "a plain division": (LegalizeRms(), PLAIN, {}),
    "a mean over two axes": (LegalizeRows(), OVER_TWO, {"axes": np.array([1, 2])}),
    "an l1 norm": (LegalizeL2(), "g (float[2,4] x) => (float[2,4] y) { y = LpNormalization<p = 1>(x) }", {}),
    "any number of indices": (LegalizeIndices(), ANY, {}),
    "a whole number": (LegalizeOutputs(), COUNT, {}),
    "two rows": (LegalizeGather(), ROWS, {}),
}


@pytest.mark.parametrize("name", NEAR)
def test_near_misses_say_why(name: str) -> None:
    step, text, stored = NEAR[name]
    result = step(build(text, {}, stored))
    assert isinstance(result, Result)
    assert not result.modified
    assert len(result.misses) == 1


def test_a_vector_of_zeros_has_no_direction() -> None:
    (made,) = run(LegalizeL2()(build(L2, {}, {})).model, {"x": np.zeros((2, 3, 8), np.float32)})
    np.testing.assert_array_equal(made, 0)


def test_a_cache_that_is_read_is_not_copied() -> None:
    ports = "float[1,4] x, float[2,4] past) => (float[3,4] now, float[3,4] y"
    text = f"g ({ports}) {{ now = Concat<axis = 0>(past, x) y = Relu(now) }}"
    assert not LegalizeOutputs()(build(text, {}, {})).modified


def test_means_that_fit_stay() -> None:
    text = "g (float[2,8] x) => (float[2,1] y) { y = ReduceMean<keepdims = 1>(x, axes) }"
    assert not LegalizeMean()(build(text, {}, {"axes": np.array([-1])})).modified


@pytest.mark.parametrize(
    ("shape", "axis", "out"), [("1,5,8", 2, "1,5,1"), ("5,8", -1, "5,1"), ("3,5,8", 1, "3,1,8")]
)
def test_means_of_one_sample_stay(shape: str, axis: int, out: str) -> None:
    text = f"g (float[{shape}] x) => (float[{out}] y) {{ y = ReduceMean<keepdims = 1>(x, axes) }}"
    assert not LegalizeRows()(build(text, {}, {"axes": np.array([axis])})).modified


def test_one_image_stays() -> None:
    text = "g (float[1,1,4,4] x) => (float[1,1,4,4] y) { y = Conv(x, w) }"
    assert not LegalizeBatch()(build(text, {}, {"w": np.ones((1, 1, 1, 1), np.float32)})).modified


def test_a_tied_matrix_is_stored_again_unread() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    ports = "int64[2] i, float[1,3] x) => (float[2,3] r, float[1,4] y"
    text = f"g ({ports}) {{ r = Gather(t, i) u = Transpose<perm = [1, 0]>(t) y = MatMul(x, u) }}"
    model = build(text, {"t": table}, {}, readable=False)
    assert LegalizeTied()(model).modified
    assert [node.op_type for node in model.graph] == ["Gather", "MatMul"]
    readable = LegalizeTied()(build(text, {"t": table}, {})).model
    weight = readable.graph[1].inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    np.testing.assert_array_equal(weight.const_value.numpy(), table.T)
