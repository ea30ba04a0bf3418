"""Weights in 4 and 8 bits beside float activations: bytes, kernels, and what is read back."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from ai_edge_litert import schema_py_generated as tfl

from m4c.float_products import run_in_float
from m4c.numerics import sqnr
from m4c.passes.fold_weights import FoldWeights
from m4c.passes.quantize_weights import QuantizeWeights
from m4c.pipeline import Pipeline
from m4c.read_back import read_back
from m4c.scheme import Scheme
from m4c.targets.emit_tflite import SIGNATURE, to_tflite
from m4c.targets.emit_tflite import file as file_module
from m4c.targets.emit_tflite.opened import Opened
from m4c.weights import Array, array, lazy, part, stored_value
from tests.targets.emit_tflite.graphs import Build, drawn, interpreter, operators, run

SCHEMES = {
    "int4": Scheme(4, litert=True),
    "int4/32": Scheme(4, 32, litert=True),
    "int8": Scheme(8, litert=True),
}


def in_parts(name: str, values: Array) -> ir.Value:
    """Return a weight that is never read whole."""

    def whole() -> Array:
        raise AssertionError(f"{name} was read whole")

    return stored_value(lazy(name, ir.DataType.FLOAT, values.shape, whole, lambda rows: values[rows]))


def product(
    scheme: Scheme, outputs: int = 40, inputs: int = 256, bias: bool = True
) -> tuple[ir.Model, Array]:
    """Return x · Wᵀ (+ b) with W on the grid of ``scheme``, and W."""
    b, matrix = Build(), drawn(outputs, inputs)
    w = in_parts("w", matrix)
    b.held.append(w)
    made = b.op("MatMul", b.input("x", 1, 3, inputs), b.op("Transpose", w, perm=[1, 0]))
    if bias:
        made = b.op("Add", made, b.weight("b", drawn(outputs)))
    steps = (FoldWeights(), QuantizeWeights(scheme))
    return Pipeline(steps, FoldWeights.needs).run(b.model(made))[0], matrix


def written(model: ir.Model, tmp_path: Path) -> Path:
    to_tflite(model, tmp_path / "model.tflite")
    return tmp_path / "model.tflite"


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("xnnpack", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_both_kernels_multiply_by_what_is_read_back(
    scheme: Scheme, xnnpack: bool, bias: bool, tmp_path: Path
) -> None:
    model, matrix = product(scheme, bias=bias)
    path = written(model, tmp_path)
    assert operators(path) == ["FULLY_CONNECTED"]
    stored = array(read_back(path)["w"])
    assert sqnr(matrix, stored) > (18 if scheme.bits == 4 else 40)
    x = drawn(1, 3, 256)
    (found,) = run(path, {"x": x}, xnnpack)
    wanted = x @ stored.T + (drawn(40) if bias else 0)
    assert sqnr(wanted, found) > 40


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_products_are_one_partition_of_xnnpack(scheme: Scheme, tmp_path: Path) -> None:
    """Scales that XNNPACK does not take would leave the operator to a slower kernel, in silence."""
    made = interpreter(written(product(scheme)[0], tmp_path), True)._get_ops_details()
    assert [op["op_name"] for op in made] == ["FULLY_CONNECTED", "DELEGATE"]


def test_scales_are_used_as_they_are_stored(tmp_path: Path) -> None:
    """XNNPACK rounds scales to bfloat16: with an input that 8 bits hold exactly, nothing else is left to differ."""
    path = written(product(SCHEMES["int4/32"], bias=False)[0], tmp_path)
    x = np.random.default_rng(0).integers(-127, 128, (1, 3, 256)).astype(np.float32)
    x[..., 0], x[..., 1] = -127, 128
    (found,) = run(path, {"x": x}, True)
    wanted = x.astype(np.float64) @ array(read_back(path)["w"]).T.astype(np.float64)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_how_it_is_stored(tmp_path: Path) -> None:
    path = written(product(SCHEMES["int4/32"])[0], tmp_path)
    model = tfl.ModelT.InitFromPackedBuf(path.read_bytes())
    tensors = {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors}
    codes, scales = tensors["w.q"], tensors["w.scales"]
    assert (codes.type, list(codes.shape)) == (tfl.TensorType.INT4, [40, 256])
    assert (scales.type, list(scales.shape)) == (tfl.TensorType.FLOAT16, [40, 8])
    details = codes.quantization.details
    assert (details.blockSize, model.subgraphs[0].tensors[details.scales].name) == (32, b"w.scales")
    held = model.buffers[scales.buffer].data.view(np.float16)
    assert (held > 0).all()
    np.testing.assert_array_equal(held.astype(np.float32).view(np.uint32) & 0xFFFF, 0)  # bfloat16 too


@pytest.mark.parametrize("largest", [file_module.LARGEST_FLATBUFFER, 0])
def test_both_places_of_weights(largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "LARGEST_FLATBUFFER", largest)
    for name, scheme in SCHEMES.items():
        model, _ = product(scheme)
        path = written(model, tmp_path)
        ran = run_in_float(path, {"x": drawn(1, 3, 256)}, check=True)
        assert ran.steps is not None, name
        assert 0.2 < ran.steps < 0.4, name


def test_matrices_that_the_4_bit_kernels_do_not_take_have_8(tmp_path: Path) -> None:
    for outputs, inputs in ((3, 64), (40, 48)):
        path = written(product(SCHEMES["int4"], outputs, inputs)[0], tmp_path)
        assert {str(t.dtype) for t in Opened(path).tensors if t.name == "w.q"} == {"INT8"}
        x = drawn(1, 3, inputs)
        (found,) = run(path, {"x": x}, False)
        assert sqnr(x @ array(read_back(path)["w"]).T + drawn(outputs), found) > 30


def test_a_table_is_gathered_in_8_bits(tmp_path: Path) -> None:
    b, table = Build(), drawn(50, 48)
    b.held.append(in_parts("t", table))
    model = b.model(b.op("Gather", b.held[0], b.input("ids", 1, 4, dtype=ir.DataType.INT64)))
    path = written(Pipeline((QuantizeWeights(SCHEMES["int4"]),)).run(model)[0], tmp_path)
    assert sorted(operators(path)) == ["CAST", "GATHER", "GATHER", "MUL"]
    ids = np.array([[0, 49, 7, 7]])
    stored = read_back(path)["t"]
    assert sqnr(table, array(stored)) > 40
    np.testing.assert_array_equal(part(stored, slice(7, 9)), array(stored)[7:9])
    for xnnpack in (True, False):
        (found,) = run(path, {"ids": ids}, xnnpack)
        np.testing.assert_allclose(found, array(stored)[ids], rtol=1e-6)


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for scheme in SCHEMES.values():
        made = [written(product(scheme)[0], tmp_path).read_bytes() for _ in range(2)]
        assert made[0] == made[1]


def test_a_matrix_in_float_is_read_in_parts(tmp_path: Path) -> None:
    model, matrix = product(Scheme(4, keep=(("w", "float32"),), litert=True), bias=False)
    x = drawn(1, 3, 256)
    (found,) = run(written(model, tmp_path), {"x": x}, True)
    np.testing.assert_allclose(found, x @ matrix.T, rtol=0, atol=1e-5)


def test_a_piece_runs_alone(tmp_path: Path) -> None:
    b = Build()
    x = b.op("Relu", b.input("x", 5, 8))
    y = b.op("MatMul", x, b.weight("w", drawn(8, 300)))
    path = written(b.model(b.op("Neg", y)), tmp_path)
    opened = Opened(path)
    flat = opened.piece(opened.operators[1:2], opened.operators[1].outputs)
    file_module.write({SIGNATURE: flat}, tmp_path / "piece.tflite")
    found = interpreter(tmp_path / "piece.tflite", True).get_signature_runner()
    given: dict[str, Any] = {flat.inputs[0][0]: drawn(5, 8)}
    (made,) = found(**given).values()
    np.testing.assert_allclose(made, drawn(5, 8) @ drawn(8, 300), rtol=1e-5, atol=1e-6)
