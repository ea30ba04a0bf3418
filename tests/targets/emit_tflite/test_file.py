"""The bytes of a file: determinism, laziness, alignment, both places of weights, all or nothing."""

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from ai_edge_litert import schema_py_generated as tfl

from m4c.targets.emit_tflite import file as file_module
from m4c.targets.emit_tflite import read_ports, to_tflite
from m4c.targets.emit_tflite.emit import lower
from m4c.weights import lazy, stored_value
from tests.targets.emit_tflite.graphs import Build, check_float, check_integer, drawn, quantized, sample


def layers(first: ir.Value | None = None) -> ir.Model:
    """Return two linear layers and a convolution, with weights of odd sizes."""
    b = Build()
    if first is not None:
        b.held.append(first)
    x = b.op("MatMul", b.input("x", 1, 5, 33), first or b.weight("w1", drawn(33, 7)))
    x = b.op("Gelu", b.op("Add", x, b.weight("b1", drawn(7))))
    return b.model(b.op("Conv", x, b.weight("w2", drawn(3, 5, 3)), b.weight("b2", drawn(3))))


def failing(name: str, *shape: int) -> ir.Value:
    def read() -> np.ndarray:
        raise OSError(f"{name} was read")

    return stored_value(lazy(name, ir.DataType.FLOAT, shape, read))


@pytest.mark.parametrize("largest", [file_module.LARGEST_FLATBUFFER, 0])
def test_both_places_of_weights(
    largest: int, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "LARGEST_FLATBUFFER", largest)
    model = layers()
    check_float(model, tmp_path, sample(model, rng))
    check_integer(model, tmp_path, sample(model, rng), steps=2)
    buffers = tfl.ModelT.InitFromPackedBuf((tmp_path / "model.tflite").read_bytes()).buffers
    assert any(buffer.offset > 1 for buffer in buffers) == (largest == 0)


def test_weights_in_the_flatbuffer_are_plain_vectors(tmp_path: Path) -> None:
    """A reader that knows nothing of offsets finds every weight, aligned, in the ordinary field."""
    to_tflite(layers(), tmp_path / "m.tflite")
    held = (tmp_path / "m.tflite").read_bytes()
    model = tfl.ModelT.InitFromPackedBuf(held)
    tensors = {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors}
    data = model.buffers[tensors["w1.transposed"].buffer].data
    assert bytes(data) == drawn(33, 7).T.tobytes()
    assert held.index(bytes(data)) % file_module.ALIGNMENT == 0


def test_weights_behind_the_flatbuffer_are_aligned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "LARGEST_FLATBUFFER", 0)
    to_tflite(layers(), tmp_path / "m.tflite")
    held = (tmp_path / "m.tflite").read_bytes()
    places = [(b.offset, b.size) for b in tfl.ModelT.InitFromPackedBuf(held).buffers if b.size]
    assert len(places) == 4
    assert all(offset % file_module.ALIGNMENT == 0 for offset, _ in places)
    assert max(offset + size for offset, size in places) == len(held)
    offset, size = places[0]
    assert held[offset : offset + size] == drawn(33, 7).T.tobytes()


def test_equal_models_give_equal_bytes(tmp_path: Path, rng: np.random.Generator) -> None:
    written = []
    for index in range(2):
        model = layers()
        quantized(model, {"x": np.ones((1, 5, 33), np.float32)})
        to_tflite(model, tmp_path / f"{index}.tflite")
        written.append((tmp_path / f"{index}.tflite").read_bytes())
    assert written[0] == written[1]


def test_no_weight_is_read_before_writing() -> None:
    model = layers(failing("w1", 33, 7))
    assert any(tensor.name == "w1.transposed" for tensor in lower(model).tensors)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    to_tflite(layers(), path)
    before = path.read_bytes()
    with pytest.raises(OSError, match=re.escape("w1 was read")):
        to_tflite(layers(failing("w1", 33, 7)), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]


def test_progress_adds_up_to_the_file(tmp_path: Path) -> None:
    heard: list[int] = []
    to_tflite(layers(), tmp_path / "m.tflite", progress=heard.append)
    padding = (tmp_path / "m.tflite").stat().st_size - sum(heard)
    assert len(heard) == 5  # the structure and four weights
    assert 0 <= padding < len(heard) * (file_module.ALIGNMENT + 4)


def test_the_signature_has_the_name_that_was_asked_for(tmp_path: Path) -> None:
    to_tflite({"encode": layers()}, tmp_path / "m.tflite")
    assert [port.name for port in read_ports(tmp_path / "m.tflite", "encode").inputs] == ["x"]
