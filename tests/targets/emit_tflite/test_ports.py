"""What a file says of its inputs and outputs."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import BundleError
from m4c.targets.emit_tflite import TensorPort, read_ports, to_tflite
from tests.targets.emit_tflite.graphs import Build, drawn, quantized


def embedding() -> ir.Model:
    b = Build()
    ids = b.input("ids", 1, 4, dtype=ir.DataType.INT64)
    rows = b.op("Gather", b.weight("table", drawn(9, 6)), ids)
    return b.model(b.op("Add", rows, b.input("extra", 4, 6)), b.op("ArgMax", rows, axis=-1, keepdims=0))


def test_float_ports_in_the_order_of_the_graph(tmp_path: Path) -> None:
    to_tflite(embedding(), tmp_path / "m.tflite")
    ports = read_ports(tmp_path / "m.tflite")
    assert ports.inputs == (TensorPort("ids", "int32", (1, 4)), TensorPort("extra", "float32", (4, 6)))
    assert ports.outputs == (TensorPort("add1", "float32", (1, 4, 6)), TensorPort("argmax2", "int32", (1, 4)))


def test_quantized_ports_carry_their_scale(tmp_path: Path) -> None:
    model = embedding()
    quantized(
        model,
        {"ids": np.zeros((1, 4), np.int64), "extra": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)},
    )
    to_tflite(model, tmp_path / "m.tflite")
    ports = read_ports(tmp_path / "m.tflite")
    assert [port.dtype for port in (*ports.inputs, *ports.outputs)] == ["int32", "int8", "int8", "int32"]
    assert ports.inputs[1].scale == pytest.approx(2 / 255)
    assert ports.inputs[0].scale is None
    assert [port.name for port in ports.outputs] == ["add1", "argmax2"]


def test_a_missing_signature(tmp_path: Path) -> None:
    to_tflite({"encode": embedding()}, tmp_path / "m.tflite")
    with pytest.raises(BundleError, match=r"no signature serving_default\n.*m.tflite\n.*it has encode"):
        read_ports(tmp_path / "m.tflite")


def test_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"something else")
    with pytest.raises(BundleError, match="not a TFLite file"):
        read_ports(tmp_path / "m.tflite")
