"""Files that nobody should trust are refused with exit code 2, in little time and memory, and nothing is written."""

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m4c import cli
from m4c.bundle import MANIFEST, read_manifest
from m4c.checkpoints import open_checkpoint
from m4c.errors import M4CError
from m4c.targets.read_onnx import read_onnx
from m4c.targets.read_tflite import read_tflite
from tests.hostile_models import Hostile, hostile, model, node, product

FILES = list(hostile())


def refused(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Return the exit code of a command."""
    monkeypatch.setattr(sys, "argv", ["m4c", *arguments])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert isinstance(done.value.code, int)
    return done.value.code


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_an_onnx_file(
    file: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(file.model.SerializeToString())
    file.beside(folder)
    before = sorted(tmp_path.rglob("*"))
    assert refused(monkeypatch, "export", str(folder / "m.onnx"), "-o", str(tmp_path / "out")) == 2
    told = capsys.readouterr().err
    assert re.search(file.said, told), told
    assert "Traceback" not in told
    assert sorted(tmp_path.rglob("*")) == before


def test_a_graph_in_a_graph_in_a_graph(tmp_path: Path) -> None:
    """protobuf itself stops at a hundred messages in one another."""
    inner = onnx.AttributeProto(name="g", type=onnx.AttributeProto.GRAPH).SerializeToString()
    for _ in range(5000):  # an attribute with a graph with a node with that attribute
        graph = _field(1, _field(5, inner))
        inner = b"\x0a\x01g" + _field(6, graph) + b"\xa0\x01\x05"
    made = model([node("Relu", "x", "y")])
    made.graph.node.add().ParseFromString(b"")
    content = made.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(content + _field(7, _field(1, _field(5, inner))))
    with pytest.raises(M4CError, match="not an ONNX model"):
        read_onnx(path)


def _field(number: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + body


def test_branches_are_no_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph with an If is exported to ONNX, and refused where its values would have to be observed."""
    ports = [onnx.helper.make_tensor_value_info(name, 1, [1, 4]) for name in "ab"]
    parts = [
        onnx.helper.make_graph([node(operator, "x", str(port.name))], operator, [], [port])
        for operator, port in zip(("Relu", "Neg"), ports, strict=True)
    ]
    made = model([onnx.helper.make_node("If", ["c"], ["y"], then_branch=parts[0], else_branch=parts[1])])
    made.graph.input.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    whole = ("export", str(path), "-o", str(tmp_path / "out"))
    monkeypatch.setattr(sys, "argv", ["m4c", *whole])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert not done.value.code
    assert read_manifest(tmp_path / "out").graphs[0].operators == {"If": 1, "Neg": 1, "Relu": 1}
    integers = ("--quantize", "int8", "--calibration", "random", "--fallback", "error")
    assert refused(monkeypatch, *whole, *integers) == 3


def test_a_manifest_without_end(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    path.write_text("[" * 100_000)
    with pytest.raises(M4CError, match="the manifest is damaged: it is nested without end"):
        read_manifest(tmp_path)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: no disk is taken
    with pytest.raises(M4CError, match="it is larger than 64 MiB"):
        read_manifest(tmp_path)


READERS: dict[str, Callable[[Path], object]] = {
    "m.onnx": read_onnx,
    "m.tflite": read_tflite,
    "model.safetensors": lambda path: open_checkpoint(path.parent),
    "model.bin": lambda path: open_checkpoint(path),
    MANIFEST: lambda path: read_manifest(path.parent),
}


@pytest.fixture(scope="module")
def good(float_bundle: Path, int8_bundle: Path) -> dict[str, bytes]:
    """Return a small file for each reader."""
    from safetensors.numpy import save

    (tflite,) = int8_bundle.rglob("linear.tflite")
    numbers = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.int64)}
    ct2 = (
        b"\x06\0\0\0\x0c\0WhisperSpec\0\x03\0\0\0\x01\0\0\0\x02\0a\0\x01\x02\0\0\0\0\x08\0\0\0"
        + bytes(8)
        + bytes(4)
    )
    return {
        "m.onnx": product().SerializeToString(),
        "m.tflite": tflite.read_bytes(),
        "model.safetensors": save(numbers),
        "model.bin": ct2,
        MANIFEST: (float_bundle / MANIFEST).read_bytes(),
    }


@pytest.mark.parametrize("name", READERS)
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_altered_bytes_are_read_or_refused(
    name: str, good: dict[str, bytes], data: st.DataObject, tmp_path: Path
) -> None:
    """Whatever bytes are altered, left out or repeated: a reader returns, or raises m4c's own error."""
    content = bytearray(good[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, min(len(content), 3000) - 1)))
        match data.draw(st.sampled_from(["alter", "cut", "repeat", "number"])):
            case "alter":
                content[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 64))]
            case "repeat":
                content[at:at] = content[at : at + 32]
            case _:
                content[at : at + 8] = data.draw(st.sampled_from([b"\xff" * 8, bytes(8), b"\0\0\0\x80" * 2]))
    path = tmp_path / name
    path.write_bytes(content)
    with contextlib.suppress(M4CError):
        READERS[name](path)
