"""Write a model as ONNX, its weights streamed into a data file that graphs of one sub-model share."""

import hashlib
import json
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from m4c.rewrite import PARTS
from m4c.weight_file import Progress, WeightFile
from m4c.weights import CONSTANT_BYTES


def to_onnx(
    model: ir.Model, path: Path, weights: WeightFile, progress: Progress = lambda _: None, origin: str = ""
) -> None:
    """Write ``model`` to ``path``; every weight goes to ``weights``, which lies in the folder of ``path``.

    ``origin`` tells what the model was made from and how: a journal knows its weights by it, and by their names.
    The model itself is untouched. Metadata is dropped: it holds source paths, and files must not differ between machines.
    """
    emitted = model.clone()
    emitted.producer_name, emitted.producer_version = "m4c", None
    initializers = emitted.graph.initializers
    for name, value in list(initializers.items()):
        tensor = value.const_value
        assert tensor is not None
        if tensor.nbytes > CONSTANT_BYTES:
            offset, length = weights.put(tensor, progress, _key(origin, name, tensor))
            value.const_value = ir.ExternalTensor(
                weights.path.name,
                offset,
                length,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=name,
                base_dir=path.parent,
            )
        else:
            value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    weights.flush()
    _clear_metadata(emitted)
    ir.save(emitted, path)


def _key(origin: str, name: str, tensor: ir.TensorProtocol) -> str:
    """Return what tells a weight from all others in the journal, or nothing if its origin is not told."""
    if not origin:
        return ""
    identity = (origin, name, str(tensor.dtype), list(tensor.shape.numpy()))
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _clear_metadata(model: ir.Model) -> None:
    """Drop the metadata and doc strings of the model, its nodes and its values; who reads weights back needs one key."""
    kept = {node: node.metadata_props[PARTS] for node in model.graph if PARTS in node.metadata_props}
    model.metadata_props.clear()
    model.doc_string = None
    ClearMetadataAndDocStringPass()(model)
    for node, parts in kept.items():
        node.metadata_props[PARTS] = parts
    graph = model.graph
    made = [output for node in graph.all_nodes() for output in node.outputs]
    for value in (*graph.inputs, *graph.initializers.values(), *made):
        value.metadata_props.clear()
        value.doc_string = None


def weight_bytes(model: ir.Model) -> int:
    """Return how many bytes of weights an artifact of ``model`` will hold: the total of a progress bar."""
    tensors = (v.const_value for v in model.graph.initializers.values())
    return sum(t.nbytes for t in tensors if t is not None and t.nbytes > CONSTANT_BYTES)
