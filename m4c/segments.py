"""Run an ONNX artifact of any size: a stretch of nodes at a time, so that only its share of the weights is mapped."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.model import branches
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
    return run_each_in_segments(path, [inputs])[0]


def run_each_in_segments(path: Path, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Return the outputs for each of ``feeds``; see :func:`outputs_by_segment`."""
    model = ir.load(path)
    found: list[dict[str, Array]] = [{} for _ in feeds]
    for made in outputs_by_segment(model, path, feeds):
        for outputs, new in zip(found, made, strict=True):
            outputs |= new
    names = [str(value.name) for value in model.graph.outputs]
    return [{name: outputs[name] for name in names} for outputs in found]


def outputs_by_segment(
    model: ir.Model, path: Path, feeds: Sequence[Mapping[str, Array]]
) -> Iterator[list[dict[str, Array]]]:
    """Yield the outputs that each segment adds, for each of ``feeds``; all go through one before the next is loaded.

    ``model`` is the artifact at ``path``, as it was loaded; it is used up. Inputs that have a default may be among ``feeds``;
    where only some have one, the others get the default. No value is held longer than later segments read it. A graph with
    branches or loops is one segment: what they read inside cannot be cut off.
    """
    if branches(model.graph) is not None:
        runner = OnnxRunner(path, mapped=True)
        yield [runner.run(inputs) for inputs in feeds]
        return
    defaults = {}
    for name in set().union(*feeds) & model.graph.initializers.keys():
        held = model.graph.initializers.pop(name)
        assert held.const_value is not None
        defaults[name], held.const_value = array(held.const_value), None
    runs = list(cut(model.graph, weight_bytes, SEGMENT_BYTES))
    place = {node: index for index, run in enumerate(runs) for node in run}
    alive = [{**defaults, **inputs} for inputs in feeds]
    through = [str(value.name) for value in model.graph.outputs if value.producer() is None]
    yield [{name: values[name] for name in through} for values in alive]
    for index, run in enumerate(runs):
        given, made = taken(run), _needed(run, index, place)
        segment = path.with_name(f"{path.stem}.{index}.segment.onnx")
        if weight_bytes(run[0]) > SEGMENT_BYTES and in_rows(run[0]):
            outputs = _run_rows(model, run[0], segment, alive)
        else:
            outputs = _run(model, segment, given, made, alive)
        for values, new in zip(alive, outputs, strict=True):
            values |= new
        wanted = [str(value.name) for value in made if value.is_graph_output()]
        yield [{name: values[name] for name in wanted} for values in alive]
        del outputs
        for value in (*given, *made):
            if last_reader(value, place) <= index:
                for values in alive:
                    del values[str(value.name)]


def in_rows(node: ir.Node) -> bool:
    """Return whether ``node`` is a product whose outputs can be computed some at a time, each from rows of its weights."""
    return node.op_type == "MatMulNBits" and len(node.inputs) <= ROWS


def taken(run: list[ir.Node]) -> list[ir.Value]:
    """Return the values that a run reads and does not make, each once; stored ones are not among them."""
    members = set(run)
    read = (value for node in run for value in node.inputs if value is not None and value.const_value is None)
    return list(dict.fromkeys(value for value in read if value.producer() not in members))


def last_reader(value: ir.Value, place: Mapping[ir.Node, int]) -> int:
    """Return the last run that reads ``value``, −1 if none does; ``place`` has the run of each node."""
    return max((place[user] for user in value.consumers()), default=-1)


def weight_bytes(node: ir.Node) -> int:
    """Return the bytes of the weights that ``node`` reads."""
    return sum(v.const_value.nbytes for v in node.inputs if v is not None and v.const_value is not None)


def _needed(run: list[ir.Node], index: int, place: Mapping[ir.Node, int]) -> list[ir.Value]:
    """Return the values of run ``index`` that later runs read or the graph returns."""
    return [
        output
        for node in run
        for output in node.outputs
        if output.is_graph_output() or last_reader(output, place) > index
    ]


def _run_rows(
    model: ir.Model, product: ir.Node, path: Path, alive: Sequence[Mapping[str, Array]]
) -> list[dict[str, Array]]:
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
        pieces.append(_run(part, path, [given], list(node.outputs), alive))
    name = str(result.name)
    return [
        {name: np.concatenate([piece[name] for piece in made], axis=-1)} for made in zip(*pieces, strict=True)
    ]


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


def compute_in_float(graph: ir.Graph | ir.GraphView) -> bool:
    """Let every MatMulNBits of ``graph`` leave activations as they are; return whether there is one."""
    blockwise = [node for node in graph if node.op_type == "MatMulNBits"]
    for node in blockwise:
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", FLOAT)
    return bool(blockwise)


def _run(
    model: ir.Model,
    path: Path,
    given: list[ir.Value],
    made: list[ir.Value],
    alive: Sequence[Mapping[str, Array]],
) -> list[dict[str, Array]]:
    """Write one segment, run it for each of ``alive``, and remove it.

    Activations are not rounded: MatMulNBits computes in float, from packed weights, since it would unpack them all otherwise.
    """
    inputs = [str(value.name) for value in given]
    graph = ir.convenience.extract(model.graph, inputs, [str(value.name) for value in made])
    part = ir.Model(graph, ir_version=model.ir_version)
    part.opset_imports.update(model.opset_imports)
    blockwise = compute_in_float(graph)
    try:
        ir.save(part, path)
        runner = OnnxRunner(path, mapped=not blockwise)
        return [runner.run({name: values[name] for name in inputs}) for values in alive]
    finally:
        path.unlink(missing_ok=True)
