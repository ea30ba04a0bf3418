"""Small graphs to be judged, in hand and as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tfl

from m4c.targets.view import Format, Held, Node, Quantization, Shape, Tensor

SCALE = Quantization((0.5,), (0,))


def tensor(
    shape: Shape | None = (1, 4), dtype: str = "int8", values: Any = None, name: str = "x", **fields: Any
) -> Tensor:
    """Return an activation, or a constant of ``values``."""
    if values is None:
        return Tensor(name, dtype, shape, quantization=fields.pop("quantization", SCALE), **fields)
    array = np.asarray(values, dtype)
    return Tensor(name, dtype, array.shape, True, fields.pop("quantization", None), Held(array))


def node(
    operator: str,
    inputs: Sequence[Tensor | None],
    outputs: Sequence[Tensor] = (),
    form: Format = "tflite",
    version: int = 1,
    **options: Any,
) -> Node:
    """Return a call of ``operator``; without outputs it makes what its first input is like."""
    made = tuple(outputs) or (tensor(inputs[0].shape if inputs and inputs[0] else (1,), name="y"),)
    return Node(0, operator, form, version, tuple(inputs), made, options, "module")


def stored(
    path: Path,
    tensors: Sequence[tuple[str, int, Sequence[int], bytes | None]],
    operators: Sequence[tuple[int, Sequence[int], Sequence[int]]],
    versions: Mapping[int, int] | None = None,
    ports: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Path:
    """Write a TFLite file: tensors as name, type, shape (-1: it changes) and values; operators as code, inputs, outputs."""
    model, graph = tfl.ModelT(), tfl.SubGraphT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [], [tfl.BufferT()]
    graph.inputs, graph.outputs, graph.tensors, graph.operators = list(ports[0]), list(ports[1]), [], []
    for name, kind, shape, values in tensors:
        made = tfl.TensorT()
        made.name, made.type, made.shape = name, kind, [abs(size) for size in shape]
        made.shapeSignature = list(shape) if -1 in shape else None
        if values is not None:
            buffer = tfl.BufferT()
            buffer.data = np.frombuffer(values, np.uint8)
            made.buffer = len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(made)
    for code, inputs, outputs in operators:
        kind_, call = tfl.OperatorCodeT(), tfl.OperatorT()
        kind_.builtinCode, kind_.deprecatedBuiltinCode = code, min(code, 127)
        kind_.version = (versions or {}).get(code, 1)
        call.opcodeIndex, call.inputs, call.outputs = len(model.operatorCodes), list(inputs), list(outputs)
        model.operatorCodes.append(kind_)
        graph.operators.append(call)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
