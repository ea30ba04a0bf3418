"""What follows from a request for one graph."""

import pickle
from pathlib import Path

import pytest

from m4c.models.graph import Port
from m4c.request import Plan, Request, fall_back, plan
from m4c.source import Source, TorchSource
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
    assert fall_back("because") == Plan("onnx", "float32", "cpu", "because")


def test_requests_can_be_handed_to_another_process() -> None:
    request = Request(target=TPU, submodels=("gen_dec",), dynamic=frozenset({"batch"}))
    assert pickle.loads(pickle.dumps(request)) == request
