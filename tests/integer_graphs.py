"""Small graphs for the tests of calibration and quantization: ONNX text with lazy weights, run by ONNX Runtime."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from m4c.quant import activations, set_range
from m4c.weights import lazy, register, stored_value

Array = np.ndarray


def graph(text: str, **stored: Array) -> ir.Model:
    """Return the model of ``name (inputs) => (outputs) { … }``; float arrays become lazy weights, others constants."""
    return _build(text, stored, readable=True)


def sealed(text: str, **stored: Array) -> ir.Model:
    """Return the same model with weights that raise when they are read."""
    return _build(text, stored, readable=False)


def _build(text: str, stored: Mapping[str, Array], *, readable: bool) -> ir.Model:
    inputs = ", ".join(f"{_type(a)} {n}" for n, a in stored.items())
    signature = text.replace("(", f"({inputs}, ", 1) if stored else text
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {signature}')
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))
    for name, values in stored.items():
        position = next(i for i, v in enumerate(model.graph.inputs) if v.name == name)
        parameter = model.graph.inputs.pop(position)
        parameter.name = f"{name}.parameter"
        value = register(model.graph, stored_value(_tensor(name, values, readable)))
        parameter.replace_all_uses_with(value)
    return model


def _type(values: Array) -> str:
    kind = {"float32": "float", "int64": "int64"}[values.dtype.name]
    return f"{kind}[{', '.join(map(str, values.shape))}]" if values.ndim else kind


def _tensor(name: str, values: Array, readable: bool) -> ir.TensorProtocol:
    if values.dtype == np.int64 or values.ndim == 0:
        return ir.tensor(values, name=name)

    def read() -> Array:
        assert readable, f"{name} was read"
        return values

    return lazy(name, ir.DataType.from_numpy(values.dtype), values.shape, read)


def calibrated(
    model: ir.Model, low: float = -4.0, high: float = 4.0, **ranges: tuple[float, float]
) -> ir.Model:
    """Give every activation of ``model`` a range, ``low`` to ``high`` unless ``ranges`` has it by name."""
    for value in activations(model.graph):
        set_range(value, *ranges.get(str(value.name), (low, high)))
    for value in model.graph.initializers.values():
        if value.name in ranges:
            set_range(value, *ranges[value.name])
    return model


def run(model: ir.Model, feeds: Mapping[str, Array]) -> Sequence[Array]:
    """Run ``model`` as it is written, without the runtime's own rewriting."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    proto = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def stored_as(model: ir.Model, name: str) -> tuple[float, int]:
    """Return the scale and zero point with which the value ``name`` is rounded."""
    node = next(n for n in model.graph if n.name == f"{name}.quantize")
    scale, zero_point = (v.const_value for v in node.inputs[1:] if v is not None)
    assert scale is not None
    assert zero_point is not None
    return float(scale.numpy()), int(zero_point.numpy())
