"""An artifact and all that is known of it, and how that is written into the bundle."""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from m4c.adapters.proof import Proof
from m4c.bundle import (
    CoverageRecord,
    GraphRecord,
    HostRecord,
    PortRecord,
    SignatureRecord,
    SlotRecord,
    VerificationRecord,
    record_file,
)
from m4c.cache import narrowed, scale_of
from m4c.calibration import Samples
from m4c.models.graph import Port
from m4c.numerics import held_to
from m4c.operator_reports.coverage import of_graphs, of_model
from m4c.origins import origins_of, write_origins
from m4c.pipeline import Note, Pipeline
from m4c.plan import Plan
from m4c.precisions import BITS
from m4c.runners import host_file
from m4c.slots import Slot
from m4c.source import Source, TorchSource
from m4c.targets.emit_tflite import TensorPort, read_ports
from m4c.targets.read_tflite import read_tflite
from m4c.verify import Verification


@dataclass(frozen=True)
class Built:
    """One signature of an artifact: the source at its sizes, the model that was emitted, and how it was verified."""

    source: Source
    model: ir.Model
    verification: Verification


@dataclass(frozen=True)
class Artifact:
    """What was built of one graph."""

    plan: Plan
    pipeline: Pipeline
    path: Path
    built: Mapping[str, Built]
    """By the names of the signatures; the first is the artifact's own."""
    min_sqnr: float | None
    samples: Samples | None
    floats: tuple[Note, ...] = ()
    """Where weights stay float that could be rounded, and why."""
    slots: tuple[Slot, ...] = ()
    """Where it takes adapters."""
    proofs: Mapping[str, Proof] = field(default_factory=dict)
    """What was proved of each adapter that changes it, by name."""
    coverage: Mapping[str, CoverageRecord] = field(default_factory=dict)
    """What of each signature runs on the processor, if that takes such graphs."""

    @property
    def name(self) -> str:
        """The name of the graph."""
        return next(iter(self.built.values())).source.name


def record_artifact(artifact: Artifact, folder: Path) -> GraphRecord:
    """Return the manifest's record of an artifact, and write its test vectors."""
    records = {
        name: _signature(artifact, name, counts, folder, f".{name}" if number else "")
        for number, (name, counts) in enumerate(_operators(artifact).items())
    }
    (signature, first), *further = records.items()
    origins = folder / "origins" / Path(first.vector.path).with_suffix(".json").name
    origins.parent.mkdir(exist_ok=True)
    write_origins(origins, {name: origins_of(one.model) for name, one in artifact.built.items()})
    return GraphRecord(
        name=artifact.name,
        file=record_file(folder, artifact.path),
        format=artifact.plan.format,
        precision=artifact.plan.precision,
        processor=artifact.plan.processor,
        fallback=artifact.plan.fallback,
        floats={note.where: note.text for note in artifact.floats},
        pipeline=str(artifact.pipeline),
        cache=artifact.plan.cache,
        calibration=artifact.samples.described if artifact.samples else None,
        signature=signature,
        host=_host(artifact.path, folder),
        origins=record_file(folder, origins),
        further=dict(further),
        slots=tuple(SlotRecord(s.module, s.down, s.up, s.inputs, s.outputs, s.limit) for s in artifact.slots),
        **{one.name: getattr(first, one.name) for one in fields(first)},
    )


def _host(path: Path, folder: Path) -> HostRecord | None:
    """Return the record of what the CPU does before the artifact at ``path``, if there is something."""
    file = host_file(path)
    if not file.is_file():
        return None
    ports = read_ports(file)
    outputs = (
        PortRecord(port.name, "float32", port.shape, "rows that the host looked up", {}, _stored_as(port))
        for port in ports.outputs
    )
    return HostRecord(
        record_file(folder, file),
        tuple(port.name for port in ports.inputs),
        tuple(outputs),
        of_graphs(read_tflite(file)),
    )


def _operators(artifact: Artifact) -> dict[str, Mapping[str, int]]:
    """Return how often each operator is in each signature of the file: TFLite's operators, or ONNX's."""
    if artifact.path.suffix == ".tflite":
        graphs = read_tflite(artifact.path)
        return {name: of_graphs([graph]) for name, graph in zip(artifact.built, graphs, strict=True)}
    return {name: of_model(name, one.model).counts for name, one in artifact.built.items()}


def _signature(
    artifact: Artifact, name: str, operators: Mapping[str, int], folder: Path, suffix: str
) -> SignatureRecord:
    """Return the record of a signature, and write its test vector, whose name ends in ``suffix``."""
    source, found = artifact.built[name].source, artifact.built[name].verification
    vector = folder / "vectors" / f"{source.name.replace('/', '.')}{suffix}.safetensors"
    vector.parent.mkdir(exist_ok=True)
    _write_vector(
        vector, {f"{side}.{k}": v for side in ("inputs", "outputs") for k, v in getattr(found, side).items()}
    )
    stored = _stored_ports(artifact.path, name)
    figures = found.difference
    return SignatureRecord(
        sizes=dict(source.sizes),
        inputs=tuple(_port(port, stored) for port in _at_border(source.inputs, source, artifact.plan.cache)),
        outputs=tuple(
            _port(port, stored) for port in _at_border(source.outputs, source, artifact.plan.cache)
        ),
        operators=operators,
        verification=VerificationRecord(
            reference=_reference(source, artifact.plan.precision),
            inputs=artifact.samples.verified if artifact.samples else "random inputs",
            max_absolute_error=figures.max_absolute,
            max_relative_error=figures.max_relative,
            sqnr_db=_finite(figures.sqnr_db),
            allowed=figures.allowed(held_to(artifact.plan.precision, artifact.plan.cache), artifact.min_sqnr),
            min_sqnr_db=artifact.min_sqnr,
            kernel_steps=found.steps,
            runtime_sqnr_db=_finite(found.whole_db),
        ),
        vector=record_file(folder, vector),
        coverage=artifact.coverage.get(name),
    )


DTYPES = {"float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int8": "I8", "bool": "BOOL"}
"""What safetensors calls the dtypes of ports."""


def _write_vector(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` as safetensors, one at a time: caches of a large model are as large as anything here."""
    table, end = {}, 0
    for name, values in arrays.items():
        table[name] = {
            "dtype": DTYPES[str(values.dtype)],
            "shape": list(values.shape),
            "data_offsets": [end, end + values.nbytes],
        }
        end += values.nbytes
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for values in arrays.values():
            file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def _finite(decibels: float | None) -> float | None:
    """Return a ratio as JSON has it: None where there was no noise, or no signal."""
    return decibels if decibels is not None and math.isfinite(decibels) else None


def _at_border(ports: Sequence[Port], source: Source, cache: str) -> Iterator[Port]:
    """Yield ``ports`` with caches as they are stored, each followed by the port of its scales if it has one."""
    both = narrowed(cache, source.inputs, source.outputs)
    caches = {port.name for pair in both for port in pair}
    for port in ports:
        if port.name not in caches:
            yield port
        elif cache != "int8":
            yield replace(port, dtype=cache)
        else:
            scale = scale_of(port.name)
            yield replace(port, dtype=cache, meaning=f"{port.meaning}; real = code · {scale}")
            yield Port(scale, "float32", (*port.shape[:3], 1), f"scale of each step and head of {port.name}")


def _reference(source: Source, precision: str) -> str:
    """Return what the artifact was held against."""
    if precision in BITS:
        return "eager torch with the weights as stored; the SQNR is against those of the checkpoint"
    return "eager torch" if isinstance(source, TorchSource) else "ONNX Runtime on the source file"


def _stored_ports(path: Path, signature: str) -> Mapping[str, Any]:
    """Return how the tensors at the border of a signature of a TFLite file are stored, by name."""
    if path.suffix != ".tflite":
        return {}
    files = [read_ports(path, signature)]
    if host_file(path).is_file():
        files.append(read_ports(host_file(path)))
    return {port.name: port for ports in files for port in (*ports.inputs, *ports.outputs)}


def _port(port: Port, stored: Mapping[str, Any]) -> PortRecord:
    """Return the manifest's record of a port."""
    kept = stored.get(port.name)
    quantization = _stored_as(kept) if kept is not None else None
    return PortRecord(port.name, port.dtype, port.shape, port.meaning, dict(port.host), quantization)


def _stored_as(port: TensorPort) -> dict[str, Any] | None:
    """Return how the integers of a port are meant, None where it holds no such."""
    if port.scale is None:
        return None
    return {"dtype": port.dtype, "scale": port.scale, "zero_point": port.zero_point}
