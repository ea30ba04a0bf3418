"""decompose-layer-norm: three forms, against ONNX Runtime's LayerNormalization."""

import numpy as np
import pytest

from m4c.model import fingerprint
from m4c.numerics import TOLERANCE, difference
from m4c.passes.decompose_layer_norm import DecomposeLayerNorm, Form
from tests.integer_graphs import graph, run, sealed

TEXT = "g (float[2,3,64] x) => (float[2,3,64] y) { y = LayerNormalization<axis = -1, epsilon = 0.00001>(x, gamma, beta) }"
GAMMA = np.linspace(0.5, 3, 64, dtype=np.float32)
BETA = np.linspace(-1, 1, 64, dtype=np.float32)


@pytest.mark.parametrize("form", ["mean", "product", "norm"])
def test_the_numbers_stay(rng: np.random.Generator, form: Form) -> None:
    model = graph(TEXT, gamma=GAMMA, beta=BETA)
    x = {"x": rng.normal(3, 5, (2, 3, 64)).astype(np.float32)}
    (expected,) = run(model, x)
    result = DecomposeLayerNorm(form)(model)
    (actual,) = run(result.model, x)
    assert difference(expected, actual).max_relative <= TOLERANCE["float32"]
    assert "LayerNormalization" not in {n.op_type for n in result.model.graph}


@pytest.mark.parametrize(("form", "exact"), [("mean", True), ("product", True), ("norm", False)])
def test_small_variances_need_epsilon(rng: np.random.Generator, form: Form, exact: bool) -> None:
    model = graph(TEXT, gamma=GAMMA, beta=BETA)
    x = {"x": rng.normal(0, 0.003, (2, 3, 64)).astype(np.float32)}
    (expected,) = run(model, x)
    (actual,) = run(DecomposeLayerNorm(form)(model).model, x)
    assert (difference(expected, actual).max_relative <= TOLERANCE["float32"]) is exact


@pytest.mark.parametrize("form", ["mean", "product", "norm"])
def test_it_keeps_the_output_reads_no_weight_and_is_done_after_one_run(form: Form) -> None:
    model = sealed(TEXT, gamma=GAMMA, beta=BETA)
    copy, before = model.clone(), fingerprint(model)
    result = DecomposeLayerNorm(form)(copy)
    assert result.modified
    assert fingerprint(model) == before
    (y,) = copy.graph.outputs
    assert (y.name, str(y.shape), str(y.dtype)) == ("y", "[2,3,64]", "FLOAT")
    assert all(o.shape is not None and o.dtype is not None for n in copy.graph for o in n.outputs)
    after = fingerprint(copy)
    assert not DecomposeLayerNorm(form)(copy).modified
    assert fingerprint(copy) == after


def test_two_norms_with_one_gamma_and_no_beta(rng: np.random.Generator) -> None:
    twice = "a = LayerNormalization<axis = 1>(x, gamma) y = LayerNormalization(a, gamma)"
    text = f"g (float[3,64] x) => (float[3,64] y) {{ {twice} }}"
    model = graph(text, gamma=GAMMA)
    x = {"x": rng.normal(size=(3, 64)).astype(np.float32)}
    (expected,) = run(model, x)
    (actual,) = run(DecomposeLayerNorm("norm")(model).model, x)
    assert difference(expected, actual).max_relative <= TOLERANCE["float32"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT.replace("[2,3,64]", "[2,n,64]"), "the shape of its input is [2,n,64], not static"),
        (TEXT.replace("axis = -1", "axis = 1"), "it normalizes from axis 1 on, not over the last axis"),
    ],
)
def test_what_does_not_qualify_is_left_with_a_reason(text: str, reason: str) -> None:
    gamma = GAMMA if "axis = 1" not in text else np.ones((3, 64), np.float32)
    model = graph(text, gamma=gamma, beta=gamma)
    before = fingerprint(model)
    result = DecomposeLayerNorm()(model)
    assert [note.text.replace("SymbolicDim(n)", "n") for note in result.misses] == [reason]  # type: ignore[attr-defined]
    assert not result.modified
    assert fingerprint(model) == before


def test_a_computed_scale_is_a_miss() -> None:
    text = "g (float[3,4] x, float[4] s) => (float[3,4] y) { y = LayerNormalization(x, s) }"
    result = DecomposeLayerNorm()(graph(text))
    assert [note.text for note in result.misses] == ["its scale is computed, not stored"]  # type: ignore[attr-defined]


def test_the_step_prints_its_form() -> None:
    assert str(DecomposeLayerNorm()) == "decompose-layer-norm"
    assert str(DecomposeLayerNorm("norm")) == "decompose-layer-norm{form=norm}"
