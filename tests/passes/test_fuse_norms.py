"""fuse-norms: RMS norms compute the same as one operator; what only looks like one stays."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from m4c.passes.fuse_norms import FuseNorms
from tests.integer_graphs import run
from tests.passes.rewriting import Rewritten, build, rewrite

Array = np.ndarray

WEIGHTS = {"w": np.random.default_rng(3).uniform(0.5, 1.5, 80).astype(np.float32)}
CONSTANTS: dict[str, Array] = {
    "last": np.array([-1], np.int64),
    "third": np.array([2], np.int64),
    "steps": np.array([1], np.int64),
    "both": np.array([1, 2], np.int64),
    "epsilon": np.array(0.5, np.float32),
    "one": np.array([0.25], np.float32),
    "below": np.array(-0.5, np.float32),
    "two": np.array([0.25, 0.5], np.float32),
}
"""A large epsilon, so that one that is forgotten shows."""

MEAN = "s = Mul(x, x) m = ReduceMean(s, last)"
NORM = f"{MEAN} a = Add(m, epsilon) r = Sqrt(a) d = Div(x, r) y = Mul(w, d)"


def fuse(body: str, *, y: str = "float[1,S,80] y") -> Rewritten:
    """Run the pass on a graph over x (1, steps, 80) and check what holds of every pass."""
    named = {name: v for name, v in CONSTANTS.items() if f" {name})" in body or f"({name}," in body}
    weights = {name: v for name, v in WEIGHTS.items() if f"{name}," in body or f" {name})" in body}
    text = f"g (float[1,S,80] x, float[1,S,80] z) => ({y}) {{ {body} }}"
    return rewrite(FuseNorms(), text, weights=weights, constants=named, sizes={"S": 5})


@pytest.mark.parametrize(
    "body",
    [
        NORM,
        NORM.replace("Mul(w, d)", "Mul(d, w)"),
        NORM.replace("Add(m, epsilon)", "Add(epsilon, m)"),
        NORM.replace("epsilon", "one"),
        NORM.replace("last", "third"),
        NORM.replace("(s, last)", "<keepdims = 1>(s, last)"),
        f"x1 = Add(x, z) {NORM.replace('x,', 'x1,').replace(' x)', ' x1)')}",
    ],
)
def test_it_matches(body: str) -> None:
    done = fuse(body)
    assert done.operators[-1] == "RMSNormalization"
    assert not {"Sqrt", "Div", "Mul", "ReduceMean"} & set(done.operators)
    assert done.texts == ["the norm became RMSNormalization"]
    assert done.model.opset_imports[""] == 23


def test_a_residual_stays_apart() -> None:
    body = f"x1 = Add(x, z) {NORM.replace('x,', 'x1,').replace(' x)', ' x1)')} q = Add(x1, y)"
    done = fuse(body, y="float[1,S,80] q")
    assert done.operators == ["Add", "RMSNormalization", "Add"]


def test_the_operator_has_the_epsilon_of_the_graph() -> None:
    (node,) = fuse(NORM).model.graph
    assert node.attributes["epsilon"].value == 0.5
    assert node.attributes["axis"].value == -1
    assert [value.name for value in node.inputs if value is not None] == ["x", "w"]


def test_the_checker_accepts_it() -> None:
    onnx.checker.check_model(ir.to_proto(fuse(NORM).model), full_check=True)


def test_the_numbers_are_those_of_the_formula(rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 3, 80)).astype(np.float32) * 20
    model = fuse(NORM).model
    (found,) = run(model, {"x": x, "z": x})
    wide = x.astype(np.float64)
    expected = WEIGHTS["w"] * wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + 0.5)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


NEAR = {
    "the mean is over [1] axes": NORM.replace("last", "steps"),
    "the mean is over [1, 2] axes": NORM.replace("last", "both"),
    "the epsilon below is no constant": NORM.replace("epsilon", "below"),
    "the epsilon q is no constant": f"q = Abs(z) {NORM.replace('epsilon', 'q')}",
    "does not divide x": NORM.replace("Div(x,", "Div(z,"),
    "the root goes to Mul": NORM.replace("Div(x, r)", "Mul(x, r)"),
    "the root goes to Div, and does not divide x": NORM.replace("Div(x, r)", "Div(r, x)"),
    "the root r has other uses": NORM.replace("y = Mul(w, d)", "e = Mul(w, d) y = Add(e, r)"),
    "what is normalized, d, has other uses": NORM.replace("y = Mul(w, d)", "e = Mul(w, d) y = Add(e, d)"),
    "what is normalized goes to Add": NORM.replace("Mul(w, d)", "Add(w, d)"),
    "its weight is FLOAT[1, 'S', 80]": NORM.replace("Mul(w, d)", "Mul(z, d)"),
    "its weight is FLOAT[1]": NORM.replace("Mul(w, d)", "Mul(one, d)"),
    "the mean m has other uses": NORM.replace("y = Mul(w, d)", "e = Mul(w, d) y = Add(e, m)"),
}


@pytest.mark.parametrize("reason", NEAR)
def test_what_only_looks_like_it_stays(reason: str) -> None:
    done = fuse(NEAR[reason])
    assert not done.changes
    (miss,) = done.misses
    assert reason in miss.text
    assert done.model.opset_imports[""] == 20


def test_the_mean_that_drops_its_axis_stays() -> None:
    body = NORM.replace("float[1,S,80]", "").replace("ReduceMean(", "ReduceMean<keepdims = 0>(")
    text = f"g (float[1,80,80] x) => (float[1,80,80] y) {{ {body} }}"
    named = {name: CONSTANTS[name] for name in ("last", "epsilon")}
    done = rewrite(FuseNorms(), text, weights=WEIGHTS, constants=named)
    assert "drops its axis" in done.misses[0].text


def test_other_roots_are_no_misses() -> None:
    done = fuse("q = Mul(x, x) a = Add(q, epsilon) r = Sqrt(a) y = Div(z, r)")
    assert not done.changes
    assert not done.misses


def norm() -> ir.Model:
    text = f"g (float[1,S,80] x) => (float[1,S,80] y) {{ {NORM} }}"
    return build(text, WEIGHTS, {name: CONSTANTS[name] for name in ("last", "epsilon")})


def test_an_opset_that_was_not_compared_stays() -> None:
    model = norm()
    model.graph.opset_imports[""] = 18
    result = FuseNorms()(model)
    assert not result.modified
    assert "from opset 18, below 20, is not known" in result.misses[0].text  # type: ignore[attr-defined]


@pytest.mark.parametrize(("opset", "stays"), [(20, True), (21, False)])
def test_an_operator_that_means_something_else_there_holds_it_back(opset: int, stays: bool) -> None:
    model = norm()
    model.graph.opset_imports[""] = opset
    weight = model.graph.initializers["w"]
    other = ir.node(
        "GroupNormalization", [model.graph.inputs[0], weight, weight], {"num_groups": 2}, name="n"
    )
    other.outputs[0].name, other.outputs[0].type = "n", ir.TensorType(ir.DataType.FLOAT)
    other.outputs[0].shape = model.graph.inputs[0].shape
    model.graph.insert_before(model.graph[0], other)
    result = FuseNorms()(model)
    assert result.modified != stays
    assert model.graph.opset_imports[""] == (20 if stays else 23)
    misses = [note.text for note in result.misses]  # type: ignore[attr-defined]
    assert all("GroupNormalization has one weight a channel" in text for text in misses)
    assert bool(misses) == stays


def test_it_prints_its_name() -> None:
    assert str(FuseNorms()) == "fuse-norms"
