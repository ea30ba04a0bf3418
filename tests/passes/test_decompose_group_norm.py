"""decompose-group-norm: the same in floats, and integers throughout in a TFLite file."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m4c.numerics import sqnr
from m4c.passes.calibrate import Calibrate
from m4c.passes.decompose_group_norm import DecomposeGroupNorm
from m4c.passes.quantize_static import QuantizeStatic
from m4c.targets.emit_tflite import to_tflite
from tests.integer_graphs import run as in_onnx
from tests.passes.rewriting import Array, build, rewrite
from tests.targets.emit_tflite.graphs import check_float, operators, run

STEP = DecomposeGroupNorm()


def column(channels: int, dims: int) -> Array:
    return np.linspace(0.5, 2, channels, dtype=np.float32).reshape(channels, *[1] * dims)


def torch_form(n: int, c: int, groups: int, size: tuple[int, ...], tail: str = "") -> str:
    """Return group norm as torch's exporter writes it."""
    shape = ", ".join(map(str, (n, c, *size)))
    body = f"""
        a = Reshape(x, split)
        i = InstanceNormalization<epsilon = 0.00001>(a, ones, zeros)
        j = Reshape(i, whole)
        {tail or "k = Mul(j, gamma) y = Add(k, beta)"}"""
    return f"g (float[{shape}] x) => (float[{shape}] y) {{ {body} }}"


def parts(n: int, c: int, groups: int, size: tuple[int, ...]) -> dict[str, Array]:
    return {
        "split": np.array([n, groups, -1]),
        "whole": np.array([n, c, *size]),
        "ones": np.ones(groups, np.float32),
        "zeros": np.zeros(groups, np.float32),
    }


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 4),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_torch_group_norm_is_one_norm(n: int, groups: int, inner: int, size: list[int]) -> None:
    c, dims = groups * inner, tuple(size)
    if inner * int(np.prod(dims)) == 1:  # a single value less its mean: nothing to compare
        dims = (2,)
    weights = {"gamma": column(c, len(dims)), "beta": -column(c, len(dims))}
    made = rewrite(STEP, torch_form(n, c, groups, dims), weights=weights, constants=parts(n, c, groups, dims))
    assert made.texts == [f"InstanceNormalization in {groups} groups decomposed"]
    assert "InstanceNormalization" not in made.operators
    assert made.operators.count("ReduceMean") == (2 if inner == 1 else 4)


def test_pixels_may_become_tokens_within_the_norm() -> None:
    text = (
        torch_form(1, 6, 3, (4, 5)).replace("float[1,6,4,5] y", "y").replace("1, 6, 4, 5] y", "1, 6, 20] y")
    )
    weights = {"gamma": column(6, 1), "beta": -column(6, 1)}
    made = rewrite(STEP, text, weights=weights, constants=parts(1, 6, 3, (20,)))
    assert made.texts == ["InstanceNormalization in 3 groups decomposed"]
    assert made.operators[0] == "Reshape"
    assert "InstanceNormalization" not in made.operators


@pytest.mark.parametrize(
    ("tail", "left"),
    [
        ("y = Identity(j)", 1),
        ("k = Mul(gamma, j) y = Identity(k)", 1),
        ("k = Mul(j, x) y = Add(k, beta)", 3),  # the factor is computed: it stays
    ],
)
def test_what_is_behind_it_is_taken_as_far_as_it_is_stored(tail: str, left: int) -> None:
    weights = {"gamma": column(6, 2), "beta": column(6, 2)}
    made = rewrite(STEP, torch_form(2, 6, 3, (4, 5), tail), weights=weights, constants=parts(2, 6, 3, (4, 5)))
    assert "InstanceNormalization" not in made.operators
    assert made.operators[-1] == ("Add" if left == 3 else "Identity")


@pytest.mark.parametrize(
    ("body", "channels"),
    [
        ("y = InstanceNormalization(x, gamma, beta)", 6),
        ("y = GroupNormalization<num_groups = 3>(x, gamma, beta)", 3),
        ("y = GroupNormalization<num_groups = 6, epsilon = 0.1>(x, gamma, beta)", 6),
    ],
)
def test_the_operators_themselves(body: str, channels: int) -> None:
    weights = {"gamma": column(channels, 0), "beta": column(channels, 0)}
    made = rewrite(STEP, f"g (float[2,6,4,5] x) => (float[2,6,4,5] y) {{ {body} }}", weights=weights)
    assert len(made.changes) == 1


@pytest.mark.parametrize(
    ("shape", "body", "reason"),
    [
        ("n,6,4", "y = InstanceNormalization(x, gamma, beta)", "the shape of x is [n,6,4], not static"),
        (
            "2,6,4",
            "g = Mul(gamma, c) y = GroupNormalization<num_groups = 6>(x, g, beta)",
            "",
        ),
    ],
)
def test_near_misses(shape: str, body: str, reason: str) -> None:
    weights = {"gamma": column(6, 0), "beta": column(6, 0)}
    text = f"g (float[{shape}] x, float[6] c) => (float[{shape}] y) {{ {body} }}"
    made = rewrite(STEP, text, weights=weights, sizes={"n": 2})
    texts = [note.text.replace("SymbolicDim(n)", "n") for note in made.misses]
    assert texts == ([f"InstanceNormalization stays as it is: {reason}"] if reason else [])
    assert bool(made.changes) != bool(reason)  # a computed scale of one number a channel is no obstacle


def test_a_computed_scale_of_groups_is_a_miss() -> None:
    body = "y = GroupNormalization<num_groups = 3>(x, c, c)"
    made = rewrite(STEP, f"g (float[2,6,4] x, float[3] c) => (float[2,6,4] y) {{ {body} }}")
    assert [note.text for note in made.misses] == [
        "GroupNormalization stays as it is: c is [3], for 3 groups of 6 channels"
    ]


def model() -> ir.Model:
    weights = {"gamma": column(6, 2), "beta": column(6, 2)}
    return build(torch_form(1, 6, 3, (8, 9)), weights, parts(1, 6, 3, (8, 9)))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.floats(0.1, 10), st.floats(-3, 3))
def test_litert_computes_it_in_floats_and_in_integers(
    tmp_path: Path, seed: int, spread: float, mean: float
) -> None:
    feeds = {"x": np.random.default_rng(seed).normal(mean * spread, spread, (1, 6, 8, 9)).astype(np.float32)}
    (expected,) = in_onnx(model(), feeds)
    decomposed = STEP(model()).model
    check_float(decomposed, tmp_path, feeds, tolerance=2e-5)
    integers = QuantizeStatic(strict=True)(Calibrate([feeds], tmp_path / "w")(decomposed).model).model
    to_tflite(integers, tmp_path / "int8.tflite")
    assert "DEQUANTIZE" not in operators(tmp_path / "int8.tflite")
    for xnnpack in (False, True):
        assert sqnr(expected, run(tmp_path / "int8.tflite", feeds, xnnpack)[0]) > 25
