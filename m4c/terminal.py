"""What the user sees: progress on stderr, tables on stdout."""

import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from m4c.errors import M4CError
from m4c.numerics import NOTABLE_DB

if TYPE_CHECKING:
    from m4c.bundle import CoverageRecord, GraphRecord, Manifest
    from m4c.numerics import Difference
    from m4c.rounding.budget import Sensitivity
    from m4c.selftest import Selftest


class ProgressBar:
    """A line for each graph in work, telling its stage and how far that is, and one for the whole."""

    def __init__(self, total: int) -> None:
        """Draw on stderr, so that stdout holds results alone; ``total`` sub-models are to be done."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figure]}"),
        )
        console = Console(file=sys.stderr)  # this stream, whatever a stage redirects for itself
        self._rich = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._whole = self._rich.add_task("sub-models", total=total, figure=f"0 of {total}")
        self._total = total
        self._lines: dict[str, TaskID] = {}
        self._graphs = 0

    def __enter__(self) -> "ProgressBar":
        """Begin to draw."""
        self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Stop drawing."""
        self._rich.stop()

    def stage(self, graph: str, stage: str) -> None:
        """Show what is being done to ``graph``."""
        submodel = graph.partition("/")[0]
        text = f"{graph}: {stage}"
        if submodel not in self._lines:
            self._lines[submodel] = self._rich.add_task(text, total=None, figure="")
        self._rich.update(self._lines[submodel], description=text, total=None, completed=0, figure="")

    def step(self, graph: str, done: int, total: int) -> None:
        """Show how much of the current stage of ``graph`` is done."""
        line = self._lines.get(graph.partition("/")[0])
        if line is not None:
            figure = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{done} samples"
            self._rich.update(line, completed=done, total=total or None, figure=figure)

    def finished(self, graph: str) -> None:
        """Count a graph as done."""
        self._graphs += 1
        self._rich.update(self._whole, figure=f"{self._graphs} graphs done")

    def completed(self, submodel: str) -> None:
        """Count a sub-model as done and remove its line."""
        if submodel in self._lines:
            self._rich.remove_task(self._lines.pop(submodel))
        self._rich.advance(self._whole)


def show_bundle(manifest: "Manifest", out: Path) -> None:
    """Print what was built: sub-model, graph, format, size, operators, error against the source."""
    table = Table(title=f"{out}: {manifest.preset or 'model'} for {manifest.target}")
    for heading in ("sub-model", "graph", "runs on", "format"):
        table.add_column(heading)
    for heading in ("size", "weights", "operators", "types", "error", "SQNR"):
        table.add_column(heading, justify="right")
    table.add_column("coverage")
    covered = [one.coverage for graph in manifest.graphs for one in graph.signatures]
    if any(one is not None and one.upper_bound for one in covered):
        table.caption = (
            "coverage: by lists and documented limits, an upper bound; m4c explain tells of a node"
        )
    for submodel in manifest.submodels:
        shared = sum(file.bytes for file in submodel.files if file.path.endswith("weights.bin"))
        for index, graph in enumerate(submodel.graphs):
            table.add_row(
                *_row(graph, shared, submodel.name if index == 0 else ""),
                end_section=graph is submodel.graphs[-1],
            )
    show_table(table)
    console = Console(soft_wrap=True)
    for graph in manifest.graphs:
        if graph.fallback:
            console.print(f"{graph.name} was built for {graph.processor}: {graph.fallback}")
        if graph.further:
            names = " and ".join(one.signature for one in graph.signatures)
            console.print(f"{graph.name} has signatures {names}, over the same weights")
        if graph.floats:
            reasons = Counter(graph.floats.values())
            kept = "; ".join(f"{count}: {reason}" for reason, count in sorted(reasons.items()))
            console.print(f"{graph.name} keeps modules in float ({kept})")
        found = graph.verification.sqnr_db
        if graph.calibration and found is not None and found < NOTABLE_DB:
            console.print(f"{graph.name} has {found:.1f} dB, less than {NOTABLE_DB:g}: try your task on it")
    for line in _calibrations(manifest):
        console.print(line)
    for form, title in (("onnx", "ONNX"), ("tflite", "TFLite")):
        types = set().union(*(graph.operators for graph in manifest.graphs if graph.format == form))
        if types:
            console.print(f"{len(types)} {title} operator types in all: {' '.join(sorted(types))}")


def show_bundles(made: "Mapping[str, Manifest | M4CError]", out: Path) -> None:
    """Print a row a bundle in ``out``: what is in it, where it runs, how far off it is; or why there is none."""
    table = Table(title=str(out))
    table.add_column("bundle", no_wrap=True)
    for heading in ("graphs", "for the target", "left on the CPU", "size", "error", "SQNR"):
        table.add_column(heading, justify="right")
    table.add_column("result", overflow="fold")
    for name, one in made.items():
        if isinstance(one, M4CError):
            table.add_row(name, *[""] * 6, f"exit code {one.exit_code}: {one.what}")
            continue
        graphs = [sign for graph in one.graphs for sign in graph.signatures]
        covered = [graph.coverage.nodes for graph in graphs if graph.coverage is not None]
        left, every = (sum(getattr(n, key) for n in covered) for key in ("delegated", "all"))
        sqnr = [graph.verification.sqnr_db for graph in graphs if graph.verification.sqnr_db is not None]
        table.add_row(
            name,
            str(len(one.graphs)),
            str(sum(graph.processor == one.target for graph in one.graphs)),
            f"{every - left} of {every} nodes",
            _size(sum(file.bytes for file in one.files())),
            f"{max(graph.verification.max_relative_error for graph in graphs):.1e}",
            f"{min(sqnr):.1f} dB" if sqnr else "exact",
            "done",
        )
    show_table(table)


def _calibrations(manifest: "Manifest") -> list[str]:
    """Return what integer graphs were calibrated on, those together that have it in common."""
    names: dict[str, list[str]] = {}
    for graph in manifest.graphs:
        if graph.calibration:
            names.setdefault(graph.calibration, []).append(graph.name)
    return [
        f"{held[0]} was calibrated on {samples}"
        if len(held) == 1
        else f"{len(held)} graphs were calibrated on {samples}"
        for samples, held in names.items()
    ]


def _row(graph: "GraphRecord", shared: int, submodel: str) -> tuple[str, ...]:
    """Return the cells of a graph."""
    found = [one.verification for one in graph.signatures]
    sqnr = [one.sqnr_db for one in found if one.sqnr_db is not None]
    return (
        submodel,
        graph.name.partition("/")[2],
        graph.processor,
        f"{graph.format} {graph.precision}",
        _size(graph.file.bytes),
        f"{_size(shared)} shared" if graph.format == "onnx" and shared and submodel else "",
        str(sum(graph.operators.values())),
        str(len(graph.operators)),
        f"{max(one.max_relative_error for one in found):.1e}",
        f"{min(sqnr):.1f} dB" if sqnr else "exact",
        _coverage([one.coverage for one in graph.signatures if one.coverage is not None]),
    )


def _coverage(found: "Sequence[CoverageRecord]") -> str:
    """Return what of an artifact runs on its target, in few words; of several signatures, of that which runs least."""
    if not found:
        return ""
    least = min(found, key=lambda one: one.nodes.delegated / max(1, one.nodes.all))
    left = least.nodes.all - least.nodes.delegated
    if left:
        return f"{left} of {least.nodes.all} left on the CPU"
    partitions = f"{least.partitions} partition{'' if least.partitions == 1 else 's'}"
    return f"{least.nodes.all}/{least.nodes.all} nodes, {partitions}"


def _size(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def show_table(table: Table) -> None:
    """Print a table as wide as the terminal, or as wide as it needs where there is none."""
    console = Console()
    Console(width=None if console.is_terminal else WIDE).print(table)


WIDE = 160
"""Columns of a table that goes to a file or a pipe."""


def show_selftest(results: Sequence["Selftest"], as_json: bool) -> None:
    """Print the figures of a self-test."""
    if as_json:
        show_json({"graphs": [{"graph": r.graph, **_figures(r.difference)} for r in results]})
        return
    table = Table("graph", "error", "SQNR", caption="every file and every number is as it was built")
    for result in results:
        found = result.difference
        sqnr = f"{found.sqnr_db:.1f} dB" if math.isfinite(found.sqnr_db) else "exact"
        table.add_row(result.graph, f"{found.max_relative:.1e}", sqnr)
    show_table(table)


def _figures(found: "Difference") -> dict[str, float | None]:
    """Return the figures of a difference; None for the SQNR where there was no noise, or no signal."""
    return {name: x if math.isfinite(x) else None for name, x in dataclasses.asdict(found).items()}


def show_sensitivities(
    scheme: str, found: Sequence["Sensitivity"], shapes: Mapping[str, tuple[int, ...]], as_json: bool
) -> None:
    """Print what rounding costs each matrix, in the order given, and the average of its bits."""
    rows = [
        {
            "name": one.name,
            "shape": list(shapes[one.name]),
            "grid": str(one.grid),
            "sqnr_db": -10 * math.log10(one.error) if one.error else None,
            "bits": one.bits,
        }
        for one in found
    ]
    bits = sum(one.cost for one in found) / sum(one.weights for one in found)
    if as_json:
        show_json({"scheme": scheme, "bits": bits, "matrices": rows})
        return
    table = Table("matrix", "outputs × inputs", "grid", title=scheme, caption=f"{bits:.3g} bits on average")
    table.add_column("SQNR", justify="right")
    table.add_column("bits", justify="right")
    for one, row in zip(found, rows, strict=True):
        sqnr = f"{row['sqnr_db']:.1f} dB" if one.error else "as stored"
        size = " × ".join(map(str, shapes[one.name]))
        table.add_row(one.name, size, str(one.grid), sqnr, f"{one.bits:.3g}")
    show_table(table)


def show_json(table: Mapping[str, object]) -> None:
    """Print one JSON object on a line of its own."""
    sys.stdout.write(json.dumps(table, allow_nan=False) + "\n")


def show_list(kind: str, rows: Mapping[str, str], as_json: bool) -> None:
    """Print names with a line on each."""
    if as_json:
        show_json({kind: dict(rows)})
        return
    table = Table(show_header=False, box=None)
    for name, summary in rows.items():
        table.add_row(name, summary)
    show_table(table)
