from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from m4c.models.graph import Graph, GraphModule, Port
from m4c.passes import for_format
from m4c.source import TorchSource
from m4c.targets.emit_onnx import to_onnx
from m4c.targets.emit_tflite import to_tflite
from m4c.trace import Recorder, onnx_values, tflite_values
from m4c.weight_file import WeightFile
from m4c.weights import Array
from tests.two_layers import graph_of, sample, source_of, tiny, weights_of

Values = dict[str, Array]


def source() -> TorchSource:
    whole = tiny()
    return source_of(whole, weights_of(whole.source))


def recorded(run: Callable[[Recorder], None]) -> Values:
    made: Values = {}
    run(made.__setitem__)
    return made


def test_torch_tells_what_its_modules_compute(rng: np.random.Generator) -> None:
    whole = tiny()
    inputs = sample(rng, {"batch": 1})
    seen: list[Tensor] = []
    for module in (whole.source.norm, whole.source.up, whole.source.down):
        assert isinstance(module, nn.Module)
        module.register_forward_hook(lambda _module, _inputs, result: seen.append(result))
    with torch.no_grad():
        expected = whole.source(torch.from_numpy(inputs["x"]))
    made = recorded(lambda r: source().record(inputs, r))
    np.testing.assert_array_equal(made["y"], expected.numpy())
    for name, value in zip(("layer_norm", "linear", "linear_1"), seen, strict=True):
        np.testing.assert_allclose(made[name], value.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_artifacts_tell_the_same_names_and_numbers(
    kind: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    inputs = sample(rng, {"batch": 1})
    model, _ = for_format(kind).run(source().capture())
    path = tmp_path / f"m.{kind}"
    if kind == "onnx":
        with WeightFile(tmp_path / "w.bin") as file:
            to_onnx(model, path, file)
        made = recorded(lambda r: onnx_values(path, inputs, r))
    else:
        to_tflite(model, path)
        made = recorded(lambda r: tflite_values(path, inputs, r))
    expected = recorded(lambda r: source().record(inputs, r))
    both = set(made) & set(expected)
    assert {"layer_norm", "linear", "relu", "linear_1", "y"} <= both
    for name in both:
        np.testing.assert_allclose(made[name], expected[name], rtol=1e-4, atol=1e-5)


class Decomposed(GraphModule):
    """Softshrink falls apart into operators, a product among them, so that ``mul`` is no more the last product."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softshrink(x + 1) * 3 + 2


def test_names_are_those_after_decomposition(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = TorchSource(graph_of(Decomposed(nn.Identity())), {})
    inputs = sample(rng, {"batch": 1})
    model = whole.capture()
    ir.save(model, tmp_path / "m.onnx")
    expected = recorded(lambda r: whole.record(inputs, r))
    made = recorded(lambda r: onnx_values(tmp_path / "m.onnx", inputs, r))
    assert set(expected) <= set(made)
    for name, value in expected.items():
        np.testing.assert_allclose(made[name], value, rtol=1e-5, atol=1e-6)


class Clash(GraphModule):
    """Its output is named like an inner value; another output is the same value again."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        add = x + 1
        doubled = add * 2
        return doubled, doubled


def test_outputs_own_their_names(rng: np.random.Generator) -> None:
    ports = tuple(Port(name, "float32", ("batch", 3, 8), "") for name in ("add", "again"))
    graph = Graph("tiny/clash", Clash(nn.Identity()), graph_of(Clash(nn.Identity())).inputs, ports, sample)
    inputs = sample(rng, {"batch": 1})
    made = recorded(lambda r: TorchSource(graph, {}).record(inputs, r))
    assert {"add.inner", "add"} <= set(made)
    assert "mul" not in made
    np.testing.assert_array_equal(made["add.inner"], inputs["x"] + 1)
    np.testing.assert_array_equal(made["add"], (inputs["x"] + 1) * 2)


def untyped(folder: Path) -> Path:
    """Write a file that tells no type of inner values, among them an integer and a sequence; one weight is external."""
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2, 3])
    weight = np.full((2, 3), 2, np.float32)
    (folder / "w.bin").write_bytes(weight.tobytes())
    w = ir.Value(
        name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 3]),
        const_value=ir.ExternalTensor("w.bin", 0, 24, ir.DataType.FLOAT, shape=ir.Shape([2, 3]), name="w", base_dir=folder),
    )  # fmt: skip
    nodes: list[ir.Node] = []

    def op(name: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(name, list(inputs), attributes)
        node.outputs[0].name = name.lower()
        nodes.append(node)
        return node.outputs[0]

    scaled = op("Mul", x, w)
    shape = op("Shape", scaled)
    split = op("SplitToSequence", scaled, axis=0)
    joined = op("ConcatFromSequence", split, axis=0)
    y = op("Reshape", joined, shape)
    y.type, y.shape = x.type, x.shape
    graph = ir.Graph([x], [y], nodes=nodes, initializers=[w], opset_imports={"": 20}, name="g")
    ir.save(ir.Model(graph, ir_version=10), folder / "m.onnx")
    return folder / "m.onnx"


def test_values_of_unknown_type_keep_their_own(tmp_path: Path, rng: np.random.Generator) -> None:
    path = untyped(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    x = rng.standard_normal((2, 3)).astype(np.float32)
    made = recorded(lambda r: onnx_values(path, {"x": x}, r))
    assert set(made) == {"mul", "shape", "concatfromsequence", "reshape"}
    assert made["shape"].dtype == np.int64
    np.testing.assert_array_equal(made["mul"], x * 2)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_enough(tmp_path: Path, rng: np.random.Generator) -> None:
    path = untyped(tmp_path)
    tmp_path.chmod(0o500)
    try:
        assert recorded(lambda r: onnx_values(path, {"x": np.zeros((2, 3), np.float32)}, r))
    finally:
        tmp_path.chmod(0o700)
