"""Tiny models built by hand, float and quantized, and the two runtimes that must agree on them."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxruntime as ort
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from m4c.targets.emit_tflite import read_ports, to_tflite
from m4c.targets.emit_tflite.table import FLOAT_ONLY
from m4c.targets.emit_tflite.units import units
from m4c.weights import lazy, stored_value

Array = np.ndarray
Feeds = Mapping[str, Array]
Case = Callable[["Build"], ir.Value]

FIXED = {
    "Softmax": (1 / 256, -128),
    "Sigmoid": (1 / 256, -128),
    "Tanh": (1 / 128, 0),
    "LpNormalization": (1 / 128, 0),
}
KEEPS = {
    "Reshape",
    "Transpose",
    "Slice",
    "Split",
    "Gather",
    "GatherND",
    "Expand",
    "Resize",
    "Squeeze",
    "Unsqueeze",
}
PARAMETERS = {"Clip": (1, 2), "Pow": (1,), "Resize": (1, 2)}


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
            if operator == "GroupNormalization":  # ONNX infers no shape for it
                assert inputs[0] is not None
                output.shape, output.dtype = inputs[0].shape, inputs[0].dtype
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
    return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def one(case: Case) -> ir.Model:
    """Return the model of a case, which builds the graph's one output."""
    build = Build()
    return build.model(case(build))


def infer(model: ir.Model) -> None:
    """Infer all shapes and dtypes."""
    common.ShapeInferencePass()(model)


def reference(model: ir.Model, feeds: Feeds) -> list[Array]:
    """Run ``model`` by ONNX Runtime as it is written, with no node fused."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return list(session.run(None, dict(feeds)))


def interpreter(path: Path, xnnpack: bool) -> Any:
    """Return LiteRT's interpreter for a file, with or without XNNPACK."""
    kind = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Interpreter(str(path), experimental_op_resolver_type=kind, num_threads=1)
    made.allocate_tensors()
    return made


def run(path: Path, feeds: Feeds, xnnpack: bool) -> list[Array]:
    """Run a TFLite file on float or int64 ``feeds``, quantizing and dequantizing where its ports are int8."""
    ports = read_ports(path)
    runner = interpreter(path, xnnpack).get_signature_runner()
    given = {}
    for port in ports.inputs:
        values = feeds[port.name]
        if port.scale is not None:
            values = np.clip(np.rint(values / np.float32(port.scale)) + port.zero_point, -128, 127)
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


def check_int8(model: ir.Model, folder: Path, feeds: Feeds, steps: float = 1.0) -> None:
    """Quantize ``model``, and assert that LiteRT's int8 is within ``steps`` output steps of ONNX Runtime's QDQ.

    Operators with an integer kernel must be emitted so: no DEQUANTIZE may stand in the file.
    """
    floats = FLOAT_ONLY & {unit.operator for unit in units(model.graph)}
    expected_ports = [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)]
    quantized(model, feeds)
    path = folder / "model.tflite"
    to_tflite(model, path)
    assert floats or "DEQUANTIZE" not in operators(path)
    expected = reference(model, feeds)
    ports = read_ports(path)
    for dtype, port in zip(expected_ports, (*ports.inputs, *ports.outputs), strict=True):
        assert dtype != ir.DataType.FLOAT or port.dtype == "int8"
    for xnnpack in (False, True):
        results = run(path, feeds, xnnpack)
        for want, got, port in zip(expected, results, ports.outputs, strict=True):
            assert got.shape == want.shape
            bound = 0.0 if port.scale is None else steps * port.scale * 1.001
            np.testing.assert_allclose(got, want.astype(got.dtype), rtol=0, atol=bound)


# a small static quantizer, independent of m4c's


def quantized(model: ir.Model, feeds: Feeds) -> None:
    """Rewrite ``model`` with QuantizeLinear and DequantizeLinear pairs, its ranges taken from one run on ``feeds``."""
    graph = model.graph
    ranges = _ranges(model, feeds)
    inner = {v for unit in units(graph) for v in unit.node.outputs if v not in unit.outputs}
    scales: dict[ir.Value, tuple[float, int]] = {}
    wide = [v for v in graph.inputs if v.dtype == ir.DataType.FLOAT]
    for node in graph:
        wide += [v for v in node.outputs if v.dtype == ir.DataType.FLOAT and v not in inner]
    groups = units(graph)
    for value in wide:
        producer = value.producer()
        if producer is not None and producer.op_type in FIXED:
            scales[value] = FIXED[producer.op_type]
        elif producer is not None and producer.op_type in KEEPS and producer.inputs[0] in scales:
            scales[value] = scales[producer.inputs[0]]
        else:
            scales[value] = _affine(*ranges[str(value.name)])
    for unit in groups:
        _quantize_stored(graph, unit.operator, unit.node, unit.inputs, scales)
    for value in wide:
        _pair(graph, value, scales[value])
    common.RemoveUnusedNodesPass()(model)
    infer(model)


def _ranges(model: ir.Model, feeds: Feeds) -> dict[str, tuple[float, float]]:
    everything = model.clone()
    names = [v.name for node in everything.graph for v in node.outputs]
    kept = {v.name for v in everything.graph.outputs}
    for node in everything.graph:
        everything.graph.outputs.extend(v for v in node.outputs if v.name not in kept)
    order = [str(v.name) for v in everything.graph.outputs]
    assert set(names) <= set(order)
    results = dict(zip(order, reference(everything, feeds), strict=True)) | dict(feeds)
    return {name: (float(v.min()), float(v.max())) for name, v in results.items()}


def _affine(low: float, high: float) -> tuple[float, int]:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(float(np.float32((high - low) / 255)), 1e-6)
    return scale, int(np.clip(round(-128 - low / scale), -128, 127))


def _pair(graph: ir.Graph, value: ir.Value, affine: tuple[float, int]) -> None:
    """Put a pair behind ``value``; a graph output keeps its name on the last value of the pair."""
    scale, point = _parameters(graph, f"{value.name}", affine)
    users = list(value.uses())
    quantize = ir.node("QuantizeLinear", [value, scale, point], name=f"{value.name}.quantize")
    restore = ir.node("DequantizeLinear", [quantize.outputs[0], scale, point], name=f"{value.name}.restore")
    quantize.outputs[0].name, restore.outputs[0].name = f"{value.name}.q", f"{value.name}.dq"
    restore.outputs[0].dtype = ir.DataType.FLOAT
    for node, index in users:
        node.replace_input_with(index, restore.outputs[0])
    for index, output in enumerate(graph.outputs):
        if output is value:
            name = value.name
            value.name, restore.outputs[0].name = f"{name}.wide", name
            graph.outputs[index] = restore.outputs[0]
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, [quantize, restore])
    else:
        graph.insert_before(graph[0], [quantize, restore])


def _parameters(graph: ir.Graph, name: str, affine: tuple[float, int]) -> tuple[ir.Value, ir.Value]:
    scale = stored_value(ir.tensor(np.array(affine[0], np.float32), name=f"{name}.scale"))
    point = stored_value(ir.tensor(np.array(affine[1], np.int8), name=f"{name}.point"))
    graph.register_initializer(scale)
    graph.register_initializer(point)
    return scale, point


def _quantize_stored(
    graph: ir.Graph,
    operator: str,
    node: ir.Node,
    inputs: tuple[ir.Value | None, ...],
    scales: dict[ir.Value, tuple[float, int]],
) -> None:
    """Quantize the stored float inputs of a unit as its operator wants them."""
    weight_scale = None
    for index, value in enumerate(inputs):
        if value is None or value.const_value is None or value.dtype != ir.DataType.FLOAT:
            continue
        if index in PARAMETERS.get(operator, ()):
            continue
        held = value.const_value.numpy()
        if operator in ("Linear", "Conv") and index == 1:
            axis = 1 if operator == "Linear" else 0
            others = tuple(d for d in range(held.ndim) if d != axis)
            weight_scale = (np.abs(held).max(axis=others) / 127).astype(np.float32)
            kind, points, scale, span = np.int8, None, weight_scale, 127
        elif operator in ("Linear", "Conv") and index == 2:
            assert weight_scale is not None
            first = inputs[0]
            assert first is not None
            axis, kind, points, span = 0, np.int32, None, 2**31 - 1
            scale = (scales[first][0] * weight_scale).astype(np.float32)
        else:
            _restore(graph, value, held, *_affine(float(held.min()), float(held.max())))
            continue
        shaped = scale.reshape([-1 if d == axis else 1 for d in range(held.ndim)])
        q = np.clip(np.rint(held.astype(np.float64) / shaped), -span, span).astype(kind)
        _replace(graph, value, q, scale, points, axis)


def _restore(graph: ir.Graph, value: ir.Value, held: Array, scale: float, point: int) -> None:
    q = np.clip(np.rint(held / scale) + point, -128, 127).astype(np.int8)
    _replace(graph, value, q, np.array(scale, np.float32), np.array(point, np.int8), None)


def _replace(
    graph: ir.Graph, value: ir.Value, q: Array, scale: Array, point: Array | None, axis: int | None
) -> None:
    """Let the users of a stored ``value`` read ``q`` dequantized; ``q`` and ``scale`` are lazy."""

    def later(name: str, values: Array) -> ir.Value:
        made = stored_value(lazy(name, ir.DataType.from_numpy(values.dtype), values.shape, lambda: values))
        graph.register_initializer(made)
        return made

    parts = [later(f"{value.name}.q", q), later(f"{value.name}.s", scale)]
    if point is not None:
        parts.append(later(f"{value.name}.z", point))
    attributes = {} if axis is None else {"axis": axis}
    node = ir.node("DequantizeLinear", parts, attributes, name=f"{value.name}.restore")
    node.outputs[0].name = f"{value.name}.dq"
    node.outputs[0].dtype = ir.DataType.FLOAT
    for user, index in list(value.uses()):
        user.replace_input_with(index, node.outputs[0])
    graph.insert_before(graph[0], [node])
