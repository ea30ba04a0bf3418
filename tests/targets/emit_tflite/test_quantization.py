"""Which values one int8 tensor carries, and where real conversions stay."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import UnsupportedError
from m4c.numerics import sqnr
from m4c.targets.emit_tflite import read_ports, to_tflite
from m4c.targets.emit_tflite.quantization import affine
from m4c.targets.emit_tflite.table import COARSE
from tests.targets.emit_tflite.graphs import Build, infer, interpreter, operators, reference, run


def parameters(b: Build, name: str, scale: float, point: int) -> tuple[ir.Value, ir.Value]:
    return b.store(f"{name}.scale", scale), b.store(f"{name}.point", point, np.int8)


def pair(b: Build, value: ir.Value, name: str, scale: float, point: int) -> ir.Value:
    held = parameters(b, name, scale, point)
    return b.op("DequantizeLinear", b.op("QuantizeLinear", value, *held), *held)


def check(model: ir.Model, path: Path, feeds: dict[str, np.ndarray]) -> None:
    to_tflite(model, path)
    for want, got in zip(reference(model, feeds), run(path, feeds, xnnpack=False), strict=True):
        assert sqnr(want, got) > 25  # int8 against int8: only roundings differ


def test_a_chain_is_one_tensor(tmp_path: Path, rng: np.random.Generator) -> None:
    b = Build()
    x = pair(b, b.input("x", 2, 8), "x", 0.03, 4)
    model = b.model(pair(b, b.op("Relu", x), "y", 0.015, -128))
    check(model, tmp_path / "m.tflite", {"x": rng.standard_normal((2, 8)).astype(np.float32)})
    tensors = interpreter(tmp_path / "m.tflite", xnnpack=False).get_tensor_details()
    assert [(t["name"], t["dtype"]) for t in tensors] == [
        ("x", np.int8),
        (model.graph.outputs[0].name, np.int8),
    ]
    ports = read_ports(tmp_path / "m.tflite")
    assert ports.inputs[0].scale == pytest.approx(0.03)
    assert ports.outputs[0].scale == pytest.approx(0.015)
    assert (ports.inputs[0].zero_point, ports.outputs[0].zero_point) == (4, -128)


def test_an_operator_without_integer_kernel_is_converted_around(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    b = Build()
    x = pair(b, b.input("x", 2, 8), "x", 0.03, 4)
    model = b.model(pair(b, b.op("Cos", x), "y", 1 / 127, 0))
    check(model, tmp_path / "m.tflite", {"x": rng.standard_normal((2, 8)).astype(np.float32)})
    assert operators(tmp_path / "m.tflite") == ["DEQUANTIZE", "COS", "QUANTIZE"]


def test_a_float_result_makes_the_operator_float(tmp_path: Path, rng: np.random.Generator) -> None:
    b = Build()
    x = pair(b, b.input("x", 2, 8), "x", 0.03, 4)
    model = b.model(b.op("Relu", x), b.op("Neg", x))
    check(model, tmp_path / "m.tflite", {"x": rng.standard_normal((2, 8)).astype(np.float32)})
    assert operators(tmp_path / "m.tflite") == ["DEQUANTIZE", "RELU", "NEG"]  # dequantized once
    assert [port.dtype for port in read_ports(tmp_path / "m.tflite").outputs] == ["float32", "float32"]


def test_an_input_that_is_also_read_in_float_stays_float(tmp_path: Path, rng: np.random.Generator) -> None:
    b = Build()
    x = b.input("x", 2, 8)
    model = b.model(pair(b, b.op("Relu", pair(b, x, "x", 0.03, 4)), "y", 0.015, -128), b.op("Sin", x))
    check(model, tmp_path / "m.tflite", {"x": rng.standard_normal((2, 8)).astype(np.float32)})
    assert operators(tmp_path / "m.tflite") == ["QUANTIZE", "RELU", "SIN"]
    assert read_ports(tmp_path / "m.tflite").inputs[0].dtype == "float32"


def test_an_output_that_is_also_read_in_float(tmp_path: Path, rng: np.random.Generator) -> None:
    b = Build()
    y = pair(b, b.op("Relu", pair(b, b.input("x", 2, 8), "x", 0.03, 4)), "y", 0.015, -128)
    model = b.model(y, b.op("Sin", y))
    check(model, tmp_path / "m.tflite", {"x": rng.standard_normal((2, 8)).astype(np.float32)})
    assert operators(tmp_path / "m.tflite") == ["RELU", "DEQUANTIZE", "SIN"]
    names = [t["name"] for t in interpreter(tmp_path / "m.tflite", xnnpack=False).get_tensor_details()]
    assert len(set(names)) == len(names)


def test_a_result_that_is_returned_in_float_and_quantized(tmp_path: Path, rng: np.random.Generator) -> None:
    b = Build()
    y = b.op("Relu", pair(b, b.input("x", 2, 8), "x", 0.03, 4))
    model = b.model(y, pair(b, y, "y", 0.015, -128))
    check(model, tmp_path / "m.tflite", {"x": rng.standard_normal((2, 8)).astype(np.float32)})
    assert operators(tmp_path / "m.tflite") == ["DEQUANTIZE", "RELU", "QUANTIZE"]
    assert [port.dtype for port in read_ports(tmp_path / "m.tflite").outputs] == ["float32", "int8"]


def test_a_cast_of_a_quantized_value_casts_what_it_means(tmp_path: Path) -> None:
    b = Build()
    x = pair(b, b.input("x", 2, 2), "x", 0.5, 3)
    model = b.model(b.op("Cast", x, to=ir.DataType.INT32.value))
    to_tflite(model, tmp_path / "m.tflite")
    feeds = {"x": np.array([[1, -2], [3.5, 9]], np.float32)}
    np.testing.assert_array_equal(run(tmp_path / "m.tflite", feeds, False)[0], [[1, -2], [3, 9]])


def wide(b: Build, value: ir.Value, name: str, scale: float) -> ir.Value:
    held = b.store(f"{name}.scale", scale), b.store(f"{name}.point", 0, np.int16)
    return b.op("DequantizeLinear", b.op("QuantizeLinear", value, *held), *held)


WIDTHS = ["Softmax", "Sigmoid", "Tanh", "Transpose", "Relu"]


@pytest.mark.parametrize("operator", WIDTHS)
@pytest.mark.parametrize("widens", [True, False])
def test_widths_that_meet(operator: str, widens: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    """Kernels with fixed scales and those that copy take one width and give another; the rest computes in float."""
    b = Build()
    x = b.input("x", 4, 8)
    if widens:
        y = wide(b, b.op(operator, pair(b, x, "x", 0.03, 4)), "y", 1 / 8000)
    else:
        y = pair(b, b.op(operator, wide(b, x, "x", 1 / 8000)), "y", 0.03, 4)
    model = b.model(y)
    path = tmp_path / "m.tflite"
    feeds = {"x": rng.standard_normal((4, 8)).astype(np.float32)}
    to_tflite(model, path)
    assert ("DEQUANTIZE" in operators(path)) == (operator in ("Relu", *COARSE))
    step = 1.3e-4 if widens else 0.031  # one of the result
    np.testing.assert_allclose(run(path, feeds, False)[0], reference(model, feeds)[0], rtol=0, atol=step)


def test_a_change_of_scale_is_a_quantize(tmp_path: Path, rng: np.random.Generator) -> None:
    b = Build()
    x = pair(b, b.input("x", 2, 8), "x", 0.03, 4)
    model = b.model(pair(b, pair(b, x, "finer", 0.02, 0), "y", 0.04, 1))
    check(model, tmp_path / "m.tflite", {"x": rng.standard_normal((2, 8)).astype(np.float32)})
    assert operators(tmp_path / "m.tflite") == ["QUANTIZE", "QUANTIZE"]


def test_integer_ports_stay_as_they_are(tmp_path: Path) -> None:
    b = Build()
    held = parameters(b, "x", 0.5, 3)
    x = b.op("DequantizeLinear", b.input("x", 2, 4, dtype=ir.DataType.INT8), *held)
    model = b.model(b.op("QuantizeLinear", b.op("Relu", x), *held))
    to_tflite(model, tmp_path / "m.tflite")
    feeds = {"x": np.arange(-4, 4, dtype=np.int8).reshape(2, 4)}
    made = interpreter(tmp_path / "m.tflite", xnnpack=False).get_signature_runner()(**feeds)
    np.testing.assert_array_equal(made[model.graph.outputs[0].name], reference(model, feeds)[0])


def test_channel_scales_of_an_elementwise_operand(tmp_path: Path) -> None:
    b = Build()
    x = pair(b, b.input("x", 2, 8), "x", 0.03, 4)
    held = b.store("w", np.ones((2, 8)), np.int8)
    w = b.op("DequantizeLinear", held, b.store("s", np.full(8, 0.01)), axis=1)
    model = b.model(pair(b, b.op("Mul", x, w), "y", 0.015, 0))
    with pytest.raises(
        UnsupportedError, match=r"w has 8 scales\n.*Mul node n3.*\n.*fix: quantize it per tensor"
    ):
        to_tflite(model, tmp_path / "m.tflite")


def test_a_computed_scale(tmp_path: Path) -> None:
    b = Build()
    x, scale = b.input("x", 2, 8), b.input("s")
    model = b.model(b.op("QuantizeLinear", x, scale, b.store("z", 0, np.int8)))
    with pytest.raises(UnsupportedError, match="computed scale"):
        to_tflite(model, tmp_path / "m.tflite")


def test_negative_axis_and_missing_zero_point() -> None:
    b = Build()
    w = b.store("w", np.ones((2, 8)), np.int8)
    y = b.op("DequantizeLinear", w, b.store("s", np.full(8, 0.5)), axis=-1)
    infer(b.model(y))
    node = y.producer()
    assert node is not None
    found = affine(node)
    assert (found.axis, found.scale, found.zero_point) == (1, (0.5,) * 8, (0,) * 8)
