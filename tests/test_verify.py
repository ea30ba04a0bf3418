from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from m4c.capture import bind, capture
from m4c.errors import NumbersError
from m4c.host.masks import HIDDEN
from m4c.models.graph import GraphModule, Port, Sizes
from m4c.passes import for_format, for_integers
from m4c.passes.calibrate import Calibrate
from m4c.pipeline import Pipeline
from m4c.source import TorchSource
from m4c.targets.emit_onnx import to_onnx
from m4c.targets.emit_tflite import to_tflite
from m4c.verify import _spread, verify
from m4c.weight_file import WeightFile
from m4c.weights import Array, array
from tests.two_layers import X, graph_of, sample, source_of, stored, tiny, weights_of

FLOAT_KINDS = ["onnx", "tflite"]


def good(weights: dict[str, ir.TensorProtocol] | None = None) -> TorchSource:
    whole = tiny()
    return source_of(whole, weights or weights_of(whole.source))


def with_weight(name: str, values: Array) -> TorchSource:
    return good({**weights_of(tiny().source), name: stored(name, values)})


def perturbed(name: str) -> TorchSource:
    """Return the source with ONE number of one weight changed."""
    values = array(weights_of(tiny().source)[name]).copy()
    values.flat[3] += 5
    return with_weight(name, values)


@dataclass(frozen=True)
class Artifact:
    model: ir.Model
    path: Path


@cache
def unbound() -> ir.Model:
    """Return the one graph that all sources here share; capturing it takes longest."""
    return capture(tiny().graphs[0])


def emitted(source: TorchSource, kind: str, folder: Path, pipeline: Pipeline | None = None) -> Artifact:
    captured = unbound().clone()
    bind(captured, source.weights)
    model, _ = (pipeline or for_format(kind)).run(captured)
    path = folder / f"m.{kind}"
    if kind == "onnx":
        with WeightFile(folder / "w.bin") as file:
            to_onnx(model, path, file)
    else:
        to_tflite(model, path)
    return Artifact(model, path)


def check(source: TorchSource, made: Artifact, precision: str = "float32") -> float:
    return verify(source, made.model, made.path, precision, source.sample(0)).difference.max_relative


def failure(source: TorchSource, made: Artifact, precision: str = "float32") -> NumbersError:
    with pytest.raises(NumbersError) as caught:
        check(source, made, precision)
    assert caught.value.exit_code == 5
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("kind", FLOAT_KINDS)
def test_a_correct_artifact_passes(kind: str, tmp_path: Path) -> None:
    source = good()
    made = emitted(source, kind, tmp_path)
    inputs = source.sample(0)
    found = verify(source, made.model, made.path, "float32", inputs)
    assert 0 <= found.difference.max_relative < 1e-5
    assert found.difference.sqnr_db > 100
    assert found.inputs is inputs
    np.testing.assert_array_equal(found.outputs["y"], source.run(inputs)["y"])


@pytest.mark.parametrize("kind", FLOAT_KINDS)
@pytest.mark.parametrize(
    ("weight", "first"),
    [
        ("norm.bias", "layer_norm of norm: "),
        ("up.weight", "linear of up: "),
        ("up.bias", "linear of up: "),
        ("down.weight", "linear_1 of down: "),
    ],
)
def test_one_wrong_number_is_found_where_it_is(kind: str, weight: str, first: str, tmp_path: Path) -> None:
    error = failure(good(), emitted(perturbed(weight), kind, tmp_path))
    assert error.what.startswith("tiny/whole differs from its source: max relative error")
    assert error.what.endswith("allowed is max relative error 0.0001")
    assert first in error.where


def test_the_order_is_that_of_the_graph(tmp_path: Path) -> None:
    both = {n: perturbed(n).weights[n] for n in ("norm.bias", "down.weight")}
    source = good({**weights_of(tiny().source), **both})
    assert "layer_norm of norm" in failure(good(), emitted(source, "onnx", tmp_path)).where


def int8(source: TorchSource, folder: Path) -> Artifact:
    calibrate = Calibrate(tuple(source.sample(seed) for seed in range(4)), folder / "work")
    return emitted(source, "tflite", folder, for_integers("int8", "tflite", calibrate))


def test_integers(tmp_path: Path) -> None:
    assert check(good(), int8(good(), tmp_path), "int8") < 0.1


@pytest.mark.parametrize(
    # the norm's shift is the next product's by then
    ("weight", "first"),
    [("norm.bias", "linear"), ("up.bias", "linear"), ("down.bias", "linear_1")],
)
def test_integers_that_are_wrong_are_found_where_they_are(weight: str, first: str, tmp_path: Path) -> None:
    values = array(weights_of(tiny().source)[weight]) + np.float32(5)
    error = failure(good(), int8(with_weight(weight, values), tmp_path), "int8")
    assert "allowed is SQNR of at least 10 dB" in error.what
    assert error.where.split()[1] == first


def test_the_user_may_ask_for_more_of_integers(tmp_path: Path) -> None:
    source, made = good(), int8(good(), tmp_path)
    with pytest.raises(NumbersError, match="allowed is SQNR of at least 80 dB") as caught:
        verify(source, made.model, made.path, "int8", source.sample(0), min_sqnr=80)
    assert "--min-sqnr" in caught.value.fix


def test_a_wrong_kernel_is_found_though_the_artifact_is_close(tmp_path: Path) -> None:
    """The file is that of slightly other weights: far within the floor, but not what its model says."""
    bias = array(weights_of(tiny().source)["up.bias"]).copy()
    bias[0] += np.float32(0.3)
    made = int8(good(), tmp_path)
    other = int8(with_weight("up.bias", bias), tmp_path)
    with pytest.raises(NumbersError, match="integer kernel of"):
        verify(good(), made.model, other.path, "int8", good().sample(0), min_sqnr=-10)


class Masked(GraphModule):
    """Scores with a mask on them, and a linear layer after."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        made: Tensor = self.source(torch.softmax(x + mask, -1) * 4)
        return made


def masked(bias: float) -> TorchSource:
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    assert layer.bias is not None
    layer.bias.data += bias
    mask = Port("mask", "float32", (3, 8), "0 or -1e9")

    def inputs(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        return {**sample(rng, sizes), "mask": np.triu(np.full((3, 8), HIDDEN, np.float32), 4)}

    graph = replace(graph_of(Masked(layer), inputs=(X, mask)), sample=inputs)
    return TorchSource(graph, weights_of(layer))


def test_masks_saturate_and_are_no_difference(tmp_path: Path) -> None:
    source = masked(0.5)
    calibrate = Calibrate(tuple(source.sample(seed) for seed in range(4)), tmp_path / "work")
    model, _ = for_integers("int8", "tflite", calibrate).run(source.capture())
    to_tflite(model, tmp_path / "m.tflite")
    made = Artifact(model, tmp_path / "m.tflite")
    assert check(source, made, "int8") < 0.1
    assert failure(masked(-2), made, "int8").where.split()[1] == "y"


@pytest.mark.parametrize("kind", FLOAT_KINDS)
def test_nan_in_an_artifact_never_passes(kind: str, tmp_path: Path) -> None:
    source = with_weight("down.bias", np.full(8, np.nan, np.float32))
    error = failure(good(), emitted(source, kind, tmp_path))
    assert "max relative error inf" in error.what
    assert "linear_1 of down" in error.where


def test_nan_in_the_source_is_not_agreement(tmp_path: Path) -> None:
    source = with_weight("down.bias", np.full(8, np.nan, np.float32))
    error = failure(source, emitted(source, "onnx", tmp_path))
    assert error.what == "tiny/whole computes NaN in y, before anything was compiled"


def test_an_output_that_is_missing_or_of_another_shape(tmp_path: Path) -> None:
    source, made = good(), emitted(good(), "onnx", tmp_path)
    graph = source.graph
    other = replace(graph, outputs=(replace(graph.outputs[0], name="z"),))
    assert failure(replace(source, graph=other), made).what == "the artifact does not return z"
    short = ir.load(made.path)
    short.graph.outputs[0].name = "inner"
    first = ir.node("ReduceSum", [short.graph.outputs[0]], {"keepdims": 0})
    first.outputs[0].name, first.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    short.graph.append(first)
    short.graph.outputs[0] = first.outputs[0]
    ir.save(short, made.path)
    assert failure(source, made).what == "y is [1, 3, 8] in the source and [] in the artifact"


def test_an_error_that_adds_up_names_no_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = emitted(perturbed("norm.bias"), "onnx", tmp_path)
    monkeypatch.setattr("m4c.verify.onnx_values", lambda path, inputs, recorder: None)
    assert failure(good(), made).where == "tiny/whole: no single node, the error adds up"


def test_rows_from_end_to_end_are_held_against_the_true_ones() -> None:
    assert _spread(1000) == [slice(0, 32), slice(322, 354), slice(645, 677), slice(968, 1000)]
    assert _spread(40) == [slice(0, 32), slice(2, 34), slice(5, 37), slice(8, 40)]
    assert _spread(3) == [slice(0, 3)]
