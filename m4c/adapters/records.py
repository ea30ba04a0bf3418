"""What the manifest says of adapters, and the files that go with it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m4c.adapters.contract import file_name
from m4c.adapters.folder import Adapter
from m4c.adapters.separate import factors, write
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
    base = weights[0].sha256 if weights else sha256(artifacts[0].path)
    beside = tuple(_beside(adapter, artifacts, base, folder) for adapter in adapters)
    return {"base": base, "adapters": beside}


def _digest(adapter: Adapter) -> str:
    assert adapter.file is not None
    return sha256(adapter.file)


def _beside(adapter: Adapter, artifacts: Sequence[Artifact], base: str, folder: Path) -> AdapterRecord:
    """Write the files of an adapter, one for each graph that it changes."""
    changed = [artifact for artifact in artifacts if adapter.name in artifact.proofs]
    files = {}
    for artifact in changed:
        path = folder / "adapters" / adapter.name / file_name(artifact.name)
        write(path, factors(adapter, artifact.slots), base)
        files[artifact.name] = record_file(folder, path)
    return AdapterRecord(
        adapter.name,
        _digest(adapter),
        adapter.parameters,
        base,
        files,
        {artifact.name: _proof(adapter, artifact) for artifact in changed},
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
