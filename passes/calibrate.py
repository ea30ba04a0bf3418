"""Choose the range of every float value by running samples through the model, a segment of it at a time.

Every float value is looked at as it appears (:mod:`m4c.sweep`); neither all weights nor all values nor two samples are ever
in memory together.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from m4c.errors import UsageError
from m4c.model import module_path
from m4c.observers import MinMax, Observer, Watch
from m4c.pipeline import Note, Pass, Property, Result
from m4c.quant import CALIBRATED, activations, get_bounds, keeps_extremes, set_range
from m4c.scales import CONVOLUTIONS
from m4c.sweep import Sample, checked, sweep
from m4c.weights import array

Array = np.ndarray
Ranges = dict[str, tuple[float, float]]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Calibrate(Pass):
    """Write into every float value the range that ``samples`` give it; the graph stays as it is.

    Before: ``y = Relu(x)``. After: the same, and ``y`` carries ``m4c.range = "0.0 5.25"`` in its metadata.

    Stored operands that are quantized with one scale (gammas, tables, tokens) get the range of their values.
    Where fewer than ``enough`` values were seen, computed ones get a wider range (:meth:`m4c.observers.Watch.range`).
    ``workspace`` is a folder for weights and values of a segment of the model, free to be deleted afterwards.
    """

    samples: Iterable[Sample] = field(repr=False, compare=False)
    workspace: Path = field(repr=False, compare=False)
    observer: Observer = MinMax()  # noqa: RUF009 - frozen, so one instance serves all
    progress: Progress | None = field(default=None, repr=False, compare=False)
    enough: int = 0

    name: ClassVar[str] = "calibrate"
    gives: ClassVar[tuple[Property, ...]] = (CALIBRATED,)

    def call(self, model: ir.Model) -> Result:
        """Observe the samples and attach the ranges."""
        ranges = observe(
            model,
            self.samples,
            observer=self.observer,
            workspace=self.workspace,
            progress=self.progress,
            enough=self.enough,
        )
        values = [*activations(model.graph), *stored_operands(model.graph)]
        for value in values:
            set_range(value, *(get_bounds(value) or ranges[str(value.name)]))
        return Result(model, modified=True, changes=(Note("graph", f"{len(values)} ranges"),))


def observe(
    model: ir.Model,
    samples: Iterable[Sample],
    *,
    workspace: Path,
    observer: Observer = MinMax(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    enough: int = 0,
) -> Ranges:
    """Return the range of each float value of ``model`` by name: graph inputs, computed values, stored operands.

    ``samples`` are read once, one at a time; ``progress`` is told how many are done. Where fewer than ``enough`` values were
    seen, computed ones get a wider range (:meth:`m4c.observers.Watch.range`).

    Raises:
        UsageError: without samples, for a sample that does not fit the graph's inputs, and for values that are not numbers.
    """
    watches: dict[str, Watch] = {}
    origin = {str(o.name): module_path(node) for node in model.graph for o in node.outputs}
    uncut = {str(value.name) for value in activations(model.graph) if keeps_extremes(value)}
    for name, value in sweep(model, checked(model.graph, samples), workspace, progress):
        _check_numbers(name, value, origin.get(name, "the sample"))
        watches.setdefault(name, Watch(MinMax() if name in uncut else observer)).add(value)
    ranges = {name: seen.range(enough) for name, seen in watches.items()}
    for operand in stored_operands(model.graph):
        assert operand.const_value is not None
        ranges[str(operand.name)] = _extremes(array(operand.const_value))
    return ranges


def stored_operands(graph: ir.Graph) -> list[ir.Value]:
    """Return the float initializers that are quantized with one scale: all but the weights and biases of units."""
    return [
        value
        for value in graph.initializers.values()
        if value.dtype == ir.DataType.FLOAT
        and any(not _has_channels(value, use.node, use.idx) for use in value.uses())
    ]


def _has_channels(value: ir.Value, node: ir.Node, index: int) -> bool:
    """Return whether operand ``index`` of ``node`` has a scale for each channel, chosen from its values when written."""
    matrix = value.shape is not None and len(value.shape) == 2
    return node.op_type in CONVOLUTIONS or (node.op_type == "MatMul" and index == 1 and matrix)


def _extremes(values: Array) -> tuple[float, float]:
    seen = Watch(MinMax())
    seen.add(values)
    return seen.range()


def _check_numbers(name: str, value: Array, origin: str) -> None:
    """Refuse NaN and +∞; −∞ is a mask, which the observers know."""
    if value.size and not value.max() < np.inf:  # NaN, if there is any, is the largest
        raise UsageError(
            f"{name} holds values that are not numbers",
            where=origin,
            fix="check the calibration samples and the weights: the float model does not compute on them",
        )
