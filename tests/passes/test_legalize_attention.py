"""legalize-attention: the numbers of attention from products, sums and maxima of single values, in every form that M4 has."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
import pytest

from m4c.numerics import TOLERANCE, difference
from m4c.passes.legalize_attention import LegalizeAttention
from m4c.pipeline import Result
from tests.integer_graphs import run
from tests.passes.rewriting import build

Array = np.ndarray

ALLOWED = {
    "Add",
    "Concat",
    "Mul",
    "ReduceMax",
    "ReduceSum",
    "Reciprocal",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Sqrt",
    "Sub",
}
"""And Transpose, where heads come first, and MatMul by zeros and ones."""

HEADS = """
a = Reshape(q, heads) b = Transpose<perm = [0, 2, 1, 3]>(a) c = Mul(b, half)
d = Reshape(k, heads) e = Transpose<perm = [0, 2, 3, 1]>(d)
f = Reshape(v, heads) g = Transpose<perm = [0, 2, 1, 3]>(f)
"""
BACK = "h = MatMul(w, g) i = Transpose<perm = [0, 2, 1, 3]>(h) y = Reshape(i, rows)"


def of_rows(
    body: str,
    more: Mapping[str, Array] = MappingProxyType({}),
    batch: int = 1,
    steps: int = 5,
    count: int = 7,
) -> ir.Model:
    """Return an attention of 2 heads over rows of 8 channels."""
    ports = f"float[{batch},{steps},8] q, float[{batch},{count},8] k, float[{batch},{count},8] v"
    stored: dict[str, Array] = {
        "heads": np.array([batch, -1, 2, 4], np.int64),
        "rows": np.array([batch, steps, 8], np.int64),
        "half": np.array(0.5, np.float32),
        **more,
    }
    return build(f"g ({ports}) => (float[{batch},{steps},8] y) {{ {HEADS} {body} {BACK} }}", {}, stored)


def of_heads(steps: int, count: int) -> ir.Model:
    """Return an attention over a cache, whose heads come first, with a mask that is an input."""
    ports = f"float[1,2,{steps},4] q, float[1,2,{count},4] k, float[1,2,{count},4] v, float[1,1,1,{count}] m"
    body = """t = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, t) a = Add(s, m)
        w = Softmax<axis = -1>(a) y = MatMul(w, v)"""
    return build(f"g ({ports}) => (float[1,2,{steps},4] y) {{ {body} }}", {}, {})


def drawn(model: ir.Model, rng: np.random.Generator) -> dict[str, Array]:
    made = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        made[str(value.name)] = rng.normal(0, 1.5, value.shape.numpy()).astype(np.float32)
    if "m" in made:
        made["m"] = np.where(made["m"] > 0.5, np.float32(-1e9), np.float32(0))
        made["m"][..., 0] = 0
    return made


PLAIN = "s = MatMul(c, e) w = Softmax<axis = -1>(s)"
SCALED = "r = MatMul(c, e) s = Mul(r, half) w = Softmax<axis = -1>(s)"
MASKED = "r = MatMul(c, e) s = Mul(r, half) u = Add(s, mask) w = Softmax<axis = -1>(u)"
CAUSAL: dict[str, Array] = {"mask": np.triu(np.full((1, 1, 5, 7), -1e9, np.float32), 1)}

FORMS = {
    "plain": lambda: of_rows(PLAIN),
    "scaled": lambda: of_rows(SCALED),
    "masked": lambda: of_rows(MASKED, CAUSAL),
    "batch": lambda: of_rows(PLAIN, batch=3),
    "one query of rows": lambda: of_rows(PLAIN, steps=1),
    "a cache": lambda: of_heads(1, 9),
    "several steps over a cache": lambda: of_heads(3, 9),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("largest", [4 << 20, 2 * 7 * 8 * 2])
def test_the_numbers_stay(rng: np.random.Generator, form: str, largest: int) -> None:
    model = FORMS[form]()
    feeds = drawn(model, rng)
    expected = run(model, feeds)
    result = LegalizeAttention(largest)(model)
    assert result.modified
    for wanted, made in zip(expected, run(result.model, feeds), strict=True):
        assert difference(wanted, made).max_relative <= TOLERANCE["float32"]
    kinds = {node.op_type for node in model.graph}
    assert kinds - ALLOWED <= {"Transpose", "MatMul"}
    assert all(
        node.inputs[1].const_value is not None  # type: ignore[union-attr]
        for node in model.graph
        if node.op_type == "MatMul"
    )
    assert not LegalizeAttention(largest)(model).modified


def test_nothing_is_larger_than_asked_for() -> None:
    model = of_rows(PLAIN, steps=12, count=16)
    LegalizeAttention(largest=3 * 16 * 8)(model)
    sizes = [o.shape.numpy() for n in model.graph for o in n.outputs if o.shape is not None]
    assert max(int(np.prod(size)) for size in sizes) == 3 * 16 * 8
    assert sum(n.op_type == "ReduceMax" for n in model.graph) == 4
    assert all(sum(d > 1 for d in size[:-3]) == 0 for size in sizes)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("s = MatMul(c, e) w = Softmax<axis = 2>(s)", "along axis 2"),
        ("s = MatMul(c, e) r = Relu(s) w = Softmax<axis = -1>(r)", "come from no product"),
        (
            "s = MatMul(c, e) r = Add(s, mask) u = Mul(r, half) w = Softmax<axis = -1>(u)",
            "before they are scaled",
        ),
        ("s = MatMul(c, e) r = Add(s, heavy) w = Softmax<axis = -1>(r)", "is added to scores"),
    ],
)
def test_another_form_stays_and_says_why(body: str, reason: str) -> None:
    used = {
        name: a for name, a in {**CAUSAL, "heavy": np.ones((1, 2, 5, 7), np.float32)}.items() if name in body
    }
    model = of_rows(body, used)
    result = LegalizeAttention()(model)
    assert isinstance(result, Result)
    assert not result.modified
    assert [reason in miss.text for miss in result.misses] == [True]


def test_keys_beyond_the_bound_stay() -> None:
    result = LegalizeAttention(largest=50)(of_rows(PLAIN))
    assert isinstance(result, Result)
    assert [miss.text for miss in result.misses] == [
        "the attention stays as it is: one query needs 56 bytes beside all keys, 50 are allowed"
    ]


def test_attention_that_would_take_too_many_products_stays() -> None:
    bytes_of_all = 5 * 7 * 8
    for most in (bytes_of_all, bytes_of_all - 1):
        result = LegalizeAttention(most=most)(of_rows(PLAIN))
        assert isinstance(result, Result)
        assert result.modified == (most == bytes_of_all)
        assert ["have 280 bytes, 279 are allowed" in miss.text for miss in result.misses] == [True] * (
            not result.modified
        )
