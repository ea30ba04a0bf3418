"""A sub-model becomes graphs, its graphs become artifacts (:mod:`m4c.build`), and all of it a record for the manifest."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from m4c.allocator import give_back
from m4c.artifact import Artifact, record_artifact
from m4c.build import Site, compile_graph
from m4c.bundle import (
    FileRecord,
    SubmodelRecord,
    host_folder,
    record_file,
)
from m4c.checkpoints import open_checkpoint
from m4c.float_graphs import FloatGraphs
from m4c.models import shipped
from m4c.models.graph import Submodel
from m4c.progress import Progress
from m4c.request import Request
from m4c.selection import selected_graphs
from m4c.source import OnnxSource, TorchSource
from m4c.staging import begin
from m4c.weight_file import WeightFile

Opened = tuple[Submodel, Path | None, list[Any]]
"""A sub-model without weights, its checkpoint, and its sources."""


def compile_subject(request: Request, folder: Path, name: str, progress: Progress) -> SubmodelRecord:
    """Compile one of :func:`m4c.recipe.subjects` into ``folder``: a sub-model, or the ONNX file of the request."""
    if request.model is not None:
        return compile_onnx(request, request.model, folder, progress)
    return compile_submodel(request, folder, name, progress)


def compile_submodel(request: Request, folder: Path, name: str, progress: Progress) -> SubmodelRecord:
    """Compile the selected graphs of one sub-model into ``folder``; they share one file of weights."""
    progress.stage(name, "build")
    return compile_opened(request, folder, open_sources(request, name), progress)


def compile_opened(request: Request, folder: Path, opened: Opened, progress: Progress) -> SubmodelRecord:
    """Compile what :func:`open_sources` gave, or the same with other weights."""
    submodel, path, sources = opened
    name = submodel.name
    artifacts = compile_sources(request, sources, folder / "graphs" / name, progress)
    weights = _weight_files(folder, name)
    progress.completed(name)
    return SubmodelRecord(
        name=name,
        weights=_origin(path, request.seed),
        licence=_licence(path, submodel),
        files=(
            *weights,
            *_assets(path, submodel, folder),
            *_genai(request, path, sources, folder),
        ),
        host=submodel.facts(path),
        graphs=tuple(record_artifact(artifact, folder) for artifact in artifacts),
        **_adapters(request, sources, artifacts, weights, folder),
    )


def _origin(weights: Path | None, seed: int) -> str:
    """Return where weights are from, as the manifest says it."""
    if weights is None:
        return f"random, seed {seed}"
    return "checkpoint" if weights.parent != shipped.WEIGHTS else "carried by m4c"


def _licence(weights: Path | None, submodel: Submodel) -> str:
    """Return the licence of weights."""
    if weights is None:
        return "random weights: no licence"
    return submodel.licence if weights.parent != shipped.WEIGHTS else shipped.LICENCE


def open_sources(request: Request, name: str) -> Opened:
    """Return a sub-model without weights, its checkpoint, and the sources that are selected of it."""
    from m4c.adapters.folder import open_adapters
    from m4c.adapters.merge import merged
    from m4c.checkpoints.random import random_weights
    from m4c.match import match
    from m4c.models import build
    from m4c.skeleton import skeleton

    path = request.checkpoint(name)
    with skeleton():
        submodel = build(name, request.preset, path, request.context_length)
    checkpoint = open_checkpoint(path) if path else random_weights(submodel.source, request.seed)
    weights = match(submodel, checkpoint)
    facts = submodel.facts(path)
    adapters = tuple(open_adapters(request.adapters, submodel, weights))
    unmerged = None
    if request.adapters and not request.adapters.separate:
        weights, unmerged = merged(weights, adapters), weights
    sources = [
        TorchSource(graph, weights, request.dynamic, submodel, facts, unmerged, adapters)
        for graph in selected_graphs(request.submodels, submodel, request.dialect or "")
    ]
    return submodel, path, sources


def compile_onnx(request: Request, path: Path, folder: Path, progress: Progress) -> SubmodelRecord:
    """Compile an ONNX file as a sub-model of one graph."""
    name = path.stem
    artifacts = compile_sources(request, [OnnxSource(path)], folder / "graphs" / name, progress)
    graphs = tuple(record_artifact(artifact, folder) for artifact in artifacts)
    progress.completed(name)
    return SubmodelRecord(name, f"in {path.name}", "as the file's", _weight_files(folder, name), {}, graphs)


def compile_sources(request: Request, sources: list[Any], graphs: Path, progress: Progress) -> list[Artifact]:
    """Compile ``sources`` into the folder ``graphs`` of a bundle."""
    give_back()
    begin(graphs)
    with WeightFile(graphs / "weights.bin", journaled=True) as weights, FloatGraphs() as floats:
        site = Site(request, weights, floats, graphs, progress)
        compiled = []
        for source in sources:
            compiled.append(compile_graph(site, source))
            progress.finished(source.name)
    return compiled


def _adapters(
    request: Request,
    sources: list[Any],
    artifacts: list[Artifact],
    weights: tuple[FileRecord, ...],
    folder: Path,
) -> dict[str, Any]:
    """Return what the record of a sub-model says of its adapters, whose files are written now."""
    if request.adapters is None or not sources or not sources[0].adapters:
        return {}
    from m4c.adapters.records import adapter_fields

    return adapter_fields(sources[0].adapters, request.adapters.separate, artifacts, weights, folder)


def _weight_files(folder: Path, submodel: str) -> tuple[FileRecord, ...]:
    """Return the record of the weights that the ONNX graphs of a sub-model share, if it has such graphs."""
    path = folder / "graphs" / submodel / "weights.bin"
    return (record_file(folder, path),) if path.exists() else ()


def _genai(
    request: Request, weights: Path | None, sources: list[Any], folder: Path
) -> tuple[FileRecord, ...]:
    """Write what onnxruntime-genai wants beside its graph, if there is one among ``sources``."""
    if request.dialect != "genai" or not sources or sources[0].graph.dialect != "genai":
        return ()
    from m4c.genai import write_genai
    from m4c.models.llama_sizes import LlamaSizes

    source = sources[0]
    stated = LlamaSizes.from_library(source.graph.module.source.config)
    sizes = replace(stated, context=request.context_length)
    return write_genai(folder, sizes, f"graphs/{source.name}.onnx", weights)


def _assets(weights: Path | None, submodel: Submodel, folder: Path) -> tuple[FileRecord, ...]:
    """Copy the files that the host needs from beside the weights, as far as they are there."""
    copied = []
    for name in submodel.assets:
        found = weights / name if weights is not None and weights.is_dir() else None
        if found is not None and found.is_file():
            kept = host_folder(folder, submodel.name) / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, kept)
            copied.append(record_file(folder, kept))
    return tuple(copied)
