"""What follows from a request for one graph."""

import pickle
from pathlib import Path

import pytest

from m4c.errors import UsageError
from m4c.models.graph import Port
from m4c.request import Plan, Request, fall_back, plan
from m4c.source import OnnxSource, Source, TorchSource
from m4c.targets.profile import load_target

CPU, TPU = load_target("cpu"), load_target("edgetpu")


def source(*shape: int | str) -> Source:
    """Return a source that has nothing but one input of ``shape``."""

    class Shaped(TorchSource):
        @property
        def inputs(self) -> tuple[Port, ...]:
            return (Port("x", "float32", shape, "any"),)

        @property
        def name(self) -> str:
            return "any/graph"

    return Shaped(None, {})


def test_the_target_decides_unless_the_user_does() -> None:
    assert plan(Request(target=CPU), source(1, 4)) == Plan("onnx", "float32", "cpu")
    assert plan(Request(target=TPU), source(1, 4)) == Plan("tflite", "int8", "edgetpu")
    chosen = Request(target=CPU, format="tflite", precision="int8")
    assert plan(chosen, source(1, 4)) == Plan("tflite", "int8", "cpu")


@pytest.mark.parametrize(
    "request_",
    [Request(target=TPU), Request(target=TPU, format="onnx"), Request(target=CPU, format="tflite")],
)
def test_what_grows_is_built_for_the_cpu(request_: Request) -> None:
    made = plan(request_, source(1, "past", "past + sequence", "sequence"))
    assert (made.format, made.precision, made.processor) == ("onnx", "float32", "cpu")
    assert made.fallback == (
        f"past and sequence change from call to call, {request_.target.name} has static shapes"
    )


def test_what_grows_may_run_where_shapes_are_dynamic() -> None:
    assert plan(Request(target=CPU), source("batch", 4)).fallback is None


def test_what_nobody_has_samples_of_is_built_for_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    asked = Request(target=TPU, calibration=str(tmp_path))
    made = plan(asked, source(1, 4))
    assert (made.precision, made.processor) == ("float32", "cpu")
    assert "no calibration samples of its inputs (x)" in str(made.fallback)
    (tmp_path / "0.npz").touch()
    assert plan(asked, source(1, 4)).precision == "int8"


def test_a_fallback_keeps_its_reason() -> None:
    assert fall_back("because") == Plan("onnx", "float32", "cpu", fallback="because")


def test_requests_can_be_handed_to_another_process() -> None:
    request = Request(target=TPU, submodels=("gen_dec",), dynamic=frozenset({"batch"}))
    assert pickle.loads(pickle.dumps(request)) == request


@pytest.mark.parametrize("precision", ["int4", "int8-weights"])
def test_weights_alone_are_packed_for_onnx_runtime_unless_the_user_says_otherwise(precision: str) -> None:
    asked = Request(target=CPU, precision=precision)
    assert plan(asked, source(1, 4)) == Plan("onnx", precision, "cpu", "ort")
    asked = Request(target=CPU, precision=precision, dialect="standard")
    assert plan(asked, source(1, 4)) == Plan("onnx", precision, "cpu", "standard")


def test_weights_alone_in_a_format_that_does_not_have_them() -> None:
    made = plan(Request(target=CPU, precision="int4", format="tflite"), source(1, 4))
    assert made == Plan("onnx", "float32", "cpu", fallback="int4 in TFLite is not supported")


def test_weights_alone_of_an_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxSource, "inputs", source(1, 4).inputs)
    made = plan(Request(target=CPU, precision="int4"), OnnxSource(tmp_path / "m.onnx"))
    assert made == Plan("onnx", "float32", "cpu", fallback="int4 of an ONNX file is not supported")


def test_a_dialect_of_what_has_none() -> None:
    for request in (
        Request(target=TPU, dialect="ort"),
        Request(target=CPU, format="tflite", dialect="standard"),
    ):
        with pytest.raises(UsageError, match="is for ONNX, the format is tflite"):
            plan(request, source(1, 4))
