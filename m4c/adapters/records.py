"""What the manifest says of adapters, and the files that go with it."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m4c.adapters.contract import (
    INTERFACE,
    Contract,
    Filling,
    Part,
    contract_name,
    file_name,
    write_contract,
)
from m4c.adapters.folder import Adapter
from m4c.adapters.separate import factors, fillings, write
from m4c.artifact import Artifact
from m4c.bundle import (
    AdapterProofRecord,
    AdapterRecord,
    FileRecord,
    MergedRecord,
    record_file,
)
from m4c.errors import UsageError
from m4c.hashing import sha256
from m4c.numerics import held_to
from m4c.targets.emit_tflite.flat import INLINE_BYTES, ByChannel, Tensor
from m4c.targets.emit_tflite.opened import Opened
from m4c.weights import array


def adapter_fields(
    adapters: Sequence[Adapter],
    separate: bool,
    artifacts: Sequence[Artifact],
    weights: Sequence[FileRecord],
    folder: Path,
) -> dict[str, Any]:
    """Return the fields of a sub-model's record that tell of ``adapters``; those to stay beside are written into ``folder``.

    ``weights`` are the files that its graphs share.

    Raises:
        UsageError: if an adapter changes none of the graphs.
    """
    for adapter in adapters:
        if not any(adapter.name in artifact.proofs for artifact in artifacts):
            names = ", ".join(artifact.name for artifact in artifacts)
            raise UsageError(
                f"adapter {adapter.name} changes no graph that is exported",
                where=names,
                fix="export the graphs that it was trained for, or leave it out",
            )
    if not separate:
        merged = (MergedRecord(a.name, a.weight, _digest(a), a.parameters) for a in adapters)
        return {"merged": tuple(merged)}
    base = base_of(artifacts, weights)
    beside = tuple(_beside(adapter, artifacts, base, folder) for adapter in adapters)
    return {"base": base, "interface": INTERFACE, "adapters": beside}


def base_of(artifacts: Sequence[Artifact], weights: Sequence[FileRecord]) -> str:
    """Return the SHA-256 of the weights that ``artifacts`` store in ``weights`` or, as TFLite files do, in themselves.

    It is the same whichever slots they have.
    """
    inside = [artifact for artifact in artifacts if artifact.path.suffix == ".tflite"]
    if not inside:
        return weights[0].sha256
    found = {bytes.fromhex(file.sha256) for file in weights}
    for artifact in inside:
        for tensor in Opened(artifact.path, next(iter(artifact.built))).tensors:
            if tensor.content is not None and tensor.nbytes > INLINE_BYTES:
                found.add(_stored_digest(tensor))
    return hashlib.sha256(b"".join(sorted(found))).hexdigest()


def _stored_digest(tensor: Tensor) -> bytes:
    """Return the SHA-256 of what a stored tensor holds and means."""
    digest = hashlib.sha256(f"{tensor.dtype} {tensor.shape}".encode())
    for chunk in tensor.chunks():
        digest.update(chunk)
    if isinstance(tensor.weights, ByChannel):
        digest.update(array(tensor.weights.scales).tobytes())
    return digest.digest()


def _digest(adapter: Adapter) -> str:
    assert adapter.file is not None
    return sha256(adapter.file)


def _beside(adapter: Adapter, artifacts: Sequence[Artifact], base: str, folder: Path) -> AdapterRecord:
    """Write the files of an adapter, one for each graph that it changes, and its contract."""
    own = folder / "adapters" / adapter.name
    changed = [artifact for artifact in artifacts if adapter.name in artifact.proofs]
    files, parts = {}, {}
    for artifact in changed:
        path = own / file_name(artifact.name, artifact.plan.format)
        write(path, factors(adapter, artifact.slots), base)
        files[artifact.name] = record_file(folder, path)
        parts[artifact.name] = Part(record_file(own, path), _fillings(adapter, artifact))
    submodel = changed[0].name.partition("/")[0]
    contract = own / contract_name(submodel)
    write_contract(contract, Contract(INTERFACE, adapter.name, submodel, (base,), parts))
    return AdapterRecord(
        adapter.name,
        _digest(adapter),
        adapter.parameters,
        record_file(folder, contract),
        files,
        {artifact.name: _proof(adapter, artifact) for artifact in changed},
    )


def _fillings(adapter: Adapter, artifact: Artifact) -> tuple[Filling, ...]:
    """Return what ``adapter`` fills the slots of ``artifact`` with."""
    return tuple(
        Filling(slot.module, slot.down, slot.up, slot.inputs, slot.outputs, pair.rank, pair.scale)
        for slot, pair, _ in fillings(adapter, artifact.slots)
    )


def _proof(adapter: Adapter, artifact: Artifact) -> AdapterProofRecord:
    """Return the record of what was proved of an adapter in one graph."""
    proof = artifact.proofs[adapter.name]
    found = proof.difference
    return AdapterProofRecord(
        found.max_absolute,
        found.max_relative,
        found.allowed(held_to(artifact.plan.precision, artifact.plan.cache)),
        proof.effect_db if math.isfinite(proof.effect_db) else None,
    )
