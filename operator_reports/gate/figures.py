"""What a gate and a comparison look at: the figures of every graph of a subject, small enough to be committed.

They come from placements, from a stored baseline or from the manifest of a bundle, and are the same records each time. As
JSON they are sorted and depend on nothing but the graphs, so that a change of them can be reviewed line by line.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m4c.bundle import MANIFEST, GraphRecord, Manifest, read_manifest
from m4c.errors import UsageError
from m4c.operator_reports.cost import parameter_bytes
from m4c.operator_reports.coverage import of_graphs
from m4c.operator_reports.placement import Judged, NotConverted, Placement
from m4c.record import from_json
from m4c.targets.legality import Illegal

SCHEMA = 1
"""Version of the stored file: it changes when a key is renamed, removed or means something else."""

KIND = "figures"
NOT_CONVERTED = "not converted"
SHARE = re.compile(r'\{\s+"all": (\d+),\s+"on": (\d+)\s+\}')
"""A share as ``json`` writes it, over several lines; it is stored in one."""


@dataclass(frozen=True)
class Share:
    """How much of something there is, and how much of it the target runs."""

    all: int
    on: int

    @property
    def percent(self) -> float:
        """The part that runs, in percent; all of nothing is 100."""
        return 100 * self.on / self.all if self.all else 100.0

    @property
    def left(self) -> int:
        """How much stays off the target."""
        return self.all - self.on

    def __str__(self) -> str:
        """Return the percentage and what it is of; 100 % is said of all alone."""
        shown = 100.0 if not self.left else min(self.percent, 99.99)
        return f"{shown:.4g} % ({self.on} of {self.all})"


@dataclass(frozen=True)
class GraphFigures:
    """The figures of one graph; None where one is not known."""

    format: str
    outcome: str
    """``whole``, ``split``, ``refused`` or ``not converted``; nothing where no target was asked."""
    operators: Mapping[str, int] = field(default_factory=dict)
    """How often each operator type occurs."""
    nodes: Share | None = None
    macs: Share | None = None
    """Multiply-accumulates."""
    bytes: Share | None = None
    """Bytes read and written."""
    partitions: int | None = None
    unsupported: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Operator → module → how many nodes there the target does not run, each asked by itself."""
    size: int | None = None
    """Bytes of the artifact; of a graph without one, of its parameters."""
    error: float | None = None
    """Largest difference from the source, relative to the largest output."""
    sqnr_db: float | None = None


@dataclass(frozen=True)
class Figures:
    """The figures of a subject."""

    subject: str
    """A preset, or the name of a bundle's folder or of a file."""
    target: str
    """Empty where no target was asked."""
    evidence: str
    graphs: Mapping[str, GraphFigures]
    shared: int = 0
    """Bytes of files that belong to no single graph."""
    kind: str = KIND
    schema: int = SCHEMA

    @property
    def size(self) -> int:
        """Bytes of all together."""
        return self.shared + sum(graph.size or 0 for graph in self.graphs.values())

    def operators(self) -> dict[str, set[str]]:
        """Return the operator types of all graphs, by format: names of one format are not those of another."""
        found: dict[str, set[str]] = {}
        for graph in self.graphs.values():
            if graph.operators:
                found.setdefault(graph.format, set()).update(graph.operators)
        return found


def of_judged(subject: str, target: str, found: Sequence[Judged]) -> Figures:
    """Return the figures of placements on ``target``; files and bundles add sizes and errors to them: :func:`with_files`."""
    levels = sorted({one.evidence for one in found if isinstance(one, Placement)})
    graphs = {_name(one): _graph(one) for one in found}
    return Figures(subject, target, levels[0] if levels else "table", graphs)


def _name(one: Judged) -> str:
    return one.name if isinstance(one, NotConverted) else one.graph.name


def _graph(one: Judged) -> GraphFigures:
    if isinstance(one, NotConverted):
        return GraphFigures("", NOT_CONVERTED)
    whole, taken = one.whole, one.taken
    return GraphFigures(
        format=one.graph.format,
        outcome=one.outcome,
        operators=of_graphs([one.graph]),
        nodes=Share(len(one.graph.nodes), len(one.delegated)),
        macs=Share(whole.macs, taken.macs),
        bytes=Share(whole.bytes, taken.bytes),
        partitions=len(one.cut.delegated),
        unsupported=_unsupported(one),
        size=parameter_bytes(one.graph.nodes),
    )


def _unsupported(one: Placement) -> dict[str, dict[str, int]]:
    """Return where nodes are that the target does not run, by operator and module."""
    found: dict[str, Counter[str]] = {}
    for node, verdict in zip(one.graph.nodes, one.verdicts, strict=True):
        if isinstance(verdict, Illegal):
            found.setdefault(node.operator, Counter())[node.where] += 1
    return {operator: dict(sorted(places.items())) for operator, places in sorted(found.items())}


def with_files(figures: Figures, path: Path) -> Figures:
    """Return ``figures`` of the bundle or file at ``path`` with the sizes of files, and of a bundle with its errors."""
    if not (path / MANIFEST).is_file():
        size = path.stat().st_size + external_bytes(path)
        first, *others = figures.graphs
        graphs = {
            first: dataclasses.replace(figures.graphs[first], size=size),
            **{name: dataclasses.replace(figures.graphs[name], size=0) for name in others},
        }
        return dataclasses.replace(figures, graphs=graphs)
    manifest = read_manifest(path)
    records = {record.name: record for record in manifest.graphs}
    graphs = {}
    for name, graph in figures.graphs.items():
        held, _, index = name.partition("#")
        graphs[name] = _recorded(graph, records[held].signatures[int(index or 0)], first=not int(index or 0))
    return dataclasses.replace(figures, graphs=graphs, shared=_shared(manifest))


def _recorded(graph: GraphFigures, record: GraphRecord, first: bool) -> GraphFigures:
    """Return the figures of a signature with what its record has: of the file's size the first has all."""
    return dataclasses.replace(
        graph,
        size=record.file.bytes if first else 0,
        error=float(f"{record.verification.max_relative_error:.3g}"),
        sqnr_db=None if record.verification.sqnr_db is None else round(record.verification.sqnr_db, 2),
    )


def _shared(manifest: Manifest) -> int:
    """Return the bytes of files that no single graph has."""
    return sum(file.bytes for submodel in manifest.submodels for file in submodel.own_files)


def external_bytes(path: Path) -> int:
    """Return the bytes of the files beside an ONNX file that hold its weights; of those that are not there, none."""
    from m4c.onnx_file import read_proto
    from m4c.targets.read_tflite import is_tflite

    if is_tflite(path):
        return 0
    stored = {
        entry.value
        for tensor in read_proto(path).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    beside = [path.parent / name for name in sorted(stored)]
    return sum(file.stat().st_size for file in beside if file.is_file())


def of_bundle(path: Path) -> Figures:
    """Return the figures of a bundle as its manifest has them: nothing is judged anew."""
    manifest = read_manifest(path)
    graphs = {}
    for record in manifest.graphs:
        signatures = record.signatures
        for index, one in enumerate(signatures):
            name = record.name if len(signatures) == 1 else f"{record.name}#{index}"
            graphs[name] = _recorded(_of_record(one), one, first=not index)
    return Figures(path.resolve().name, manifest.target, "", graphs, _shared(manifest))


def _of_record(record: GraphRecord) -> GraphFigures:
    covered = record.coverage
    operators = dict(sorted(record.operators.items()))
    if covered is None:
        return GraphFigures(record.format, "", operators)
    return GraphFigures(
        record.format,
        covered.outcome,
        operators,
        Share(covered.nodes.all, covered.nodes.delegated),
        Share(covered.macs.all, covered.macs.delegated),
        partitions=covered.partitions,
    )


def to_text(figures: Figures) -> str:
    """Return figures as they are stored: sorted, what is not known left out, the same text for the same figures."""
    text = json.dumps(_small(dataclasses.asdict(figures)), indent=1, sort_keys=True, ensure_ascii=False)
    return SHARE.sub(r'{"all": \1, "on": \2}', text) + "\n"


def _small(value: Any) -> Any:
    """Return a table without what is None or empty."""
    if not isinstance(value, Mapping):
        return value
    return {key: _small(held) for key, held in value.items() if held is not None and held != {}}


def from_text(text: str, where: str) -> Figures:
    """Read what :func:`to_text` wrote.

    Raises:
        UsageError: if it is damaged or of another schema.
    """
    try:
        table = json.loads(text)
        if isinstance(table, dict) and table.get("schema") != SCHEMA:
            raise UsageError(
                f"the baseline has schema {table.get('schema')}, this m4c reads {SCHEMA}",
                where=where,
                fix="use the m4c that made it, or write it again with --update-baseline",
            )
        figures = from_json(Figures, {"graphs": {}, **table} if isinstance(table, dict) else table)
        if figures.kind != KIND:
            raise ValueError(f"its kind is {figures.kind!r}, not {KIND!r}")
    except ValueError as error:
        raise UsageError(
            f"the baseline is damaged: {error}", where=where, fix="write it again with --update-baseline"
        ) from error
    return figures


def names(graphs: Iterable[str], scope: Sequence[str]) -> list[str]:
    """Return those of ``graphs`` that ``scope`` selects: sub-models and graphs by name, all if it is empty."""
    return [one for one in graphs if not scope or one in scope or one.partition("/")[0] in scope]
