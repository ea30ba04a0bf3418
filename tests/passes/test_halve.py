"""halve: float16 everywhere but where samples go beyond it, against the graph as it was."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m4c.errors import UnsupportedError, UsageError
from m4c.half import LARGEST, LOWEST
from m4c.host.masks import HIDDEN
from m4c.model import fingerprint
from m4c.numerics import difference
from m4c.passes.halve import Halve
from m4c.passes.properties import typed
from m4c.pipeline import Note, Pipeline
from m4c.reach import reach
from m4c.weights import lazy
from tests.integer_graphs import run
from tests.passes.rewriting import build

Array = np.ndarray
Arrays = Mapping[str, Array]

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16

LINEAR = "g (float[2,8] x) => (float[2,4] y) { h = MatMul(x, w) y = Relu(h) }"
SQUARE = """g (float[2,8] x) => (float[2,4] y) {
    big = Mul(x, scale)
    less = Mul(big, back)
    y = MatMul(less, w)
}"""
ATTENTION = """g (float[1,3,4] q, float[1,3,3] mask) => (float[1,3,4] y) {
    t = Transpose<perm = [0,2,1]>(q)
    s = MatMul(q, t)
    m = Add(s, mask)
    p = Softmax(m)
    y = MatMul(p, q)
}"""


def halved(
    tmp_path: Path,
    text: str,
    *samples: Arrays,
    weights: Arrays | None = None,
    constants: Arrays | None = None,
) -> tuple[ir.Model, tuple[Note, ...]]:
    """Run the pass; the input is untouched, a second run changes nothing. Return the model and its islands."""
    model = build(text, weights or {}, constants or {})
    before = fingerprint(model)
    pipeline = Pipeline((Halve(samples, tmp_path),), given=(typed,))
    after, reports = pipeline.run(model)
    assert fingerprint(model) == before
    again, _ = pipeline.run(after)
    assert fingerprint(again) == fingerprint(after)
    assert list(tmp_path.iterdir()) == []
    for expected, actual in zip(run(model, samples[0]), run(after, samples[0]), strict=True):
        assert actual.dtype == expected.dtype
        assert difference(expected, actual).within("float16")
    return after, reports[0].misses


def dtypes(model: ir.Model) -> dict[str, ir.DataType | None]:
    """Return the dtype of what each node makes."""
    return {str(output.name): output.dtype for node in model.graph for output in node.outputs}


def casts(model: ir.Model) -> int:
    """Return how many casts there are."""
    return sum(node.op_type == "Cast" for node in model.graph)


def numbers(*shape: int, scale: float = 1.0) -> Array:
    return (np.random.default_rng(3).standard_normal(shape) * scale).astype(np.float32)


def test_without_overflow_all_is_float16_but_the_border(tmp_path: Path) -> None:
    model, islands = halved(tmp_path, LINEAR, {"x": numbers(2, 8)}, weights={"w": numbers(8, 4)})
    assert islands == ()
    assert [node.op_type for node in model.graph] == ["Cast", "MatMul", "Relu", "Cast"]
    assert dtypes(model) == {"x.float16": HALF, "h": HALF, "y.float16": HALF, "y": FLOAT}
    assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == [FLOAT, FLOAT]
    assert {name: v.dtype for name, v in model.graph.initializers.items()} == {"w.float16": HALF}


def test_neighbours_that_overflow_are_one_island_with_the_number(tmp_path: Path) -> None:
    constants = {"scale": np.array(1e5, np.float32), "back": np.array(1e-5, np.float32)}
    given_ = {"x": np.ones((2, 8), np.float32)}
    model, islands = halved(tmp_path, SQUARE, given_, weights={"w": numbers(8, 4)}, constants=constants)
    assert [(note.where, note.text) for note in islands] == [
        ("big", "Mul reads scale, which reaches 1e+05, and float16 ends at 65504: 2 nodes are float32")
    ]
    assert dtypes(model) == {
        "big": FLOAT, "less": FLOAT, "less.float16": HALF, "y.float16": HALF, "y": FLOAT
    }  # fmt: skip


@pytest.mark.parametrize("largest", [65504.0, 65536.0])
def test_what_samples_reach_decides(tmp_path: Path, largest: float) -> None:
    text = "g (float[4] x) => (float[4] y) { d = Add(x, x) y = Mul(d, small) }"
    small = {"small": np.array(2**-10, np.float32)}
    model, islands = halved(tmp_path, text, {"x": np.full(4, largest / 2, np.float32)}, constants=small)
    assert (dtypes(model)["d"], len(islands)) == ((HALF, 0) if largest == LARGEST else (FLOAT, 1))


def test_the_largest_of_all_samples_counts(tmp_path: Path) -> None:
    text = "g (float[4] x) => (float[4] y) { y = Add(x, x) }"
    low, high = ({"x": np.full(4, n, np.float32)} for n in (1, 5e4))
    assert halved(tmp_path, text, low)[1] == ()
    ((note,),) = (halved(tmp_path, text, low, high)[1],)
    assert "reaches 1e+05" in note.text


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("y = ReduceMean<keepdims = 1>(x, axes)", 256 * 300),
        ("y = ReduceL2<keepdims = 1>(x, axes)", 256 * 300**2),
        ("z = LpNormalization<axis = 1>(x) y = ReduceMax<keepdims = 1>(z, axes)", 256 * 300**2),
    ],
)
def test_sums_inside_a_node_count_where_it_adds_in_its_own_type(
    tmp_path: Path, text: str, total: int
) -> None:
    axes = {"axes": np.array([1])}
    graph = f"g (float[1,256] x) => (float[1,1] y) {{ {text} }}"
    _, ((note),) = halved(tmp_path, graph, {"x": np.full((1, 256), 300, np.float32)}, constants=axes)
    assert f"adds up to {total:.3g}, and float16 ends" in note.text
    assert halved(tmp_path, graph, {"x": np.full((1, 256), 0.5, np.float32)}, constants=axes)[1] == ()


def test_layer_norms_add_in_float32_by_definition(tmp_path: Path) -> None:
    text = "g (float[1,256] x) => (float[1,256] y) { y = LayerNormalization(x, gamma) }"
    gamma = {"gamma": np.ones(256, np.float32)}
    given_ = {"x": numbers(1, 256, scale=300)}
    assert halved(tmp_path, text, given_, weights=gamma)[1] == ()


def test_masks_hide_as_before_without_an_island(tmp_path: Path) -> None:
    q = numbers(1, 3, 4)
    mask = np.triu(np.full((1, 3, 3), HIDDEN), 1)
    model, islands = halved(tmp_path, ATTENTION, {"q": q, "mask": mask})
    assert islands == ()
    assert dtypes(model)["m"] == dtypes(model)["p"] == HALF
    (padding,) = run(model, {"q": q, "mask": np.full((1, 3, 3), HIDDEN)})
    assert np.isfinite(padding).all(), "a row of which all is hidden is no NaN"
    stored = ATTENTION.replace(", float[1,3,3] mask", "")
    model, islands = halved(tmp_path, stored, {"q": q}, weights={"mask": mask})
    assert islands == ()
    held = model.graph.initializers["mask.mask.float16"].const_value
    assert held is not None
    assert float(held.numpy().min()) == LOWEST


def test_scores_that_are_no_mask_are_an_island(tmp_path: Path) -> None:
    text = "g (float[1,4] x) => (float[1,4] y) { s = Mul(x, scale) m = Add(s, x) y = Softmax(m) }"
    scale = {"scale": np.array(1e3, np.float32)}
    x = np.array([[-100, -100.001, -100.002, -100.003]], np.float32)
    _, ((note),) = halved(tmp_path, text, {"x": x}, constants=scale)
    assert "Mul reaches 1e+05" in note.text
    assert "3 nodes" in note.text


def test_wide_angles_are_computed_in_float32(tmp_path: Path) -> None:
    text = "g (float[1] step) => (float[1,8] y) { a = Mul(step, rates) s = Sin(a) y = Add(s, s) }"
    rates = {"rates": np.linspace(0, 1, 8, dtype=np.float32)[None]}
    model, ((note),) = halved(tmp_path, text, {"step": np.array([999], np.float32)}, constants=rates)
    assert note.text == "Sin turns by up to 999, which float16 rounds too coarsely: 2 nodes are float32"
    assert dtypes(model)["a"] == dtypes(model)["s"] == FLOAT
    assert halved(tmp_path, text, {"step": np.array([5], np.float32)}, constants=rates)[1] == ()


def test_what_has_no_float16_stays_as_it_is(tmp_path: Path) -> None:
    text = """g (float[1,1,2,2] x, int64[2] n) => (float[1,1,4,4] y, float[2] f) {
        y = Resize<mode = "nearest">(x, , scales)
        f = Cast<to = 1>(n)
    }"""
    given_ = {"x": numbers(1, 1, 2, 2), "n": np.array([3, 7])}
    model, islands = halved(tmp_path, text, given_, constants={"scales": np.array([1, 1, 2, 2], np.float32)})
    assert islands == ()
    assert model.graph.initializers["scales"].dtype == FLOAT


def test_a_divisor_is_not_rounded_to_zero(tmp_path: Path) -> None:
    text = "g (float[4] x) => (float[4] y) { s = Add(x, tiny) y = Div(x, s) }"
    model, _ = halved(tmp_path, text, {"x": numbers(4)}, constants={"tiny": np.array(1e-12, np.float32)})
    assert np.isfinite(run(model, {"x": np.zeros(4, np.float32)})[0]).all()


def test_weights_are_read_in_parts_and_kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(LINEAR, {"w": numbers(8, 4)}, {})
    read: list[slice] = []
    values = numbers(8, 4)

    def rows(part: slice) -> Array:
        read.append(part)
        return values[part]

    def whole() -> Array:
        raise AssertionError("the whole was read")

    weight = model.graph.initializers["w"]
    observed = build(LINEAR, {"w": values}, {})
    weight.const_value = lazy("w", FLOAT, (8, 4), whole, rows)
    samples = [{"x": numbers(2, 8)}]
    reached = reach(observed, samples, tmp_path)
    monkeypatch.setattr(
        "m4c.passes.halve.reach", lambda *_: reached
    )  # a sweep writes the weights of its segments
    after = Halve(samples, tmp_path)(model).model
    assert read == [slice(0, 8)]
    made = after.graph.initializers["w.float16"].const_value
    assert isinstance(made, ir.LazyTensor)
    assert read == [slice(0, 8)], "nothing is converted before it is written"


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-3, 1e7), bias=st.floats(-1e6, 1e6))
def test_nothing_that_is_float16_overflows_on_its_samples(
    tmp_path_factory: pytest.TempPathFactory, scale: float, bias: float
) -> None:
    text = (
        "g (float[2,4] x) => (float[2,4] y) { a = Mul(x, scale) b = Add(a, bias) c = Tanh(b) y = Add(c, x) }"
    )
    constants = {"scale": np.array(scale, np.float32), "bias": np.array(bias, np.float32)}
    model, x = build(text, {}, constants), {"x": numbers(2, 4)}
    after = Halve([x], tmp_path_factory.mktemp("sweep"))(model.clone()).model
    (actual,) = run(after, x)
    assert np.isfinite(actual).all()
    a = np.abs(x["x"] * constants["scale"]).max()
    b = np.abs(x["x"] * constants["scale"] + constants["bias"]).max()
    wide = {"a": max(scale, a) > LARGEST, "b": max(a, b, abs(bias)) > LARGEST, "c": b > LARGEST, "y": False}
    found = {name: dtype == FLOAT for name, dtype in dtypes(after).items()}
    assert {name: found[f"{name}.float16" if name == "y" else name] for name in wide} == wide


def test_samples_and_graphs_that_cannot_be_run_are_refused(tmp_path: Path) -> None:
    model = build(LINEAR, {"w": numbers(8, 4)}, {})
    with pytest.raises(UsageError, match="no calibration samples"):
        Halve([], tmp_path)(model.clone())
    branch = """g (bool c, float[1] x) => (float[1] y) {
        y = If(c) <then_branch = t () => (float[1] a) { a = Relu(x) }, else_branch = e () => (float[1] b) { b = Abs(x) }>
    }"""
    with pytest.raises(UnsupportedError, match="If has graphs inside"):
        Halve([], tmp_path)(build(branch, {}, {}))
