"""Some operators of a TFLite file as a file of its own: their stored inputs stay stored, others that none makes are inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tfl

from m4c.targets.emit_tflite.flat import SIGNATURE
from m4c.targets.read_tflite import IDENTIFIER


def single(path: Path, indices: Sequence[int]) -> bytes:
    """Return the operators ``indices`` of the first graph of a file as a file, whose outputs are those of the last."""
    held = path.read_bytes()
    model = tfl.ModelT.InitFromObj(tfl.Model.GetRootAs(held, 0))
    graph = model.subgraphs[0]
    operators = [graph.operators[index] for index in indices]
    kept = sorted({i for one in operators for i in (*one.inputs, *one.outputs) if i >= 0})
    place = {old: new for new, old in enumerate(kept)}
    tensors = [graph.tensors[old] for old in kept]
    buffers = [_inside(model.buffers[tensor.buffer], held) for tensor in tensors]
    model.buffers = [tfl.BufferT(), *buffers]
    for number, tensor in enumerate(tensors, start=1):
        tensor.buffer = number
    model.metadata, model.metadataBuffer = [], []
    for one in operators:
        one.inputs = [place.get(i, -1) for i in one.inputs]
        one.outputs = [place[i] for i in one.outputs]
    made = {i for one in operators for i in one.outputs}
    read = dict.fromkeys(i for one in operators for i in one.inputs if i >= 0)
    graph.tensors, graph.operators = tensors, operators
    graph.inputs = [i for i in read if i not in made and not _stored(buffers[i])]
    graph.outputs = list(operators[-1].outputs)
    model.subgraphs = [graph]
    model.signatureDefs = [_signature(graph)]
    builder = flatbuffers.Builder(1 << 10)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _stored(buffer: Any) -> bool:
    return buffer.data is not None and len(buffer.data) > 0


def _inside(buffer: Any, held: bytes) -> Any:
    """Return a buffer whose bytes lie within the structure of the file."""
    made = tfl.BufferT()
    made.data = buffer.data
    if buffer.offset > 1:
        made.data = np.frombuffer(held, np.uint8, buffer.size, buffer.offset)
    return made


def _signature(graph: Any) -> Any:
    made = tfl.SignatureDefT()
    made.signatureKey, made.subgraphIndex = SIGNATURE, 0
    made.inputs = [_named(f"in{i}", i) for i in graph.inputs]
    made.outputs = [_named(f"out{i}", i) for i in graph.outputs]
    return made


def _named(name: str, index: int) -> Any:
    made = tfl.TensorMapT()
    made.name, made.tensorIndex = name, index
    return made
