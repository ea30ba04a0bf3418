"""How far the values of a float model go on samples: the ends of each, and the sums inside nodes that no value shows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.rewrite import attribute
from m4c.sweep import Progress, Sample, sweep
from m4c.weights import small

Array = np.ndarray
Ends = tuple[float, float]

MAGNITUDES = frozenset({"ReduceSum", "ReduceMean", "ReduceL1", "ReduceLogSum", "GlobalAveragePool"})
SQUARES = frozenset({"ReduceL2", "ReduceSumSquare", "LpNormalization"})
"""Operators that add up numbers, or their squares, in the type of their input.

So does ONNX Runtime's WebGPU provider (microsoft/onnxruntime at 076cc6cbb92b: webgpu/reduction/reduction_ops.cc). Layer and
instance norms add up in float32, whatever the type of their input: ONNX says so (``stash_type``), and that provider does
(0f72de77d01c: webgpu/nn/instance_norm.cc; 007a78e7a61b: webgpu/nn/layer_norm.cc).
"""


@dataclass(frozen=True, slots=True)
class Reached:
    """What samples showed."""

    values: Mapping[str, Ends]
    """The smallest and the largest finite number of each float32 value, by its name."""
    sums: Mapping[str, float]
    """The largest sum of magnitudes or squares inside a node of :data:`MAGNITUDES` or :data:`SQUARES`, by its first output."""


def reach(
    model: ir.Model, samples: Iterable[Sample], workspace: Path, progress: Progress | None = None
) -> Reached:
    """Run ``samples`` through ``model``, a segment at a time in ``workspace``, and return what they reach."""
    inner: dict[str, list[tuple[str, Callable[[Array], float]]]] = {}
    for node in model.graph:
        summed = _inner(node)
        if summed is not None and node.inputs[0] is not None:
            inner.setdefault(str(node.inputs[0].name), []).append((str(node.outputs[0].name), summed))
    values: dict[str, Ends] = {}
    sums: dict[str, float] = {}
    for name, value in sweep(model, samples, workspace, progress):
        finite = value[np.isfinite(value)]
        low, high = values.get(name, (0.0, 0.0))
        values[name] = (
            min(low, float(finite.min(initial=0))),
            max(high, float(finite.max(initial=0))),
        )
        for output, summed in inner.get(name, ()):
            sums[output] = max(sums.get(output, 0.0), summed(value))
    return Reached(values, sums)


def _inner(node: ir.Node) -> Callable[[Array], float] | None:
    """Return what computes the largest sum inside ``node`` from its first operand, None if it has none."""
    squares = node.op_type in SQUARES and attribute(node, "p", 2) == 2
    if node.domain not in ("", "ai.onnx") or node.op_type not in MAGNITUDES | SQUARES:
        return None
    axes = _axes(node)

    def largest(value: Array) -> float:
        terms = np.square(value, dtype=np.float64) if squares else np.abs(value.astype(np.float64))
        return float(np.sum(terms, axis=axes).max(initial=0))

    return largest


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    """Return the axes that a node adds up along, None for all."""
    if node.op_type == "LpNormalization":
        return (attribute(node, "axis", -1),)
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if node.op_type == "GlobalAveragePool" and shape is not None:
        return tuple(range(2, len(shape)))
    given = small(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes")
    return None if given is None else tuple(int(axis) for axis in given)
