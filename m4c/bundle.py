"""The bundle: a folder of artifacts with a manifest that tells a device runner everything, and hashes that tell it is whole.

It is built under another name and renamed when it is complete, so nothing that looks like a bundle is ever half one. Nothing in
it depends on time, machine or path: equal compiles give equal bytes.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from m4c.errors import BundleError
from m4c.hashing import sha256
from m4c.json_file import read_json
from m4c.record import from_json
from m4c.tasks import Route

SCHEMA = 1
MANIFEST = "manifest.json"


def host_folder(bundle: Path, submodel: str) -> Path:
    """Return where the bundle keeps the files that the host needs for a sub-model, such as its tokenizer."""
    return bundle / "host" / submodel


@dataclass(frozen=True)
class PortRecord:
    """An input or output of an artifact, as a runner sees it."""

    name: str
    dtype: str
    """What the source takes or gives."""
    shape: tuple[int | str, ...]
    meaning: str
    host: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] | None = None
    """Of an integer artifact: stored dtype, scale and zero point; ``real = (stored − zero_point) · scale``."""


@dataclass(frozen=True)
class FileRecord:
    """A file of the bundle, by its path within it."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class VerificationRecord:
    """How far the artifact was from its source when it was built."""

    reference: str
    inputs: str
    max_absolute_error: float
    max_relative_error: float
    sqnr_db: float | None
    """None where there was no noise, or no signal."""
    allowed: str
    min_sqnr_db: float | None = None
    """The bound of an integer artifact, where the user set one."""
    kernel_steps: float | None = None
    """Of a TFLite artifact with rounded weights, whose products the other figures have in float: the root mean square by which
    LiteRT's own product differs from that, in steps of the 8 bits that it rounds activations to; 0.29 is rounding alone."""
    runtime_sqnr_db: float | None = None
    """The SQNR of the same as LiteRT runs it; None if it was too large to be run at once."""


@dataclass(frozen=True)
class SlotRecord:
    """Where a graph takes an adapter: ``x·W`` becomes ``x·W + (x·A)·B``, the scale being part of B.

    A (inputs, rank) and B (rank, outputs) are float32 inputs of the graph under these names. In ONNX they may be left out;
    in TFLite zeros say that there is none.
    """

    module: str
    a: str
    b: str
    inputs: int
    outputs: int
    rank_limit: int | None = None
    """The rank that A and B always have, zeros after the adapter's own; None where any rank is taken."""


@dataclass(frozen=True)
class AdapterProofRecord:
    """How far a graph with an adapter was from its source with merged weights, and from itself without the adapter."""

    max_absolute_error: float
    max_relative_error: float
    allowed: str
    effect_db: float | None
    """SQNR of the outputs without the adapter, taken for those with it: the less, the more it does."""


@dataclass(frozen=True)
class AdapterRecord:
    """An adapter beside the graphs of a sub-model."""

    name: str
    sha256: str
    """Of the file that it was read from."""
    parameters: int
    contract: FileRecord
    """Which bases and slots it is for (:class:`m4c.adapters.contract.Contract`)."""
    files: Mapping[str, FileRecord]
    """Graph → the file that fills its slots."""
    verification: Mapping[str, AdapterProofRecord]
    """By graph."""


@dataclass(frozen=True)
class MergedRecord:
    """An adapter that is part of the weights."""

    name: str
    weight: float
    sha256: str
    """Of the file that it was read from."""
    parameters: int


@dataclass(frozen=True)
class HostRecord:
    """What the CPU does before the accelerator: a file of its own, in the same format."""

    file: FileRecord
    inputs: tuple[str, ...]
    """Which inputs of the graph it takes; the others go to the graph's own file."""
    outputs: tuple[PortRecord, ...]
    """What it gives to inputs of the same names of the graph's own file."""
    operators: Mapping[str, int]
    """The operators of the file and how many there are."""


@dataclass(frozen=True)
class ShareRecord:
    """How much of something a target runs: nodes, or multiply-accumulates."""

    all: int
    legal: int
    """Of nodes that the target runs if each is asked by itself."""
    delegated: int
    """Of nodes that it runs, as its runtime cuts the graph."""


@dataclass(frozen=True)
class BreakRecord:
    """The first node in execution order that does not run on the target, and why."""

    node: int
    operator: str
    where: str
    """The module that it comes from, or its name."""
    reasons: tuple[str, ...]
    fix: str
    """What mends the first of them."""


@dataclass(frozen=True)
class CoverageRecord:
    """What of an artifact runs on the processor that it was built for."""

    runtime: str
    outcome: str
    """``whole``, ``split`` or ``refused``."""
    nodes: ShareRecord
    macs: ShareRecord
    partitions: int
    first_break: BreakRecord | None
    refused: str | None
    """Why the target takes nothing of it, if it does."""
    evidence: str
    upper_bound: bool
    """Whether a runtime may take less, since it was not asked: lists and documented limits decided."""


@dataclass(frozen=True)
class SignatureRecord:
    """One more signature of a TFLite file: what is its own in the record of a graph."""

    inputs: tuple[PortRecord, ...]
    outputs: tuple[PortRecord, ...]
    operators: Mapping[str, int]
    verification: VerificationRecord
    vector: FileRecord
    sizes: Mapping[str, int]
    coverage: CoverageRecord | None = None


@dataclass(frozen=True)
class GraphRecord:
    """One artifact."""

    name: str
    file: FileRecord
    format: str
    precision: str
    processor: str
    """The target it was built for; another than the bundle's where it fell back."""
    fallback: str | None
    """Why it fell back."""
    pipeline: str
    inputs: tuple[PortRecord, ...]
    outputs: tuple[PortRecord, ...]
    operators: Mapping[str, int]
    verification: VerificationRecord
    calibration: str | None
    """What activation ranges were observed on, for integer artifacts."""
    vector: FileRecord
    """A pair of inputs and the source's outputs, for self-tests on a device."""
    floats: Mapping[str, str] = field(default_factory=dict)
    """Module → why its weights stay float, where weights are rounded."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """The dimensions that have names in the model and are numbers here, such as the steps of a cache that does not grow."""
    cache: str = "float32"
    """What its caches are stored in."""
    signature: str = ""
    """Which signature of a TFLite file ports, sizes, operators, verification and vector are of; an ONNX file has none."""
    host: HostRecord | None = None
    """What the CPU does before, where not all of the graph is the accelerator's."""
    coverage: CoverageRecord | None = None
    """What of it runs on the processor it was built for; None where that takes no graphs of this format."""
    origins: FileRecord | None = None
    """Which module and which ONNX operator each of its values comes from."""
    further: Mapping[str, SignatureRecord] = field(default_factory=dict)
    """The other signatures of the file, over the same weights."""
    slots: tuple[SlotRecord, ...] = ()
    """Where it takes adapters."""

    @property
    def signatures(self) -> "tuple[GraphRecord, ...]":
        """This record once for each signature of the file, as if that was the only one."""
        others = (
            replace(self, signature=name, further={}, **{f.name: getattr(one, f.name) for f in fields(one)})
            for name, one in self.further.items()
        )
        return (replace(self, further={}), *others)

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """The files of this graph alone."""
        host = (self.host.file,) if self.host is not None else ()
        origins = (self.origins,) if self.origins is not None else ()
        return (self.file, *host, *origins, *(one.vector for one in self.signatures))


@dataclass(frozen=True)
class SubmodelRecord:
    """A sub-model: where its weights came from, and the files that its graphs share."""

    name: str
    weights: str
    licence: str
    files: tuple[FileRecord, ...]
    host: Mapping[str, Any]
    """What the host needs to run it beside the ports' own: token ids to suppress, say."""
    graphs: tuple[GraphRecord, ...]
    base: str = ""
    """SHA-256 of the weights that adapters beside them are for."""
    interface: int = 0
    """Version of what its slots and adapters agree on; 0 where it has none."""
    adapters: tuple[AdapterRecord, ...] = ()
    """Adapters beside the graphs."""
    merged: tuple[MergedRecord, ...] = ()
    """Adapters in the weights, in order."""

    @property
    def own_files(self) -> tuple[FileRecord, ...]:
        """The files that belong to no single graph."""
        beside = (file for one in self.adapters for file in (one.contract, *one.files.values()))
        return (*self.files, *beside)

    @property
    def all_files(self) -> tuple[FileRecord, ...]:
        """Its own files and those of its graphs."""
        return (*self.own_files, *(file for graph in self.graphs for file in graph.files))


@dataclass(frozen=True)
class Manifest:
    """The whole record, as ``manifest.json`` holds it."""

    preset: str | None
    target: str
    tools: Mapping[str, str]
    submodels: tuple[SubmodelRecord, ...]
    routes: Mapping[str, Route]
    """How each task is done whose graphs are all here, by the paper's number."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The options that it was exported with, and what else was given: see :mod:`m4c.rebuild`."""
    schema: int = SCHEMA

    @property
    def graphs(self) -> tuple[GraphRecord, ...]:
        """All graphs of all sub-models."""
        return tuple(graph for submodel in self.submodels for graph in submodel.graphs)

    def files(self) -> Iterator[FileRecord]:
        """Yield every file that the manifest vouches for."""
        for submodel in self.submodels:
            yield from submodel.all_files

    def submodel(self, name: str) -> SubmodelRecord:
        """Return the record of a sub-model.

        Raises:
            BundleError: if the bundle has none of that name.
        """
        for submodel in self.submodels:
            if submodel.name == name:
                return submodel
        raise BundleError(
            f"the bundle has no {name}", fix=f"it has: {', '.join(s.name for s in self.submodels)}"
        )

    def graph(self, name: str) -> GraphRecord:
        """Return the record of a graph.

        Raises:
            BundleError: if the bundle has none of that name.
        """
        for graph in self.graphs:
            if graph.name == name:
                return graph
        raise BundleError(
            f"the bundle has no {name}", fix=f"it has: {', '.join(g.name for g in self.graphs)}"
        )


def record_file(folder: Path, path: Path) -> FileRecord:
    """Return the record of ``path``, which lies in the bundle at ``folder``."""
    return FileRecord(path.relative_to(folder).as_posix(), path.stat().st_size, sha256(path))


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``manifest.json``, the same bytes for the same manifest."""
    text = json.dumps(
        dataclasses.asdict(manifest), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False
    )
    (folder / MANIFEST).write_text(text + "\n", "utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the bundle at ``folder``; no other file is looked at.

    Raises:
        BundleError: if there is none, it is damaged, of another schema, or names a file outside the bundle.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}", fix=f"make one with m4c export -o {folder}"
        )
    try:
        table = read_json(path)
        if isinstance(table, dict) and table.get("schema") != SCHEMA:
            raise BundleError(
                f"the manifest has schema {table.get('schema')}, this m4c reads {SCHEMA}",
                where=str(path),
                fix="use the m4c that made it, or export again",
            )
        manifest = from_json(Manifest, table)
    except ValueError as error:
        raise BundleError(f"the manifest is damaged: {error}", where=str(path), fix="export again") from error
    root = folder.resolve()
    for file in manifest.files():
        if not (root / file.path).resolve().is_relative_to(root):
            raise BundleError(
                f"the manifest names a file outside the bundle: {file.path}",
                where=str(path),
                fix="export again",
            )
    return manifest


def check_files(manifest: Manifest, folder: Path) -> None:
    """Check every file of the bundle against its hash.

    Raises:
        BundleError: naming the first file that is missing or altered.
    """
    for file in manifest.files():
        path = folder / file.path
        if not path.is_file():
            raise BundleError(
                f"{file.path} is missing", where=str(folder), fix="copy the whole bundle, or export again"
            )
        if path.stat().st_size != file.bytes or sha256(path) != file.sha256:
            raise BundleError(
                f"{file.path} was altered", where=str(folder), fix="copy it again, or export again"
            )
