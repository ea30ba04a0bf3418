"""Tiny models built by hand, and the two runtimes that must agree on them."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from m4c.targets.emit_tflite import read_ports, to_tflite
from m4c.targets.emit_tflite.table import FLOAT_ONLY, NARROW_ONLY
from m4c.targets.emit_tflite.units import units
from m4c.weights import lazy, stored_value
from tests.targets.emit_tflite.quantizer import infer, quantized, reference

__all__ = ["infer", "quantized", "reference"]

Array = np.ndarray
Feeds = Mapping[str, Array]
Case = Callable[["Build"], ir.Value]


class Build:
    """A graph in the making; ``op`` appends a node and returns its (first) output."""

    def __init__(self) -> None:
        self.inputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.held: list[ir.Value] = []

    def input(self, name: str, *shape: int, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        self.inputs.append(ir.val(name, dtype=dtype, shape=shape))
        return self.inputs[-1]

    def store(self, name: str, values: Any, dtype: Any = np.float32) -> ir.Value:
        """Return an in-memory initializer."""
        self.held.append(stored_value(ir.tensor(np.asarray(values, dtype), name=name)))
        return self.held[-1]

    def weight(self, name: str, values: Any) -> ir.Value:
        """Return a lazy float initializer."""
        held = np.asarray(values, np.float32)
        self.held.append(stored_value(lazy(name, ir.DataType.FLOAT, held.shape, lambda: held)))
        return self.held[-1]

    def op(self, operator: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: Any) -> ir.Value:
        node = ir.node(operator, list(inputs), attributes, num_outputs=outputs, name=f"n{len(self.nodes)}")
        for index, output in enumerate(node.outputs):
            output.name = f"{operator.lower()}{len(self.nodes)}" + (f".{index}" if index else "")
        self.nodes.append(node)
        return node.outputs[0]

    def model(self, *outputs: ir.Value) -> ir.Model:
        """Return the model, with shapes inferred."""
        graph = ir.Graph(
            self.inputs,
            outputs,
            nodes=self.nodes,
            initializers=self.held,
            opset_imports={"": 21},
            name="tiny",
        )
        model = ir.Model(graph, ir_version=10)
        infer(model)
        return model


def drawn(*shape: int) -> Array:
    """Return normal numbers of a fixed seed, of variance 1 over the first dimension."""
    rng = np.random.default_rng(shape)
    return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), np.float32)


def one(case: Case) -> ir.Model:
    """Return the model of a case, which builds the graph's one output."""
    build = Build()
    return build.model(case(build))


def interpreter(path: Path, xnnpack: bool) -> Any:
    """Return LiteRT's interpreter for a file, with or without XNNPACK."""
    kind = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Interpreter(str(path), experimental_op_resolver_type=kind, num_threads=1)
    made.allocate_tensors()
    return made


def run(path: Path, feeds: Feeds, xnnpack: bool) -> list[Array]:
    """Run a TFLite file on float or int64 ``feeds``, quantizing and dequantizing where its ports are integer."""
    ports = read_ports(path)
    runner = interpreter(path, xnnpack).get_signature_runner()
    given = {}
    for port in ports.inputs:
        values = feeds[port.name]
        if port.scale is not None:
            bounds = np.iinfo(port.dtype)
            values = np.rint(values / np.float32(port.scale)) + port.zero_point
            values = np.clip(values, bounds.min, bounds.max)
        given[port.name] = values.astype(port.dtype)
    made = runner(**given)
    results = []
    for port in ports.outputs:
        values = made[port.name]
        if port.scale is not None:
            values = (values.astype(np.float32) - port.zero_point) * np.float32(port.scale)
        results.append(values)
    return results


def operators(path: Path) -> list[str]:
    """Return the operators of a file, in order."""
    return [op["op_name"] for op in interpreter(path, xnnpack=False)._get_ops_details()]


def sample(model: ir.Model, rng: np.random.Generator) -> dict[str, Array]:
    """Return one random input for every float input of ``model``, and small numbers for integers."""
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        shape = value.shape.numpy()
        if value.dtype == ir.DataType.FLOAT:
            feeds[str(value.name)] = rng.standard_normal(shape).astype(np.float32)
        else:
            feeds[str(value.name)] = rng.integers(0, 2, shape).astype(value.dtype.numpy())
    return feeds


def check_float(model: ir.Model, folder: Path, feeds: Feeds, tolerance: float = 2e-6) -> None:
    """Assert that LiteRT, with and without XNNPACK, computes what ONNX Runtime does, relative to the largest value."""
    path = folder / "model.tflite"
    to_tflite(model, path)
    expected = reference(model, feeds)
    for xnnpack in (False, True):
        for want, got in zip(expected, run(path, feeds, xnnpack), strict=True):
            assert got.shape == want.shape
            bound = tolerance * max(1.0, float(np.abs(want).max(initial=0)))
            np.testing.assert_allclose(got, want.astype(got.dtype), rtol=0, atol=bound)


def check_integer(
    model: ir.Model, folder: Path, feeds: Feeds, steps: float = 1.0, wide: bool = False
) -> None:
    """Quantize ``model``, and assert that LiteRT's int8 (int16 if ``wide``) follows ONNX Runtime's QDQ.

    They may differ by ``steps`` of the output's scale.

    Operators with an integer kernel must be emitted so: no DEQUANTIZE may stand in the file.
    """
    floats = (FLOAT_ONLY | (NARROW_ONLY if wide else set())) & {unit.operator for unit in units(model.graph)}
    expected_ports = [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)]
    quantized(model, feeds, wide)
    path = folder / "model.tflite"
    to_tflite(model, path)
    assert floats or "DEQUANTIZE" not in operators(path)
    expected = reference(model, feeds)
    ports = read_ports(path)
    for dtype, port in zip(expected_ports, (*ports.inputs, *ports.outputs), strict=True):
        assert dtype != ir.DataType.FLOAT or port.dtype == ("int16" if wide else "int8")
    for xnnpack in (False, True):
        results = run(path, feeds, xnnpack)
        for want, got, port in zip(expected, results, ports.outputs, strict=True):
            assert got.shape == want.shape
            bound = 0.0 if port.scale is None else steps * port.scale * 1.001
            np.testing.assert_allclose(got, want.astype(got.dtype), rtol=0, atol=bound)
