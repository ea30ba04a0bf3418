"""Run an ONNX artifact of any size: a stretch of nodes at a time, so that only its share of the weights is mapped."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.runners import OnnxRunner
from m4c.runs import cut
from m4c.weights import array, spans, stored_value

Array = np.ndarray

FLOAT = 1
"""MatMulNBits' accuracy level of float32 activations."""

ROWS = 4
"""Inputs of a MatMulNBits that has no more than codes, scales and zero points, whose rows are its outputs."""

SEGMENT_BYTES = 32 << 20
"""Weights that one segment maps. A single larger one is a segment of its own, in parts if it is a MatMulNBits."""


def run_in_segments(path: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of the artifact at ``path`` by name, as :class:`m4c.runners.OnnxRunner` would with mapped weights.

    Segments are written beside the artifact while they run, as its weights are there.
    """
    model = ir.load(path)
    for name in inputs.keys() & model.graph.initializers.keys():  # a default that gives way to what is given
        model.graph.initializers.pop(name).const_value = None
    runs = list(cut(model.graph, weight_bytes, SEGMENT_BYTES))
    place = {node: index for index, run in enumerate(runs) for node in run}
    wanted = [str(value.name) for value in model.graph.outputs]
    alive = dict(inputs)
    for index, run in enumerate(runs):
        given, made = taken(run), _needed(run, index, place)
        segment = path.with_name(f"{path.stem}.{index}.segment.onnx")
        if weight_bytes(run[0]) > SEGMENT_BYTES and in_rows(run[0]):
            alive |= _run_rows(model, run[0], segment, alive)
        else:
            alive |= _run(model, segment, given, made, alive)
        last = {str(v.name): max((place[n] for n in v.consumers()), default=index) for v in given}
        for name in [n for n, end in last.items() if end <= index and n not in wanted]:
            del alive[name]
    return {name: alive[name] for name in wanted}


def in_rows(node: ir.Node) -> bool:
    """Return whether ``node`` is a product whose outputs can be computed some at a time, each from rows of its weights."""
    return node.op_type == "MatMulNBits" and len(node.inputs) <= ROWS


def taken(run: list[ir.Node]) -> list[ir.Value]:
    """Return the values that a run reads and does not make, each once; stored ones are not among them."""
    members = set(run)
    read = (value for node in run for value in node.inputs if value is not None and value.const_value is None)
    return list(dict.fromkeys(value for value in read if value.producer() not in members))


def weight_bytes(node: ir.Node) -> int:
    """Return the bytes of the weights that ``node`` reads."""
    return sum(v.const_value.nbytes for v in node.inputs if v is not None and v.const_value is not None)


def _needed(run: list[ir.Node], index: int, place: Mapping[ir.Node, int]) -> list[ir.Value]:
    """Return the values of run ``index`` that later runs read or the graph returns."""
    return [
        output
        for node in run
        for output in node.outputs
        if output.is_graph_output() or any(place[user] > index for user in output.consumers())
    ]


def _run_rows(model: ir.Model, product: ir.Node, path: Path, alive: Mapping[str, Array]) -> dict[str, Array]:
    """Run a product of more weights than a segment, some of its outputs at a time."""
    x, *stored = (value for value in product.inputs if value is not None)
    result, outputs = product.outputs[0], product.attributes["N"].as_int()
    pieces = []
    for rows in spans(outputs, max(1, outputs * SEGMENT_BYTES // weight_bytes(product))):
        given = ir.Value(name=x.name, type=x.type, shape=x.shape)
        weights = [stored_value(_rows(value.const_value, rows, outputs)) for value in stored]
        node = ir.node("MatMulNBits", [given, *weights], product.attributes, domain=product.domain)
        node.attributes["N"] = ir.AttrInt64("N", rows.stop - rows.start)
        node.outputs[0].name, node.outputs[0].type = result.name, result.type
        graph = ir.Graph(
            [given], node.outputs, nodes=[node], initializers=weights, opset_imports=model.opset_imports
        )
        part = ir.Model(graph, ir_version=model.ir_version)
        pieces.append(_run(part, path, [given], list(node.outputs), alive)[str(result.name)])
    return {str(result.name): np.concatenate(pieces, axis=-1)}


def _rows(tensor: ir.TensorProtocol | None, rows: slice, outputs: int) -> ir.TensorProtocol:
    """Return some rows of a stored tensor, one of which belongs to each of ``outputs``, as they lie in its file."""
    assert tensor is not None
    if not isinstance(tensor, ir.ExternalTensor):
        return ir.tensor(array(tensor)[rows], name=tensor.name)
    size, count = tensor.nbytes // outputs, rows.stop - rows.start
    return ir.ExternalTensor(
        tensor.location,
        (tensor.offset or 0) + rows.start * size,
        count * size,
        tensor.dtype,
        shape=ir.Shape([count, *tensor.shape.numpy()[1:]]),
        name=str(tensor.name),
        base_dir=tensor.base_dir,
    )


def _run(
    model: ir.Model, path: Path, given: list[ir.Value], made: list[ir.Value], alive: Mapping[str, Array]
) -> dict[str, Array]:
    """Write one segment, run it, and remove it.

    Activations are not rounded: MatMulNBits computes in float, from packed weights, since it would unpack them all otherwise.
    """
    inputs = [str(value.name) for value in given]
    graph = ir.convenience.extract(model.graph, inputs, [str(value.name) for value in made])
    part = ir.Model(graph, ir_version=model.ir_version)
    part.opset_imports.update(model.opset_imports)
    blockwise = [node for node in graph if node.op_type == "MatMulNBits"]
    for node in blockwise:
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", FLOAT)
    try:
        ir.save(part, path)
        return OnnxRunner(path, mapped=not blockwise).run({name: alive[name] for name in inputs})
    finally:
        path.unlink(missing_ok=True)
