"""Layouts of values: between convolutions nothing is transposed, whatever stands there, and the numbers stay right."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m4c.targets.emit_tflite import to_tflite
from m4c.trace import tflite_values
from tests.targets.emit_tflite.graphs import (
    Build,
    Case,
    check_float,
    check_integer,
    drawn,
    one,
    operators,
    reference,
    sample,
)

Step = Callable[[Build, ir.Value], ir.Value]
IMAGE = (1, 4, 6, 5)
"""What each step reads and writes."""


def conv(b: Build, x: ir.Value) -> ir.Value:
    name = f"w{len(b.nodes)}"
    return b.op("Conv", x, b.weight(name, drawn(4, 4, 3, 3)), b.weight(f"{name}.b", drawn(4)), pads=[1] * 4)


def ints(b: Build, *values: int) -> ir.Value:
    return b.store(f"i{len(b.held)}", values, np.int64)


def floats(b: Build, *shape: int) -> ir.Value:
    return b.weight(f"f{len(b.held)}", drawn(*shape) + 0.1)


def split(b: Build, x: ir.Value) -> ir.Value:
    first = b.op("Split", x, ints(b, 1, 3), outputs=2, axis=1)
    return b.op("Concat", b.nodes[-1].outputs[1], first, axis=-3)


def cut(b: Build, x: ir.Value) -> ir.Value:
    """Cut rows and channels, and put them together again."""
    upper = b.op("Slice", x, ints(b, 0), ints(b, -2), ints(b, 2))
    lower = b.op("Slice", x, ints(b, -2), ints(b, 99), ints(b, -2))
    parts = [b.op("Slice", upper, ints(b, low, 0), ints(b, low + 2, 5), ints(b, 1, 3)) for low in (0, 2)]
    return b.op("Concat", lower, b.op("Concat", *parts, axis=1), axis=2)


def tokens(b: Build, x: ir.Value) -> ir.Value:
    """To tokens [N, H·W, C], through a linear layer, and back."""
    flat = b.op("Transpose", b.op("Reshape", x, ints(b, 1, 4, 30)), perm=[0, 2, 1])
    mixed = b.op("MatMul", flat, b.weight(f"m{len(b.nodes)}", drawn(4, 4)))
    back = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1]), ints(b, *IMAGE))
    return b.op("Add", back, x)


def grouped(b: Build, x: ir.Value) -> ir.Value:
    """Divide into groups of channels and subtract their means."""
    groups = b.op("Reshape", x, ints(b, 1, 2, 2, 30))
    mean = b.op("ReduceMean", groups, ints(b, 2, 3), keepdims=1)
    return b.op("Reshape", b.op("Sub", groups, mean), ints(b, *IMAGE))


def squeezed(b: Build, x: ir.Value) -> ir.Value:
    """Scale by a mean over pixels without its axes, and one without the axis of channels."""
    means = b.op("Reshape", b.op("ReduceMean", x, ints(b, 2, 3), keepdims=0), ints(b, 1, 4, 1, 1))
    across = b.op("Unsqueeze", b.op("ReduceMax", x, ints(b, 1), keepdims=0), ints(b, 1))
    return b.op("Mul", b.op("Add", x, means), across)


STEPS: dict[str, Step] = {
    "channels": lambda b, x: b.op("Add", b.op("Mul", x, floats(b, 4, 1, 1)), floats(b, 1, 4, 1, 1)),
    "pixels": lambda b, x: b.op("Sub", floats(b, 6, 5), x),
    "number": lambda b, x: b.op("Mul", x, b.store(f"n{len(b.held)}", [0.5])),
    "silu": lambda b, x: b.op("Mul", x, b.op("Sigmoid", x)),
    "split": split,
    "cut": cut,
    "tokens": tokens,
    "grouped": grouped,
    "squeezed": squeezed,
    "softmax": lambda b, x: b.op("Softmax", x, axis=1),
    "clip": lambda b, x: b.op("Clip", x, b.store(f"l{len(b.held)}", -0.5), b.store(f"h{len(b.held)}", 0.7)),
}


def between(*names: str) -> Case:
    """Return a graph of two convolutions, a skip around, and the steps between them."""

    def case(b: Build) -> ir.Value:
        first = conv(b, b.input("x", *IMAGE))
        x = first
        for name in names:
            x = STEPS[name](b, x)
        return conv(b, b.op("Add", x, first))

    return case


def moved(path: Path) -> list[str]:
    """Return what a file does between its first and its last convolution."""
    found = operators(path)
    return found[found.index("CONV_2D") + 1 : len(found) - found[::-1].index("CONV_2D") - 1]


@pytest.mark.parametrize("name", STEPS)
def test_nothing_is_transposed_between_convolutions(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    model = one(between(name))
    check_float(model, tmp_path, sample(model, rng))
    assert "TRANSPOSE" not in moved(tmp_path / "model.tflite")
    assert operators(tmp_path / "model.tflite").count("TRANSPOSE") == 2


@pytest.mark.parametrize("name", [name for name in STEPS if name != "clip"])
def test_nor_in_integers(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    model = one(between(name))
    check_integer(model, tmp_path, sample(model, rng), steps=2.0)
    assert "TRANSPOSE" not in moved(tmp_path / "model.tflite")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=5))
def test_any_chain(tmp_path: Path, names: list[str]) -> None:
    model = one(between(*names))
    check_float(model, tmp_path, {"x": drawn(*IMAGE)}, tolerance=1e-5)
    assert "TRANSPOSE" not in moved(tmp_path / "model.tflite")


def test_what_is_read_in_two_layouts_is_moved_once(tmp_path: Path, rng: np.random.Generator) -> None:
    def case(b: Build) -> ir.Value:
        x = conv(b, b.input("x", *IMAGE))
        return b.op("Add", *(b.op("MatMul", x, b.weight(name, drawn(5, 5))) for name in ("m", "n")))

    model = one(case)
    check_float(model, tmp_path, sample(model, rng))
    assert operators(tmp_path / "model.tflite").count("TRANSPOSE") == 2  # the input, and what both read


def test_dimensions_of_one_are_moved_by_a_reshape(tmp_path: Path, rng: np.random.Generator) -> None:
    def case(b: Build) -> ir.Value:
        return b.op("Conv", b.input("x", 1, 1, 6, 5), b.weight("w", drawn(1, 1, 3, 3)))

    model = one(case)
    check_float(model, tmp_path, sample(model, rng))
    assert operators(tmp_path / "model.tflite") == ["RESHAPE", "CONV_2D", "RESHAPE"]


def test_without_a_convolution_transpositions_stay_where_they_are(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    def case(b: Build) -> ir.Value:
        turned = b.op("Transpose", b.input("x", 1, 4, 6), perm=[0, 2, 1])
        return b.op("Relu", b.op("Mul", turned, floats(b, 4)))

    model = one(case)
    check_float(model, tmp_path, sample(model, rng))
    assert operators(tmp_path / "model.tflite") == ["TRANSPOSE", "MUL", "RELU"]


def test_a_returned_transposition_is_one(tmp_path: Path, rng: np.random.Generator) -> None:
    def case(b: Build) -> ir.Value:
        return b.op("Transpose", conv(b, b.input("x", *IMAGE)), perm=[0, 2, 3, 1])

    model = one(case)
    check_float(model, tmp_path, sample(model, rng))
    check_integer(model, tmp_path, sample(model, rng))


def test_a_trace_has_every_value_as_the_model_has_it(tmp_path: Path, rng: np.random.Generator) -> None:
    model = one(between("silu", "grouped", "tokens"))
    feeds = sample(model, rng)
    to_tflite(model, tmp_path / "m.tflite")
    found: dict[str, np.ndarray] = {}
    tflite_values(tmp_path / "m.tflite", feeds, found.__setitem__)
    model.graph.outputs.extend(
        v
        for node in model.graph
        for v in node.outputs
        if not v.is_graph_output() and v.dtype == ir.DataType.FLOAT
    )
    names = [str(v.name) for v in model.graph.outputs]
    known = 0
    for name, want in zip(names, reference(model, feeds), strict=True):
        if name in found:
            known += 1
            np.testing.assert_allclose(found[name], want, atol=1e-5)
    assert known >= len(names) - 3  # transpositions are no tensors of their own
