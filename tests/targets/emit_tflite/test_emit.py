"""Whole graphs: a transformer encoder with a convolution stem, float and int8, and refusals."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import UnsupportedError
from m4c.numerics import difference, sqnr
from m4c.targets.emit_tflite import to_tflite
from tests.targets.emit_tflite.graphs import (
    Build,
    check_float,
    drawn,
    interpreter,
    one,
    operators,
    quantized,
    reference,
    run,
    sample,
)

WIDTH, HEADS, LENGTH = 32, 4, 10


def linear(b: Build, x: ir.Value, name: str, inner: int, outer: int) -> ir.Value:
    product = b.op("MatMul", x, b.weight(f"{name}.weight", drawn(inner, outer)))
    return b.op("Add", product, b.weight(f"{name}.bias", 0.1 * drawn(outer)))


def layer_norm(b: Build, x: ir.Value, name: str) -> ir.Value:
    """Return the decomposed form that comes before quantization."""
    last = b.store(f"{name}.axes", [-1], np.int64)
    d = b.op("Sub", x, b.op("ReduceMean", x, last))
    v = b.op("Add", b.op("ReduceMean", b.op("Mul", d, d), last), b.store(f"{name}.eps", 1e-5))
    r = b.op("Mul", d, b.op("Pow", v, b.store(f"{name}.half", -0.5)))
    y = b.op("Mul", r, b.weight(f"{name}.weight", 1 + 0.1 * drawn(WIDTH)))
    return b.op("Add", y, b.weight(f"{name}.bias", 0.1 * drawn(WIDTH)))


def attention(b: Build, x: ir.Value, mask: ir.Value) -> ir.Value:
    split = b.store("split", [1, LENGTH, HEADS, WIDTH // HEADS], np.int64)
    perms = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}
    q, k, v = (
        b.op("Transpose", b.op("Reshape", linear(b, x, name, WIDTH, WIDTH), split), perm=perm)
        for name, perm in perms.items()
    )
    scores = b.op("Add", b.op("Mul", b.op("MatMul", q, k), b.store("scale", (WIDTH // HEADS) ** -0.5)), mask)
    mixed = b.op("Transpose", b.op("MatMul", b.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    merged = b.op("Reshape", mixed, b.store("merge", [1, LENGTH, WIDTH], np.int64))
    return linear(b, merged, "out", WIDTH, WIDTH)


def encoder() -> ir.Model:
    """Return one block behind a convolution stem, its first token normalized to length 1."""
    b = Build()
    stem = b.op(
        "Conv", b.input("signal", 1, 8, 18), b.weight("stem.weight", drawn(WIDTH, 8, 3)),
        b.weight("stem.bias", drawn(WIDTH)), pads=[1, 1], strides=[2],
    )  # fmt: skip
    tokens = b.op("Transpose", b.op("Gelu", stem), perm=[0, 2, 1])
    x = b.op("Concat", b.weight("cls", drawn(1, 1, WIDTH)), tokens, axis=1)
    x = b.op("Add", x, b.weight("positions", 0.3 * drawn(LENGTH, WIDTH)))
    mask = b.store("mask", np.triu(np.full((LENGTH, LENGTH), -8.0), 1))
    x = b.op("Add", x, attention(b, layer_norm(b, x, "norm1"), mask))
    hidden = b.op("Gelu", linear(b, layer_norm(b, x, "norm2"), "up", WIDTH, 64))
    x = b.op("Add", x, linear(b, hidden, "down", 64, WIDTH))
    first = b.op("Gather", x, b.store("first", 0, np.int64), axis=1)
    return b.model(b.op("LpNormalization", first, axis=-1))


def test_float_encoder(tmp_path: Path, rng: np.random.Generator) -> None:
    model = encoder()
    check_float(model, tmp_path, sample(model, rng), tolerance=1e-5)


def test_int8_encoder(tmp_path: Path, rng: np.random.Generator) -> None:
    model, path = encoder(), tmp_path / "m.tflite"
    feeds = sample(model, rng)
    (source,) = reference(model, feeds)
    quantized(model, feeds)
    to_tflite(model, path)
    assert "DEQUANTIZE" not in operators(path)
    (simulated,) = reference(model, feeds)
    for xnnpack in (False, True):
        (got,) = run(path, feeds, xnnpack)
        assert difference(source, got).within("int8")
        # L2_NORMALIZATION writes steps of 1/128; the rest is rounding that adds up over 40 operators
        assert sqnr(simulated, got) > 20


def test_names_and_order_are_those_of_the_ir(tmp_path: Path) -> None:
    b = Build()
    first, second = b.input("first", 2, 4), b.input("second", 2, 4)
    total = b.op("Sub", second, first)
    model = b.model(b.op("Relu", total), total)
    to_tflite(model, tmp_path / "m.tflite")
    made = interpreter(tmp_path / "m.tflite", xnnpack=False)
    assert [d["name"] for d in made.get_input_details()] == ["first", "second"]
    assert [d["name"] for d in made.get_output_details()] == ["relu1", "sub0"]
    assert made.get_signature_list() == {
        "serving_default": {"inputs": ["first", "second"], "outputs": ["relu1", "sub0"]}
    }


def test_an_unknown_operator_names_its_place(tmp_path: Path) -> None:
    b = Build()
    value = b.op("Celu", b.input("x", 2))
    node = value.producer()
    assert node is not None
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'blocks.1', 'blocks.1.act', 'celu']"
    with pytest.raises(UnsupportedError) as caught:
        to_tflite(b.model(value), tmp_path / "m.tflite")
    assert str(caught.value).splitlines() == [
        "the TFLite emitter has no function for Celu",
        "  at:  Celu node n0 of blocks.1.act",
        "  fix: rewrite the operator with a pass, or add a function to EMIT in targets/emit_tflite/table.py",
    ]
    assert not list(tmp_path.iterdir())


def test_an_operator_of_another_domain_is_unknown(tmp_path: Path) -> None:
    model = one(lambda b: b.op("Relu", b.input("x", 2)))
    model.graph[0].domain = "com.example"
    with pytest.raises(UnsupportedError, match=r"no function for com\.example::Relu"):
        to_tflite(model, tmp_path / "m.tflite")


def test_a_graph_without_operators(tmp_path: Path) -> None:
    b = Build()
    with pytest.raises(UnsupportedError, match="the graph has no operator"):
        to_tflite(b.model(b.input("x", 2)), tmp_path / "m.tflite")
