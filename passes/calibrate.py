"""Choose the range of every float value by running samples through the model, a segment of it at a time.

The model is written once into a workspace, with its weights outside the graph, and cut into consecutive runs of nodes whose
values fit a budget. Each sample walks through the segments in ONNX Runtime; every float value is looked at as it appears,
and dropped when no later segment reads it. So each node runs once a sample, and neither all values nor two samples are
ever in memory together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnxruntime

from m4c.errors import UsageError
from m4c.model import module_path
from m4c.observers import MinMax, Observer, Watch
from m4c.pipeline import Note, Pass, Property, Result
from m4c.quant import CALIBRATED, activations, get_bounds, set_range
from m4c.runs import cut
from m4c.segments import taken
from m4c.weights import array

Array = np.ndarray
Sample = Mapping[str, Array]
Ranges = dict[str, tuple[float, float]]
Progress = Callable[[int], None]

SEGMENT_BYTES = 256 << 20
"""Values of one segment take about this much memory, as far as their shapes are known."""


@dataclass(frozen=True)
class Calibrate(Pass):
    """Write into every float value the range that ``samples`` give it; the graph stays as it is.

    Before: ``y = Relu(x)``. After: the same, and ``y`` carries ``m4c.range = "0.0 5.25"`` in its metadata.

    Stored operands that are quantized with one scale (gammas, tables, tokens) get the range of their values.
    ``workspace`` is a folder for the float model: as large as its weights, free to be deleted afterwards.
    """

    samples: Iterable[Sample] = field(repr=False, compare=False)
    workspace: Path = field(repr=False, compare=False)
    observer: Observer = MinMax()  # noqa: RUF009 - frozen, so one instance serves all
    progress: Progress | None = field(default=None, repr=False, compare=False)

    name: ClassVar[str] = "calibrate"
    gives: ClassVar[tuple[Property, ...]] = (CALIBRATED,)

    def call(self, model: ir.Model) -> Result:
        """Observe the samples and attach the ranges."""
        ranges = observe(
            model, self.samples, observer=self.observer, workspace=self.workspace, progress=self.progress
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
) -> Ranges:
    """Return the range of each float value of ``model`` by name: graph inputs, computed values, stored operands.

    ``samples`` are read once, one at a time; ``progress`` is told how many are done.

    Raises:
        UsageError: without samples, for a sample that does not fit the graph's inputs, and for values that are not numbers.
    """
    segments = _segments(model, workspace)
    watches: dict[str, Watch] = {}
    origin = {str(o.name): module_path(node) for node in model.graph for o in node.outputs}
    count = 0
    for count, sample in enumerate(samples, 1):
        check_sample(model.graph, sample, f"sample {count}")
        for name, value in _values(model, segments, sample):
            _check_numbers(name, value, origin.get(name, "the sample"))
            watches.setdefault(name, Watch(observer)).add(value)
        if progress is not None:
            progress(count)
    if not count:
        raise UsageError(
            "there are no calibration samples", fix="give at least one; some tens of typical ones are enough"
        )
    ranges = {name: seen.range() for name, seen in watches.items()}
    for operand in stored_operands(model.graph):
        assert operand.const_value is not None
        ranges[str(operand.name)] = _extremes(array(operand.const_value))
    return ranges


def check_sample(graph: ir.Graph, sample: Sample, where: str) -> None:
    """Raise a :class:`UsageError` unless ``sample`` has exactly the inputs of ``graph``, in dtype and shape."""
    fix = "the inputs are " + ", ".join(f"{v.name} {v.dtype}{v.shape}" for v in graph.inputs)
    if set(sample) != {v.name for v in graph.inputs}:
        raise UsageError(f"it has the arrays {', '.join(sorted(sample)) or 'none'}", where=where, fix=fix)
    for value in graph.inputs:
        given = sample[str(value.name)]
        if value.dtype is not None and given.dtype != value.dtype.numpy():
            raise UsageError(
                f"{value.name} is {given.dtype}, not {value.dtype.numpy()}", where=where, fix=fix
            )
        shape = value.shape
        if shape is not None and (
            len(shape) != given.ndim
            or any(isinstance(d, int) and d != g for d, g in zip(shape, given.shape, strict=True))
        ):
            raise UsageError(f"{value.name} has shape {list(given.shape)}, not {shape}", where=where, fix=fix)


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
    return node.op_type == "Conv" or (node.op_type == "MatMul" and index == 1 and matrix)


def _extremes(values: Array) -> tuple[float, float]:
    seen = Watch(MinMax())
    seen.add(values)
    return seen.range()


def _check_numbers(name: str, value: Array, origin: str) -> None:
    """Refuse NaN and +∞; −∞ is a mask, which the observers know."""
    if np.isnan(value).any() or np.isposinf(value).any():
        raise UsageError(
            f"{name} holds values that are not numbers",
            where=origin,
            fix="check the calibration samples and the weights: the float model does not compute on them",
        )


@dataclass(frozen=True)
class _Segment:
    """A run of consecutive nodes: what it reads, what it gives, what may be forgotten after it."""

    session: onnxruntime.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...]


def _values(model: ir.Model, segments: list[_Segment], sample: Sample) -> Iterator[tuple[str, Array]]:
    """Yield every float value of one run, by name."""
    alive = dict(sample)
    for name, value in sample.items():
        if value.dtype == np.float32:
            yield name, value
    for segment in segments:
        given = segment.session.run(list(segment.outputs), {name: alive[name] for name in segment.inputs})
        for name, value in zip(segment.outputs, given, strict=True):
            if value.dtype == np.float32:
                yield name, value
            alive[name] = value
        del given
        for name in segment.done:
            alive.pop(name, None)


def _segments(model: ir.Model, workspace: Path) -> list[_Segment]:
    """Write ``model`` into ``workspace`` and open a session for each segment."""
    workspace.mkdir(parents=True, exist_ok=True)
    ir.save(model, workspace / "float.onnx", external_data="float.data")
    saved = ir.load(workspace / "float.onnx")
    runs = list(cut(saved.graph, _made_bytes, SEGMENT_BYTES))
    place = {node: index for index, run in enumerate(runs) for node in run}
    return [_open(saved, run, index, place, workspace) for index, run in enumerate(runs)]


def _made_bytes(node: ir.Node) -> int:
    """Return the bytes of the values that ``node`` makes; unknown dimensions count as 1."""
    return sum(_bytes(output) for output in node.outputs)


def _bytes(value: ir.Value) -> int:
    dims = [d for d in value.shape or () if isinstance(d, int)]
    return 4 * int(np.prod(dims, dtype=np.int64))


def _open(
    model: ir.Model, run: list[ir.Node], index: int, place: Mapping[ir.Node, int], workspace: Path
) -> _Segment:
    """Write one segment beside the weights that it refers to, and open it."""
    inputs = {str(value.name): value for value in taken(run)}
    outputs = [
        output
        for node in run
        for output in node.outputs
        if output.dtype == ir.DataType.FLOAT or any(place[n] > index for n in output.consumers())
    ]
    last = {v: max((place[n] for n in v.consumers()), default=index) for v in (*inputs.values(), *outputs)}
    graph = ir.convenience.extract(model.graph, list(inputs), [str(o.name) for o in outputs])
    path = workspace / f"segment-{index}.onnx"
    ir.save(ir.Model(graph, ir_version=model.ir_version), path)
    options = onnxruntime.SessionOptions()
    # Optimizers rename and fuse; what is observed must be what the graph says.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _Segment(
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]),
        tuple(inputs),
        tuple(str(o.name) for o in outputs),
        tuple(str(v.name) for v in last if last[v] <= index),
    )
