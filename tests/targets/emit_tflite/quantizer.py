"""A small static quantizer for tests, independent of m4c's own: pairs around every value, ranges from one run."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxruntime as ort

from m4c.targets.emit_tflite.units import units
from m4c.weights import hidden, lazy, stored_value

Array = np.ndarray
Feeds = Mapping[str, Array]

FIXED = {
    "Softmax": (1 / 256, -128),
    "LogSoftmax": (1 / 16, 127),
    "Sigmoid": (1 / 256, -128),
    "Tanh": (1 / 128, 0),
    "LpNormalization": (1 / 128, 0),
}
KEEPS = {
    "Reshape",
    "Transpose",
    "Slice",
    "Split",
    "AveragePool",
    "DepthToSpace",
    "Gather",
    "GatherElements",
    "GatherND",
    "MaxPool",
    "Pad",
    "Expand",
    "Resize",
    "Squeeze",
    "Unsqueeze",
}
WEIGHTED = ("Linear", "Conv", "ConvTranspose")
PARAMETERS = {"Clip": (1, 2), "Pad": (2,), "Pow": (1,), "Resize": (1, 2), "Bilinear": (1, 2)}


def infer(model: ir.Model) -> None:
    """Infer all shapes and dtypes, without reading a weight."""
    with hidden(model):
        common.ShapeInferencePass()(model)


def reference(model: ir.Model, feeds: Feeds) -> list[Array]:
    """Run ``model`` by ONNX Runtime as it is written, with no node fused."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return list(session.run(None, dict(feeds)))


def quantized(model: ir.Model, feeds: Feeds, wide: bool = False) -> None:
    """Rewrite ``model`` with QuantizeLinear and DequantizeLinear pairs, its ranges taken from one run on ``feeds``.

    ``wide`` makes activations int16 rather than int8; weights are int8 either way.
    """
    graph = model.graph
    ranges = _ranges(model, feeds)
    inner = {v for unit in units(graph) for v in unit.node.outputs if v not in unit.outputs}
    scales: dict[ir.Value, tuple[float, int]] = {}
    values = [v for v in graph.inputs if v.dtype == ir.DataType.FLOAT]
    for node in graph:
        values += [v for v in node.outputs if v.dtype == ir.DataType.FLOAT and v not in inner]
    groups = units(graph)
    for value in values:
        producer = value.producer()
        if producer is not None and producer.op_type in FIXED:
            scales[value] = (1 / 32768, 0) if wide else FIXED[producer.op_type]
        elif producer is not None and producer.op_type in KEEPS and producer.inputs[0] in scales:
            scales[value] = scales[producer.inputs[0]]
        else:
            scales[value] = _affine(*ranges[str(value.name)], wide)
    for unit in groups:
        _quantize_stored(graph, unit.operator, unit.node, unit.inputs, scales, wide)
    for value in values:
        _pair(graph, value, scales[value], wide)
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


def _affine(low: float, high: float, wide: bool) -> tuple[float, int]:
    if wide:
        return max(float(np.float32(max(-low, high) / 32767)), 1e-9), 0
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(float(np.float32((high - low) / 255)), 1e-6)
    return scale, int(np.clip(round(-128 - low / scale), -128, 127))


def _pair(graph: ir.Graph, value: ir.Value, affine: tuple[float, int], wide: bool) -> None:
    """Put a pair behind ``value``; a graph output keeps its name on the last value of the pair."""
    scale, point = _parameters(graph, f"{value.name}", affine, wide)
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


def _parameters(
    graph: ir.Graph, name: str, affine: tuple[float, int], wide: bool
) -> tuple[ir.Value, ir.Value]:
    scale = stored_value(ir.tensor(np.array(affine[0], np.float32), name=f"{name}.scale"))
    point = stored_value(ir.tensor(np.array(affine[1], np.int16 if wide else np.int8), name=f"{name}.point"))
    graph.register_initializer(scale)
    graph.register_initializer(point)
    return scale, point


def _quantize_stored(
    graph: ir.Graph,
    operator: str,
    node: ir.Node,
    inputs: tuple[ir.Value | None, ...],
    scales: dict[ir.Value, tuple[float, int]],
    wide: bool,
) -> None:
    """Quantize the stored float inputs of a unit as its operator wants them."""
    weight_scale = None
    for index, value in enumerate(inputs):
        if value is None or value.const_value is None or value.dtype != ir.DataType.FLOAT:
            continue
        if index in PARAMETERS.get(operator, ()):
            continue
        held = value.const_value.numpy()
        if operator in WEIGHTED and index == 1:
            axis = 0 if operator == "Conv" else 1
            others = tuple(d for d in range(held.ndim) if d != axis)
            weight_scale = (np.abs(held).max(axis=others) / 127).astype(np.float32)
            kind, scale, span = ir.DataType.INT8, weight_scale, 127
        elif operator in WEIGHTED and index == 2:
            assert weight_scale is not None
            first = inputs[0]
            assert first is not None
            axis, kind, span = 0, ir.DataType.INT32, 2**31 - 1
            scale = (scales[first][0] * weight_scale).astype(np.float32)
        else:
            _restore(graph, value, held, _affine(float(held.min()), float(held.max()), wide), wide)
            continue
        shaped = scale.reshape([-1 if d == axis else 1 for d in range(held.ndim)])
        q = np.clip(np.rint(held.astype(np.float64) / shaped), -span, span).astype(kind.numpy())
        _replace(graph, value, q, scale, None, axis)


def _restore(graph: ir.Graph, value: ir.Value, held: Array, affine: tuple[float, int], wide: bool) -> None:
    bounds = np.iinfo(np.int16) if wide else np.iinfo(np.int8)
    q = np.clip(np.rint(held / affine[0]) + affine[1], bounds.min, bounds.max).astype(bounds.dtype)
    _replace(graph, value, q, np.array(affine[0], np.float32), np.array(affine[1], bounds.dtype), None)


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
