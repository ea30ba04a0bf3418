"""Which way of carrying an adapter serves a sub-model best: each is built as an export builds it, run, and measured."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import onnx_ir as ir

from m4c.adapters.folder import Adapter
from m4c.adapters.given import Adapters
from m4c.adapters.merge import merged
from m4c.adapters.proof import NOTHING_DB
from m4c.adapters.separate import factors, slots_of
from m4c.assemble import Opened, compile_opened, open_sources
from m4c.bundle import GraphRecord, SubmodelRecord
from m4c.errors import UsageError
from m4c.numerics import sqnr
from m4c.progress import Progress
from m4c.read_back import read_back
from m4c.request import Request
from m4c.runners import open_runners
from m4c.source import TorchSource
from m4c.verify import run_each

Array = np.ndarray

MERGED, BESIDE, INTO_BASE = "merge, then quantize", "beside the base", "merge into the rounded base"
"""The ways: part of the float weights, factors in slots, or part of what the rounded weights of the base mean."""

CLOSE_DB = 1.0
"""Ways whose SQNR differs by less count as equally exact: other inputs move it by as much."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one graph."""

    sqnr_db: float
    """Of its worst output, against eager torch with merged float weights; products in float, as an export is verified."""
    milliseconds: float
    """Median time of a call, in the runtime's own choice of threads."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of carrying the adapter."""

    name: str
    bytes: int
    """Of all files: graphs, weights, the adapter."""
    further_bytes: int
    """What another adapter of this size would add."""
    graphs: Mapping[str, Figures]

    @property
    def sqnr_db(self) -> float:
        """That of the worst graph."""
        return min(one.sqnr_db for one in self.graphs.values())

    @property
    def milliseconds(self) -> float:
        """Of a call of each graph."""
        return sum(one.milliseconds for one in self.graphs.values())


@dataclass(frozen=True, slots=True)
class Comparison:
    """All ways, and what leaving the adapter out would cost."""

    ways: tuple[Way, ...]
    without_db: Mapping[str, float]
    """SQNR of each graph's float outputs without the adapter, by the same measure: the less, the more the adapter does."""
    not_beside: str | None = None
    """Why the adapter cannot stay beside the base, if it cannot."""

    def way(self, name: str) -> Way | None:
        """Return one of the ways, None if it cannot be had."""
        return next((way for way in self.ways if way.name == name), None)


@dataclass(frozen=True)
class _Subject:
    """What every way is held against."""

    sources: Mapping[str, TorchSource]
    """With merged float weights, by graph."""
    calls: int
    """How many calls are timed."""


def compare(request: Request, adapters: Adapters, folder: Path, calls: int, progress: Progress) -> Comparison:
    """Build the one sub-model of ``request`` with its adapter in each way, in ``folder``, and return what was measured.

    Raises:
        UsageError: if the adapter changes nothing that is computed.
    """
    (name,) = request.submodels
    submodel = name.partition("/")[0]
    float_merged = replace(request, adapters=replace(adapters, mode="merge"))
    opened = open_sources(float_merged, submodel)
    subject = _Subject({source.name: source for source in opened[2]}, calls)
    record = compile_opened(float_merged, folder / "merged", opened, progress)
    without = _effects(subject, record)
    ways = [_measured(MERGED, record, folder / "merged", subject, without, None)]
    shutil.rmtree(folder / "merged")

    (adapter,), refused = opened[2][0].adapters, None
    try:
        slots_of([adapter])
    except UsageError as error:
        refused = error.what
    based = replace(request, adapters=None if refused else replace(adapters, mode="separate"))
    bases = open_sources(based, submodel)
    record = compile_opened(based, folder / "base", bases, progress)
    if not refused:
        ways.append(_measured(BESIDE, record, folder / "base", subject, without, adapter))
    again = _into_base(bases, record, folder / "base", adapter)
    record = compile_opened(replace(request, adapters=None), folder / "again", again, progress)
    ways.append(_measured(INTO_BASE, record, folder / "again", subject, without, None))
    return Comparison(tuple(ways), without, refused)


def _effects(subject: _Subject, record: SubmodelRecord) -> dict[str, float]:
    """Return the SQNR without the adapter of every graph that it changes."""
    found = {}
    for graph in record.graphs:
        source = subject.sources[graph.name].sized(graph.sizes)
        assert source.unmerged is not None
        expected, without = source.run_variants([source.weights, source.unmerged], source.sample(0))
        effect = min(sqnr(expected[name], without[name]) for name in expected)
        if effect < NOTHING_DB:
            found[graph.name] = effect
    return found


def _into_base(opened: Opened, record: SubmodelRecord, folder: Path, adapter: Adapter) -> Opened:
    """Return the sources of a base whose weights are what it stores, with the adapter merged."""
    submodel, path, sources = opened
    stored: dict[str, ir.TensorProtocol] = {}
    for graph in record.graphs:
        stored |= read_back(folder / graph.file.path, graph.signature)
    changed = merged({**sources[0].weights, **stored}, [adapter])
    return submodel, path, [replace(source, weights=changed, adapters=()) for source in sources]


def _measured(
    name: str,
    record: SubmodelRecord,
    folder: Path,
    subject: _Subject,
    graphs: Mapping[str, float],
    beside: Adapter | None,
) -> Way:
    """Return the figures of a way that was built in ``folder``; an adapter ``beside`` the artifacts is used."""
    own = sum(file.bytes for one in record.adapters for file in one.files.values())
    files = [graph.file for graph in record.graphs] + [
        f for f in record.files if f.path.startswith("graphs/")
    ]
    found = {
        graph.name: _figures(graph, record, folder, subject, beside)
        for graph in record.graphs
        if graph.name in graphs
    }
    total = sum(file.bytes for file in files) + own
    return Way(name, total, own if beside else total, found)


def _figures(
    graph: GraphRecord, record: SubmodelRecord, folder: Path, subject: _Subject, beside: Adapter | None
) -> Figures:
    """Return what is measured of one artifact, on the inputs that exports are verified with."""
    source = subject.sources[graph.name].sized(graph.sizes)
    inputs, path, file = source.sample(0), folder / graph.file.path, None
    feed = inputs
    if beside is not None:
        modules = {slot.module for slot in graph.slots}
        slots = [slot for slot in slots_of([beside]) if slot.module in modules]
        feed = {**inputs, **factors(beside, slots)}
        file = folder / record.adapters[0].files[graph.name].path
    expected = source.run(inputs)
    (made,) = run_each(path, [feed], graph.precision, graph.signature)
    error = min(sqnr(expected[name], made[name]) for name in expected)
    return Figures(error, _milliseconds(path, graph.signature, inputs, file, subject.calls))


def _milliseconds(
    path: Path, signature: str, inputs: Mapping[str, Array], adapter: Path | None, calls: int
) -> float:
    """Return the median time of a call, after one that is not counted."""
    runner = open_runners(path, [signature], adapter)[0]
    runner.run(inputs)
    taken = []
    for _ in range(calls):
        begun = time.perf_counter()
        runner.run(inputs)
        taken.append(time.perf_counter() - begun)
    return 1e3 * median(taken)


def advice(found: Comparison) -> str:
    """Return what the figures speak for, in sentences."""
    before, beside, after = (found.way(name) for name in (MERGED, BESIDE, INTO_BASE))
    assert before is not None
    assert after is not None
    said = [_beside(before, beside) if beside else f"Merge it, then quantize: {found.not_beside}."]
    lost = before.sqnr_db - after.sqnr_db
    said.append(
        f"Merged into the rounded base it loses {lost:.1f} dB: do that only where the float weights are gone."
        if lost >= CLOSE_DB
        else f"Merged into the rounded base it is as exact as merged before (within {CLOSE_DB:g} dB)."
    )
    worst = min(found.without_db.values())
    best = max(way.sqnr_db for way in found.ways)
    if best < worst + CLOSE_DB:
        said.append(
            f"Rounding costs as much as leaving the adapter out ({worst:.1f} dB): choose finer weights, such as int8-weights."
        )
    return " ".join(said)


def _beside(before: Way, beside: Way) -> str:
    """Return whether to merge or to keep an adapter beside its base."""
    gain, slower = beside.sqnr_db - before.sqnr_db, beside.milliseconds / before.milliseconds - 1
    figures = f"{abs(gain):.1f} dB, and {abs(slower):.0%} {'more' if slower >= 0 else 'less'} time a call"
    several = f"each further adapter adds {beside.further_bytes / 1e6:.2f} MB, merged {before.further_bytes / 1e6:.2f} MB"
    if gain >= CLOSE_DB:
        return f"Keep it beside the base: it gains {figures}; {several}."
    if gain <= -CLOSE_DB:
        return f"Merge it, then quantize: beside the base it loses {figures}; but {several}."
    return (
        f"Merge a single adapter, then quantize; keep several beside one base: that is as exact "
        f"(within {CLOSE_DB:g} dB), takes {abs(slower):.0%} {'more' if slower >= 0 else 'less'} time a call, and {several}."
    )
