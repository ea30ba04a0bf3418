"""Run samples through a float model and look at every value, with a share of the weights and of one sample's values in memory.

The model is cut into consecutive runs of nodes whose weights and values fit a budget. One run after the other is written
into a workspace and opened in ONNX Runtime, and all samples go through it before the next is. What later runs read waits
in files. So each weight is read once, and each node runs once a sample.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from m4c.allocator import trim
from m4c.errors import UnsupportedError, UsageError
from m4c.model import branches, module_path
from m4c.runs import cut
from m4c.segments import last_reader, taken, weight_bytes

Array = np.ndarray
Sample = Mapping[str, Array]
Progress = Callable[[int], None]

SEGMENT_BYTES = 256 << 20
"""Weights and values of one segment take about this much memory, as far as their shapes are known."""


def sweep(
    model: ir.Model, samples: Iterable[Sample], workspace: Path, progress: Progress | None = None
) -> Iterator[tuple[str, Array]]:
    """Yield every float value of ``model`` on each of ``samples``, by name: the inputs first, then a segment at a time.

    ``samples`` are read once, one at a time. ``workspace`` is a folder for as much as a segment's weights, and of each sample
    its inputs and what segments hand on; it is left empty. ``progress`` is told how many samples the work done so far would
    be enough for.

    Raises:
        UnsupportedError: if the graph has branches or loops.
    """
    inner = branches(model.graph)
    if inner is not None:
        raise UnsupportedError(
            f"{inner.op_type} has graphs inside, and what they compute is not observed",
            where=module_path(inner),
            fix="export it with --quantize none, or write the model without branches",
        )
    workspace.mkdir(parents=True, exist_ok=True)
    waiting: list[_Waiting] = []
    for given in samples:
        waiting.append(_Waiting(workspace / f"sample-{len(waiting)}"))
        for name, value in given.items():
            waiting[-1].put(name, value)
            if value.dtype == np.float32:
                yield name, value
    told = 0
    segment: _Segment | None = None
    runs = list(cut(model.graph, bytes_of, SEGMENT_BYTES))
    place = {node: index for index, run in enumerate(runs) for node in run}
    for index, run in enumerate(runs):
        segment = None  # the one before goes first
        trim()
        segment = _Segment.open(model, run, index, place, workspace)
        for number, sample in enumerate(waiting):
            yield from segment.run(sample)
            done = (index * len(waiting) + number + 1) // len(runs)
            if progress is not None and done > told:
                told = done
                progress(done)
    for sample in waiting:
        sample.end()
    segment = None
    trim()


def checked(graph: ir.Graph, samples: Iterable[Sample]) -> Iterator[Sample]:
    """Yield ``samples``, of which there must be one, each checked."""
    count = 0
    for count, sample in enumerate(samples, 1):
        check_sample(graph, sample, f"sample {count}")
        yield sample
        del sample
    if not count:
        raise UsageError(
            "there are no calibration samples", fix="give at least one; some tens of typical ones are enough"
        )


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


def bytes_of(node: ir.Node) -> int:
    """Return the bytes of the weights that ``node`` reads and of the values that it makes; unknown dimensions count as 1."""
    return weight_bytes(node) + sum(_bytes(output) for output in node.outputs)


def _bytes(value: ir.Value) -> int:
    dims = [d for d in value.shape or () if isinstance(d, int)]
    return 4 * int(np.prod(dims, dtype=np.int64))


class _Waiting:
    """The values of one sample that segments still to come read, in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, dict[str, Path]()
        folder.mkdir(exist_ok=True)

    def put(self, name: str, value: Array) -> None:
        """Keep a value."""
        self._files[name] = self._folder / f"{len(self._files)}.npy"
        np.save(self._files[name], value)

    def get(self, name: str) -> Array:
        """Return a value that is kept."""
        return np.asarray(np.load(self._files[name]))

    def drop(self, name: str) -> None:
        """Let go of a value, if it is kept."""
        path = self._files.get(name)
        if path is not None:
            path.unlink(missing_ok=True)

    def end(self) -> None:
        """Let go of all."""
        for name in self._files:
            self.drop(name)
        self._folder.rmdir()


@dataclass(frozen=True)
class _Segment:
    """A run of consecutive nodes: what it reads, what it gives, what later ones read of that, what none reads any more."""

    session: onnxruntime.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kept: frozenset[str]
    done: tuple[str, ...]

    @classmethod
    def open(
        cls, model: ir.Model, run: list[ir.Node], index: int, place: Mapping[ir.Node, int], workspace: Path
    ) -> "_Segment":
        """Write one segment with its weights and open it; no file is left, as a session keeps what it has mapped."""
        inputs = taken(run)
        outputs = [
            output
            for node in run
            for output in node.outputs
            if output.dtype == ir.DataType.FLOAT or last_reader(output, place) > index
        ]
        names = [str(o.name) for o in outputs]
        graph = ir.convenience.extract(model.graph, [str(v.name) for v in inputs], names)
        path = workspace / "segment.onnx"
        ir.save(ir.Model(graph, ir_version=model.ir_version), path, external_data="segment.data")
        try:
            session = _session(path)
        finally:
            path.unlink()
            path.with_suffix(".data").unlink(missing_ok=True)
        return cls(
            session,
            tuple(str(v.name) for v in inputs),
            tuple(names),
            frozenset(str(v.name) for v in outputs if last_reader(v, place) > index),
            tuple(str(v.name) for v in inputs if last_reader(v, place) <= index),
        )

    def run(self, sample: _Waiting) -> Iterator[tuple[str, Array]]:
        """Run one sample through the segment and yield every float value that it makes."""
        given = {name: sample.get(name) for name in self.inputs}
        for name, value in zip(self.outputs, self.session.run(list(self.outputs), given), strict=True):
            if name in self.kept:
                sample.put(name, value)
            if value.dtype == np.float32:
                yield name, value
        for name in self.done:
            sample.drop(name)


def _session(path: Path) -> onnxruntime.InferenceSession:
    """Open a segment whose weights stay mapped."""
    options = onnxruntime.SessionOptions()
    # Optimizers rename and fuse; what is observed must be what the graph says.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
