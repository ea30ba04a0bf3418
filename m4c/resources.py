"""What an export will need: memory, disk and time, from the shapes of its graphs; no weight is read for it.

Every graph is captured and goes through its passes, as weights are lazy there, and is written with a file of weights that only
counts. So sizes are those of the export itself, but for integers, whose passes need samples: these are told from the floats.
"""

import math
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from m4c.ahead import AHEAD, workers
from m4c.assemble import open_sources
from m4c.build import pipeline_for
from m4c.errors import UsageError
from m4c.parallel import in_processes, processes
from m4c.plan import plan
from m4c.precisions import BITS, HALF, INTEGER
from m4c.progress import Progress, Silent
from m4c.request import Request
from m4c.segments import SEGMENT_BYTES, in_rows
from m4c.selection import selected_submodels
from m4c.source import OnnxSource, Source
from m4c.targets.emit_onnx import to_onnx, weight_bytes
from m4c.weight_file import ALIGNMENT, PIECE, WeightFile
from m4c.weight_file import Progress as Written
from m4c.weights import CONSTANT_BYTES, divisible

BASE = 510 << 20
"""Resident bytes of a process that exported next to nothing: Python, torch, transformers, ONNX Runtime, numba. m4-nano's
projection took 526 MiB with its capture (torch 2.13, transformers 5.23, onnxruntime 1.32, numba 0.68, Linux x86-64)."""

COMPILED = 48 << 20
"""What the loops that round weights take when they are compiled: 2.9 million weights took 627 MiB, in float 575."""

CAPTURE = 64 << 20
"""What capture takes and leaves to what follows."""

PARENT = 150 << 20
"""Resident bytes of the process that starts others: no torch in it."""

PER_GRAPH = 4 << 20
"""What each graph leaves in the process: all 19 of m4-nano took 602 MiB in one, its projection alone 464."""

PER_NODE = 100_000
"""Bytes of a captured node with its metadata and all that passes make of it: a backbone of 1.1 billion weights took 85 MiB."""

COPIES = 3
"""How often verification holds the weights of a segment: read, packed by the runtime, and read for its reference. LLaMA-7B took
0.88 GiB."""

RATE, ROUNDED_RATE = 80e6, 400e6
"""Bytes of float32 weights that are written and verified in a second, by two cores; and those that are rounded to nearest."""

START_SECONDS, GRAPH_SECONDS = 6.0, 4.0
"""Seconds to import everything, and to capture and verify a graph of next to no weights."""

NODE_BYTES = 300
"""Bytes of an operator in a TFLite file, its tensors included."""

MANIFEST_BYTES, GRAPH_BYTES, PORT_BYTES = 2000, 450, 280
"""Bytes of the manifest, and what each graph and each port add to it."""

TEMPORARY = 16 << 20
"""Bytes on disk beside the bundle itself: the graphs of segments."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one sub-model needs, in bytes and seconds; ``peak_bytes`` in a process of its own."""

    peak_bytes: int
    output_bytes: int
    graphs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an export needs with ``jobs`` processes; ``disk_bytes`` is the free space, with what is temporary."""

    peak_bytes: int
    disk_bytes: int
    output_bytes: int
    seconds: float
    jobs: int

    def __str__(self) -> str:
        """Return it as a line for people."""
        return (
            f"needs about {self.peak_bytes >> 20} MiB of memory with {self.jobs} job{'s' * (self.jobs > 1)}, "
            f"{self.disk_bytes / 1e6:.0f} MB of free disk and {self.seconds:.0f} s; "
            f"the bundle will have {self.output_bytes / 1e6:.1f} MB"
        )


def estimate(request: Request, jobs: int, limit: int | None = None) -> Estimate:
    """Return what ``request`` needs with as many as ``jobs`` processes (0: one a core), or fewer that fit into ``limit`` bytes.

    Raises:
        UsageError: if not even one process fits.
    """
    needs = _needs(request, jobs)
    most = processes(jobs, len(needs))
    if limit is None:
        return _together(needs, most)
    for count in range(most, 0, -1):
        found = _together(needs, count)
        if found.peak_bytes <= limit:
            return found
    raise UsageError(
        f"the export needs about {found.peak_bytes >> 20} MiB of memory, the limit is {limit >> 20} MiB",
        fix=f"give at least --max-rss {math.ceil(found.peak_bytes / (1 << 20))}MiB, or export fewer sub-models",
    )


def _needs(request: Request, jobs: int) -> list[Need]:
    """Return what each sub-model needs."""
    if request.model is not None:
        return [_need(request, [OnnxSource(request.model)])]
    return in_processes(partial(_submodel, request), selected_submodels(request.submodels), Silent(), jobs)


def _together(needs: list[Need], jobs: int) -> Estimate:
    """Return what sub-models need, ``jobs`` at once: the largest may meet."""
    peaks = sorted((need.peak_bytes for need in needs), reverse=True)
    graphs = sum(need.graphs for need in needs)
    peak = peaks[0] + PER_GRAPH * graphs if jobs == 1 else PARENT + sum(peaks[:jobs])
    output = MANIFEST_BYTES + sum(need.output_bytes for need in needs)
    seconds = START_SECONDS + max(
        sum(need.seconds for need in needs) / jobs, max(need.seconds for need in needs)
    )
    return Estimate(peak, output + TEMPORARY, output, seconds, jobs)


def _submodel(request: Request, name: str, _progress: Progress) -> Need:
    """Return what a sub-model needs."""
    submodel, path, sources = open_sources(request, name)
    found = _need(request, sources)
    assets = [path / asset for asset in submodel.assets] if path else []
    copied = sum(asset.stat().st_size for asset in assets if asset.is_file())
    return Need(found.peak_bytes, found.output_bytes + copied, found.graphs, found.seconds)


class _Tally(WeightFile):
    """A file of weights that only counts."""

    def __init__(self, path: Path) -> None:
        """Count from nothing; ``path`` is where the weights would be."""
        self.path = path
        self.end = 0
        self._places: dict[tuple[object, ...], tuple[int, int]] = {}

    def put(
        self, tensor: ir.TensorProtocol, progress: Written = lambda _: None, key: str = ""
    ) -> tuple[int, int]:
        """Return where ``tensor`` would be: equal names, dtypes and shapes count as equal."""
        identity = (tensor.name, tensor.dtype, tuple(tensor.shape.numpy()))
        if identity not in self._places:
            offset = self.end + -self.end % ALIGNMENT
            self._places[identity] = offset, tensor.nbytes
            self.end = offset + tensor.nbytes
        return self._places[identity]

    def flush(self) -> None:
        """Do nothing."""


def _need(request: Request, sources: list[Any]) -> Need:
    """Return what graphs of a sub-model need that are compiled one after the other."""
    output, peak, seconds = 0, BASE, GRAPH_SECONDS * len(sources)
    with tempfile.TemporaryDirectory(prefix="m4c-") as folder:
        tally = _Tally(Path(folder) / "weights.bin")
        for source in sources:
            planned = plan(request, source)
            pipeline = pipeline_for(request, planned, None, Path(folder), _told)
            shrink = 4 if planned.precision in INTEGER else 2 if planned.precision == HALF else 1
            models = []
            for sizes in planned.signatures.values():
                captured = source.sized(sizes).capture()
                rate = ROUNDED_RATE if planned.precision in BITS else RATE
                seconds += weight_bytes(captured) / rate
                models.append(pipeline.run(captured)[0])
                output += _vector_bytes(request, source.sized(sizes))
            if planned.format == "onnx" and shrink == 1:
                path = Path(folder) / "graph.onnx"
                to_onnx(models[0], path, tally)
                output += path.stat().st_size
            else:
                output += weight_bytes(models[0]) // shrink + NODE_BYTES * _nodes(models)
            peak = max(peak, _peak(models) + COMPILED * (planned.precision in BITS))
    return Need(peak, output + tally.end, len(sources), seconds)


def _told(_done: int, _total: int) -> None:
    """Tell nobody of progress."""


def _nodes(models: list[ir.Model]) -> int:
    """Return how many nodes ``models`` have together."""
    return sum(1 for model in models for _ in model.graph)


def _peak(models: list[ir.Model]) -> int:
    """Return the resident bytes of a process while it compiles ``models``, which have the same weights."""
    tensors = [v.const_value for v in models[0].graph.initializers.values() if v.const_value is not None]
    weights = [tensor for tensor in tensors if tensor.nbytes > CONSTANT_BYTES]
    total = sum(tensor.nbytes for tensor in weights)
    largest = max(
        (_bytes_at_once(v) for model in models for v in model.graph.initializers.values()), default=0
    )
    whole = max((_as_floats(tensor) for tensor in weights if not divisible(tensor)), default=0)
    flying = min(total, workers() * (1 + AHEAD) * 2 * PIECE)
    segment = max(min(total, SEGMENT_BYTES), largest)
    return BASE + PER_NODE * _nodes(models) + max(CAPTURE, flying + max(COPIES * segment, 2 * whole))


def _bytes_at_once(value: ir.Value) -> int:
    """Return how many bytes of a weight verification holds at least at once; see :func:`m4c.segments.run_in_segments`."""
    in_parts = all(in_rows(user) for user in value.consumers())
    size = 0 if value.const_value is None else value.const_value.nbytes
    return min(size, SEGMENT_BYTES) if in_parts else size


def _as_floats(tensor: ir.TensorProtocol) -> int:
    """Return the bytes of a tensor in float32."""
    return 4 * math.prod(tensor.shape.numpy())


def _vector_bytes(request: Request, source: Source) -> int:
    """Return the bytes of a test vector, and of what the manifest tells of the graph."""
    inputs = source.sample(request.seed)
    sizes: dict[str, int] = {}
    for port in source.inputs:
        pairs = zip(port.shape, inputs[port.name].shape, strict=True)
        sizes |= {name: size for name, size in pairs if isinstance(name, str)}
    made = sum(math.prod(port.sized(sizes)) * 4 for port in source.outputs)
    ports = len(source.inputs) + len(source.outputs)
    return sum(value.nbytes for value in inputs.values()) + made + GRAPH_BYTES + PORT_BYTES * ports
