"""Run an ONNX artifact of any size: a stretch of nodes at a time, so that only its share of the weights is mapped."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.runners import OnnxRunner

Array = np.ndarray

FLOAT = 1
"""MatMulNBits' accuracy level of float32 activations."""

SEGMENT_BYTES = 64 << 20
"""Weights that one segment maps; a single larger one is a segment of its own."""


def run_in_segments(path: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of the artifact at ``path`` by name, as :class:`m4c.runners.OnnxRunner` would with mapped weights.

    Segments are written beside the artifact while they run, as its weights are there.
    """
    model = ir.load(path)
    runs = list(_runs(model.graph))
    place = {node: index for index, run in enumerate(runs) for node in run}
    wanted = [str(value.name) for value in model.graph.outputs]
    alive = dict(inputs)
    for index, run in enumerate(runs):
        given, made = _border(run, index, place)
        alive.update(_run(model, path.with_name(f"{path.stem}.{index}.segment.onnx"), given, made, alive))
        last = {str(v.name): max((place[n] for n in v.consumers()), default=index) for v in given}
        for name in [n for n, end in last.items() if end <= index and n not in wanted]:
            del alive[name]
    return {name: alive[name] for name in wanted}


def _runs(graph: ir.Graph) -> Iterator[list[ir.Node]]:
    """Cut the nodes into runs by the bytes of the weights that they read."""
    run: list[ir.Node] = []
    used = 0
    for node in graph:
        size = sum(v.const_value.nbytes for v in node.inputs if v is not None and v.const_value is not None)
        if run and used + size > SEGMENT_BYTES:
            yield run
            run, used = [], 0
        run.append(node)
        used += size
    if run:
        yield run


def _border(
    run: list[ir.Node], index: int, place: Mapping[ir.Node, int]
) -> tuple[list[ir.Value], list[ir.Value]]:
    """Return the values that a run takes from outside, and those that it gives."""
    given = {
        value: None
        for node in run
        for value in node.inputs
        if value is not None and value.const_value is None and place.get(value.producer()) != index  # type: ignore[arg-type]
    }
    made = [
        output
        for node in run
        for output in node.outputs
        if output.is_graph_output() or any(place[user] > index for user in output.consumers())
    ]
    return list(given), made


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
