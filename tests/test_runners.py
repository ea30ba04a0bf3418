"""Artifacts run on numpy arrays, in both runtimes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from m4c.bundle import read_manifest
from m4c.errors import BundleError, UsageError
from m4c.runners import OnnxRunner, TfliteRunner, from_stored, open_runner, to_stored


def detail(dtype: type, scale: float = 0.0, zero_point: int = 0) -> dict[str, Any]:
    return {"dtype": dtype, "quantization": (scale, zero_point)}


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    """Return an ONNX file that doubles its input."""
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[n] x) => (float[n] y, float[n] z)'
    onnx.save(onnx.parser.parse_model(text + " { y = Add(x, x) z = Neg(x) }"), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("threads", [0, 1])
def test_onnx_runs_by_name(doubled: Path, threads: int) -> None:
    runner = open_runner(doubled, threads)
    assert isinstance(runner, OnnxRunner)
    made = runner.run({"x": np.array([1, 2], np.float32)})
    assert {name: list(value) for name, value in made.items()} == {"y": [2, 4], "z": [-1, -2]}


def test_integer_artifacts_take_and_give_floats(int8_bundle: Path) -> None:
    record = read_manifest(int8_bundle).graph("projection/linear")
    runner = open_runner(int8_bundle / record.file.path, threads=1)
    assert isinstance(runner, TfliteRunner)
    port = record.inputs[0]
    assert port.quantization is not None
    assert port.quantization["dtype"] == "int8"
    x = np.random.default_rng(0).standard_normal([int(d) for d in port.shape]).astype(np.float32)
    (made,) = runner.run({port.name: x}).values()
    assert made.dtype == np.float32
    levels = np.float32(record.outputs[0].quantization["scale"])  # type: ignore[index]
    np.testing.assert_allclose(made / levels, np.rint(made / levels), atol=1e-3)
    assert len(np.unique(made)) > 10


def test_inputs_are_rounded_to_the_nearest_level_and_clipped() -> None:
    x = np.array([-100, -0.26, 0.24, 0.25, 0.75, 100], np.float32)
    made = to_stored(x, detail(np.int8, 0.5, 3))
    assert made.dtype == np.int8
    assert list(made) == [-128, 2, 3, 3, 5, 127]  # 0.25/0.5 and 0.75/0.5 are ties: to even
    wide = to_stored(x, detail(np.int16, 0.5))
    assert list(wide) == [-200, -1, 0, 0, 2, 200]


def test_inputs_without_a_scale_change_their_dtype_alone() -> None:
    made = to_stored(np.array([3, -1], np.int64), detail(np.int32))
    assert made.dtype == np.int32
    assert list(made) == [3, -1]
    assert to_stored(np.array([0.5], np.float32), detail(np.float32)).dtype == np.float32
    assert list(to_stored(np.array([3], np.int64), detail(np.int32, 0.5))) == [3]


def test_outputs_become_what_the_source_gives() -> None:
    made = from_stored(np.array([-128, 3, 127], np.int8), detail(np.int8, 0.5, 3))
    assert made.dtype == np.float32
    assert list(made) == [-65.5, 0, 62]
    assert from_stored(np.array([3], np.int32), detail(np.int32)).dtype == np.int64
    same = np.array([0.5], np.float32)
    assert from_stored(same, detail(np.float32)) is same


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
@pytest.mark.parametrize(
    "content", [b"", b"no model at all, just some text", bytes(4) + b"TFL3" + bytes(64), None]
)
def test_broken_and_missing_files_are_bundle_errors(
    tmp_path: Path, suffix: str, content: bytes | None
) -> None:
    path = tmp_path / f"m{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match="does not load it: ") as caught:
        open_runner(path)
    assert caught.value.where == str(path)
    assert caught.value.fix


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"m.bin is neither .onnx nor .tflite\n  fix: "):
        open_runner(tmp_path / "m.bin")


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"other": np.zeros(2, np.float32)},
        {"x": np.zeros((2, 2), np.float32)},
        {"x": np.zeros(2, np.int64)},
    ],
)
def test_wrong_inputs_are_told(doubled: Path, inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="ONNX Runtime does not run it: ") as caught:
        open_runner(doubled).run(inputs)
    assert caught.value.where == str(doubled)


def test_wrong_inputs_of_tflite_are_told(int8_bundle: Path) -> None:
    record = read_manifest(int8_bundle).graph("projection/linear")
    runner = open_runner(int8_bundle / record.file.path)
    with pytest.raises(UsageError, match="the inputs are embedding, given were other"):
        runner.run({"other": np.zeros((1, 4), np.float32)})
    with pytest.raises(UsageError, match="LiteRT does not run it: "):
        runner.run({"embedding": np.zeros((1, 4), np.float32)})
