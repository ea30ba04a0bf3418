"""What an adapter beside an artifact and its base agree on, and what is refused where it is loaded. Imports no torch.

A folder ``adapters/<name>`` of a bundle has, for each sub-model, ``<submodel>.adapter.json``, the contract: which bases the
adapter fits, and what fills which slots. For each graph, an ``.onnx_adapter``, or a ``.safetensors`` beside a TFLite file,
holds A and B under the names of the graph's inputs. The folder works with every bundle of the same base.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m4c.bundle import FileRecord, GraphRecord, Manifest, SubmodelRecord
from m4c.errors import BundleError, UsageError
from m4c.hashing import sha256
from m4c.json_file import read_json
from m4c.record import from_json

Array = np.ndarray

INTERFACE = 1
"""Version of what an adapter and its base agree on: the names, the shapes and the meaning of what fills a slot."""

ONNX_SUFFIX = ".onnx_adapter"


@dataclass(frozen=True)
class Filling:
    """What an adapter has for one slot: A (inputs, rank) and B (rank, outputs)."""

    module: str
    a: str
    b: str
    inputs: int
    outputs: int
    rank: int
    scale: float
    """What B was multiplied by, as PEFT means it: α/r, or α/√r where it is rank-stabilized."""


@dataclass(frozen=True)
class Part:
    """What an adapter has for one graph."""

    file: FileRecord
    """Its path is the name in the adapter's folder."""
    slots: tuple[Filling, ...]


@dataclass(frozen=True)
class Contract:
    """What an adapter promises of one sub-model."""

    interface: int
    name: str
    submodel: str
    fits: tuple[str, ...]
    """The bases that it was proved with: the SHA-256 of their weights, as in the manifest's ``base``."""
    graphs: Mapping[str, Part]


def contract_name(submodel: str) -> str:
    """Return the name of the file that has the contract of an adapter's part for ``submodel``."""
    return f"{submodel}.adapter.json"


def file_name(graph: str, file_format: str) -> str:
    """Return the name of an adapter's file for ``graph``, whose artifact is of ``file_format``."""
    suffix = ONNX_SUFFIX if file_format == "onnx" else ".safetensors"
    return f"{graph.replace('/', '.')}{suffix}"


def write_contract(path: Path, contract: Contract) -> None:
    """Write a contract, the same bytes for the same contract."""
    text = json.dumps(dataclasses.asdict(contract), indent=1, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", "utf-8")


def write_onnx_adapter(path: Path, filled: Mapping[str, Array], base: str) -> None:
    """Write an adapter for ONNX Runtime, whose version of the model is 31 bits of the base's SHA-256."""
    import onnxruntime

    made = onnxruntime.AdapterFormat()
    made.set_adapter_version(INTERFACE)
    made.set_model_version(int(base[:8], 16) & 0x7FFFFFFF)
    made.set_parameters(
        {name: onnxruntime.OrtValue.ortvalue_from_numpy(values) for name, values in sorted(filled.items())}
    )
    made.export_adapter(str(path))


def adapter_files(
    folder: Path, manifest: Manifest, graphs: Sequence[str], name: str | None
) -> dict[str, Path]:
    """Return the files of adapter ``name`` for those of ``graphs`` of the bundle at ``folder`` that it changes, checked.

    ``name`` is one of the manifest's adapters, or such a folder of another bundle; None: no adapter.

    Raises:
        UsageError: if there is no such adapter, or it changes none of ``graphs``.
        BundleError: if a file is missing or altered, or the adapter is of another version of the interface, for another base,
            or for slots that its graph does not have.
    """
    if name is None:
        return {}
    found: dict[str, Path] = {}
    for graph in graphs:
        submodel = manifest.submodel(graph.partition("/")[0])
        path = _contract_file(folder, submodel, name)
        if path is None:
            continue
        contract = _read(path)
        _check_base(contract, submodel, path)
        if graph in contract.graphs:
            part = contract.graphs[graph]
            found[graph] = _whole(path.parent, part.file, path.parent)
            _check_slots(part, manifest.graph(graph), path)
    if not found:
        known = sorted({one.name for submodel in manifest.submodels for one in submodel.adapters})
        raise UsageError(
            f"the bundle has no adapter {name} for {', '.join(graphs)}",
            fix=f"it has {', '.join(known) or 'none'}; or give a folder with an adapter for its base",
        )
    return found


def _contract_file(folder: Path, submodel: SubmodelRecord, name: str) -> Path | None:
    """Return the contract of adapter ``name``: as the manifest vouches for it, or in a folder elsewhere; None if it has none.

    Raises:
        BundleError: if it was altered, or a folder is none that m4c wrote.
    """
    record = next((one for one in submodel.adapters if one.name == name), None)
    if record is not None:
        return _whole(folder, record.contract, folder)
    elsewhere = Path(name)
    if elsewhere.is_dir() and not any(elsewhere.glob(contract_name("*"))):
        raise BundleError(
            f"there is no {contract_name(submodel.name)} in it",
            where=name,
            fix="give a whole folder adapters/NAME of a bundle; what PEFT saved is exported first",
        )
    path = elsewhere / contract_name(submodel.name)
    return path if path.is_file() else None


def _whole(folder: Path, file: FileRecord, where: Path) -> Path:
    """Return the path of a file in ``folder``, which is as it was written."""
    path = folder / file.path
    inside = path.resolve().is_relative_to(folder.resolve())
    if not inside or not path.is_file() or path.stat().st_size != file.bytes or sha256(path) != file.sha256:
        raise BundleError(
            f"{file.path} is missing or was altered", where=str(where), fix="copy the whole folder again"
        )
    return path


def _read(path: Path) -> Contract:
    """Read a contract of the version that this m4c knows."""
    try:
        table = read_json(path)
        if isinstance(table, dict) and table.get("interface") != INTERFACE:
            raise BundleError(
                f"the adapter has version {table.get('interface')} of the interface, this m4c reads {INTERFACE}",
                where=str(path),
                fix="export the adapter again, with the m4c that runs it",
            )
        return from_json(Contract, table)
    except ValueError as error:
        raise BundleError(
            f"the adapter's contract is damaged: {error}", where=str(path), fix="copy the whole folder again"
        ) from error


def _check_base(contract: Contract, submodel: SubmodelRecord, path: Path) -> None:
    """Raise unless a contract is for this base and its version of the interface."""
    if not submodel.base:
        raise BundleError(
            f"{submodel.name} of this bundle has no slots for adapters",
            where=str(path),
            fix="export the base with this adapter and --adapters separate",
        )
    if submodel.interface != contract.interface:
        raise BundleError(
            f"the adapter has version {contract.interface} of the interface, {submodel.name} of this bundle "
            f"has {submodel.interface}",
            where=str(path),
            fix="export both again",
        )
    if submodel.base not in contract.fits:
        raise BundleError(
            f"the adapter was made for another base than {submodel.name} of this bundle "
            f"({' or '.join(one[:12] for one in contract.fits)}, not {submodel.base[:12]})",
            where=str(path),
            fix="export the adapter together with this base",
        )


def _check_slots(part: Part, graph: GraphRecord, path: Path) -> None:
    """Raise unless ``graph`` has every slot that an adapter fills, of its sizes and for its rank."""
    known = {slot.module: slot for slot in graph.slots}
    for own in part.slots:
        slot = known.get(own.module)
        if slot is None:
            raise BundleError(
                f"{graph.name} has no slot for {own.module}",
                where=str(path),
                fix="export the base with this adapter, so that it gets the slots",
            )
        if (own.a, own.b, own.inputs, own.outputs) != (slot.a, slot.b, slot.inputs, slot.outputs):
            raise BundleError(
                f"{own.module} is {own.inputs} → {own.outputs} in the adapter and {slot.inputs} → {slot.outputs} in "
                f"{graph.name}",
                where=str(path),
                fix="export the adapter again, together with this base",
            )
        if slot.rank_limit is not None and own.rank > slot.rank_limit:
            raise BundleError(
                f"{own.module} takes a rank of up to {slot.rank_limit} in {graph.name}, the adapter has {own.rank}",
                where=str(path),
                fix=f"export the base with --rank-limit {own.rank}, or together with this adapter",
            )
