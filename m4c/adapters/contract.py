"""What an adapter beside an artifact promises, and what is refused where it is loaded. Imports no torch.

An ``.onnx_adapter``, or a ``.safetensors`` beside a TFLite file, holds A and B of its slots, under the names of the graph's
inputs, and tells its base.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m4c.bundle import GraphRecord, Manifest, SubmodelRecord
from m4c.errors import BundleError, UsageError
from m4c.hashing import sha256

Array = np.ndarray

VERSION = 1
"""Of what m4c puts into an ``.onnx_adapter``."""

ONNX_SUFFIX = ".onnx_adapter"

BASE = "base"
"""Under which a ``.safetensors`` has the SHA-256 of its base."""


def base_number(base: str) -> int:
    """Return the 31 bits of a base's SHA-256 that an ``.onnx_adapter`` keeps as its model's version."""
    return int(base[:8], 16) & 0x7FFFFFFF


def write_onnx_adapter(path: Path, filled: Mapping[str, Array], base: str) -> None:
    """Write an adapter for ONNX Runtime."""
    import onnxruntime

    made = onnxruntime.AdapterFormat()
    made.set_adapter_version(VERSION)
    made.set_model_version(base_number(base))
    made.set_parameters(
        {name: onnxruntime.OrtValue.ortvalue_from_numpy(values) for name, values in sorted(filled.items())}
    )
    made.export_adapter(str(path))


def adapter_files(
    folder: Path, manifest: Manifest, graphs: Sequence[str], name: str | None
) -> dict[str, Path]:
    """Return the files of adapter ``name`` for those of ``graphs`` of the bundle at ``folder`` that it changes, checked.

    ``name`` is one of the manifest's adapters, or a folder of files that were made for the same base; None: no adapter.

    Raises:
        UsageError: if there is no such adapter, or it changes none of ``graphs``.
        BundleError: if a file is missing, altered, of another base, or for slots that its graph does not have.
    """
    if name is None:
        return {}
    found: dict[str, Path] = {}
    for graph in graphs:
        submodel = manifest.submodel(graph.partition("/")[0])
        path = _file(folder, submodel, graph, manifest.graph(graph).format, name)
        if path is not None:
            _check(path, submodel, manifest.graph(graph))
            found[graph] = path
    if not found:
        known = sorted({one.name for submodel in manifest.submodels for one in submodel.adapters})
        raise UsageError(
            f"the bundle has no adapter {name} for {', '.join(graphs)}",
            fix=f"it has {', '.join(known) or 'none'}; or give a folder with an adapter for its base",
        )
    return found


def _file(folder: Path, submodel: SubmodelRecord, graph: str, file_format: str, name: str) -> Path | None:
    """Return the file of adapter ``name`` for ``graph``: as the manifest vouches for it, or in a folder elsewhere."""
    record = next((one for one in submodel.adapters if one.name == name), None)
    if record is None:
        path = Path(name) / file_name(graph, file_format)
        return path if path.is_file() else None
    file = record.files.get(graph)
    if file is None:
        return None
    path = folder / file.path
    if not path.is_file() or path.stat().st_size != file.bytes or sha256(path) != file.sha256:
        raise BundleError(
            f"{file.path} is missing or was altered", where=str(folder), fix="copy the whole bundle again"
        )
    if record.base != submodel.base:
        raise _other_base(path, submodel)
    return path


def file_name(graph: str, file_format: str) -> str:
    """Return the name of an adapter's file for ``graph``, whose artifact is of ``file_format``."""
    suffix = ONNX_SUFFIX if file_format == "onnx" else ".safetensors"
    return f"{graph.replace('/', '.')}{suffix}"


def _other_base(path: Path, submodel: SubmodelRecord) -> BundleError:
    return BundleError(
        f"the adapter was made for another base than {submodel.name} of this bundle",
        where=str(path),
        fix="export the adapter together with this base",
    )


def _check(path: Path, submodel: SubmodelRecord, graph: GraphRecord) -> None:
    """Raise unless the adapter at ``path`` is for this base and fills slots of ``graph`` alone."""
    read = _read_onnx_adapter if path.suffix == ONNX_SUFFIX else _read_safetensors
    try:
        is_for, shapes = read(path)
    except Exception as error:  # ONNX Runtime has no narrower base of its errors
        raise BundleError(
            f"not a readable adapter: {str(error).splitlines()[0]}", where=str(path), fix="copy it again"
        ) from error
    if not submodel.base or not is_for(submodel.base):
        raise _other_base(path, submodel)
    _check_slots(shapes, graph, path)


_Read = tuple[Callable[[str], bool], dict[str, tuple[int, ...]]]
"""Whether an adapter is for a base, and the shapes that it holds."""


def _read_onnx_adapter(path: Path) -> _Read:
    import onnxruntime

    opened = onnxruntime.AdapterFormat.read_adapter(str(path))
    number = opened.get_model_version()
    shapes = {name: tuple(value.shape()) for name, value in opened.get_parameters().items()}
    return lambda base: base_number(base) == number, shapes


def _read_safetensors(path: Path) -> _Read:
    from safetensors import safe_open

    with safe_open(path, "numpy") as opened:
        stated = (opened.metadata() or {}).get(BASE)
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return lambda base: base == stated, shapes


def _check_slots(shapes: Mapping[str, tuple[int, ...]], graph: GraphRecord, path: Path) -> None:
    """Raise unless ``shapes`` are pairs that fit slots of ``graph``."""
    known: dict[str, tuple[Any, ...]] = {}
    for slot in graph.slots:
        rank = shapes.get(slot.a, (0, 0))[-1]
        known |= {slot.a: (slot.inputs, rank), slot.b: (rank, slot.outputs)}
    extra = sorted(set(shapes) - set(known))
    if extra:
        raise BundleError(
            f"{graph.name} has no slot for {extra[0]}",
            where=str(path),
            fix="export the base with this adapter, so that it gets the slots",
        )
    for slot in graph.slots:
        rank = shapes.get(slot.a, (0, 0))[-1]
        if slot.rank_limit is not None and rank > slot.rank_limit:
            raise BundleError(
                f"{slot.module} takes a rank of up to {slot.rank_limit} in {graph.name}, the adapter has {rank}",
                where=str(path),
                fix="export the base with this adapter, so that its slots are large enough",
            )
    for name, shape in shapes.items():
        half = sum(shapes.keys() >= {slot.a, slot.b} for slot in graph.slots if name in (slot.a, slot.b))
        if shape != known[name] or not half:
            raise BundleError(
                f"{name} is {list(shape)}, which does not fit its slot in {graph.name}",
                where=str(path),
                fix="export the adapter again",
            )
