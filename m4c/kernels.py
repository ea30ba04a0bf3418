"""Hold every integer kernel of a TFLite file against the node that it was emitted from, one at a time.

Rounding errors add up, so at its end an integer artifact may be far from the same graph run elsewhere and still be right
everywhere: Whisper tiny.en's encoder has 15 dB against ONNX Runtime, which rounds halves another way. Therefore the graph
is cut at every integer tensor: ONNX Runtime computes each node from what the file's own kernels computed before it, and
nothing adds up.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.allocator import trim
from m4c.errors import NumbersError
from m4c.layouts import restored
from m4c.model import module_path
from m4c.rewrite import drop_unused
from m4c.runners import TfliteRunner
from m4c.segments import outputs_by_segment
from m4c.targets.emit_onnx import to_onnx
from m4c.weight_file import WeightFile

Array = np.ndarray

MOST_STEPS = {np.dtype(np.int8): 1.0, np.dtype(np.int16): 16.0}
"""Largest allowed root mean square difference of a kernel, in steps of its result: int8 kernels differ by a step here and
there, and those of int16 interpolate tables."""

GIVEN = ".given"
"""Suffix of the inputs that a graph is cut at."""


def check_kernels(model: ir.Model, artifact: Path, inputs: Mapping[str, Array]) -> float:
    """Return the largest difference of a kernel of ``artifact``, in steps (root mean square), on ``inputs``.

    ``model`` is the quantized model that the artifact was emitted from.

    Raises:
        NumbersError: for the first node, in the order of the graph, that differs by more than :data:`MOST_STEPS`.
    """
    computed = _computed(model, artifact, inputs)
    trim()
    cut = model.clone()
    _cut(cut, computed)
    feeds = {**inputs, **{f"{name}{GIVEN}": codes for name, codes in computed.items()}}
    taken = {value.name for value in cut.graph.inputs}
    nodes = {str(node.outputs[0].name): node for node in model.graph}
    with tempfile.TemporaryDirectory(prefix="m4c-") as folder:
        path = Path(folder) / "cut.onnx"
        with WeightFile(Path(folder) / "weights.bin") as weights:
            to_onnx(cut, path, weights)
        worst = 0.0
        for (made,) in outputs_by_segment(
            ir.load(path), path, [{n: v for n, v in feeds.items() if n in taken}]
        ):
            for name, wanted in made.items():
                worst = max(worst, _steps(nodes[name], wanted, computed[name]))
    return worst


def _computed(model: ir.Model, artifact: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run ``artifact`` and return its integer tensors by the names of the codes in ``model``."""
    runner = TfliteRunner(artifact, keep_all=True)
    runner.run(inputs)
    codes = {}
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            value = node.outputs[0]
            codes[str(value.name).removesuffix(".codes")] = value
            codes[str(value.name)] = value
    found: dict[str, Array] = {}
    for detail, held in runner.tensors():  # all of them, one at a time: weights are among them
        name, array = restored(detail["name"], held)
        made = codes.get(name)
        if made is None or made.dtype is None or array.dtype != made.dtype.numpy():
            continue
        if name == made.name or made.name not in found:
            found[str(made.name)] = np.ascontiguousarray(array)
    return found


def _cut(model: ir.Model, computed: Mapping[str, Array]) -> None:
    """Let every reader of ``computed`` codes read an input of the graph instead; the codes are the only outputs."""
    graph = model.graph
    graph.outputs.clear()
    for node in graph:
        codes = node.outputs[0]
        if codes.name in computed:
            given = ir.Value(name=f"{codes.name}{GIVEN}", type=codes.type, shape=codes.shape)
            codes.replace_all_uses_with(given)
            graph.inputs.append(given)
            graph.outputs.append(codes)
    drop_unused(model)


def _steps(node: ir.Node, wanted: Array, computed: Array) -> float:
    """Return how far the codes of ``node`` are apart, or raise if that is too far."""
    apart = np.subtract(wanted, computed, dtype=np.float32)
    steps = float(np.sqrt(np.mean(np.square(apart)))) if apart.size else 0.0
    if steps > MOST_STEPS[computed.dtype]:
        maker = node.inputs[0].producer() if node.inputs[0] is not None else None
        made = maker or node
        raise NumbersError(
            f"the integer kernel of {made.op_type} differs from its node by {steps:.1f} steps, "
            f"allowed is {MOST_STEPS[computed.dtype]:g}",
            where=f"{made.op_type} {node.inputs[0].name if node.inputs[0] else ''} of {module_path(made)}",
            fix="this is a bug of m4c or of the runtime: report it, or try --quantize none",
        )
    return steps
