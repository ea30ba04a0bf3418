"""The driver: capture → passes → emit → verify → manifest, a graph at a time."""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx_ir as ir

from m4c import __version__, tasks
from m4c.adapters.proof import prove
from m4c.adapters.separate import filled_in, slots_for
from m4c.allocator import give_back
from m4c.artifact import Artifact, Built, record_artifact
from m4c.bundle import (
    FileRecord,
    Manifest,
    SubmodelRecord,
    host_folder,
    record_file,
    write_manifest,
)
from m4c.calibration import Samples, samples_for
from m4c.capture import weights_of
from m4c.checkpoints import open_checkpoint
from m4c.errors import UnsupportedError
from m4c.float_graphs import FloatGraphs
from m4c.held_out import typical
from m4c.host_part import is_step, split
from m4c.models.graph import Submodel
from m4c.numerics import SQNR_FLOOR_DB
from m4c.observers import ENOUGH, NAMED, Observer
from m4c.operator_reports.covered import covered
from m4c.parallel import in_processes
from m4c.passes import OBSERVERS, for_format, for_integers, for_weights, with_adapters, with_cache
from m4c.passes.calibrate import Calibrate
from m4c.passes.quantize_weights import QuantizeWeights
from m4c.pipeline import Pipeline
from m4c.precisions import BITS, INTEGER
from m4c.progress import Progress
from m4c.request import Plan, Request, fall_back, plan, processor, weight_scheme
from m4c.runners import host_file
from m4c.scheme import CALIBRATED, Given, Grids
from m4c.selection import selected_graphs, selected_submodels
from m4c.source import OnnxSource, Source, TorchSource
from m4c.staging import begin, read_finished, request_key, staged, write_finished
from m4c.targets.emit_onnx import to_onnx, weight_bytes
from m4c.targets.emit_tflite import EMIT, to_tflite
from m4c.targets.emit_tflite.table import CONVOLVED
from m4c.verify import verify
from m4c.weight_file import WeightFile

TOOLS = ("ai-edge-litert", "onnx_ir", "onnxruntime", "onnxscript", "torch", "transformers", "diffusers")
LOOKED_UP = "all of it is a step of the host: rows looked up by numbers"
"""Why a graph has nothing for an accelerator."""

Step = Callable[[int, int], None]
"""Told how much of a stage is done, and of how much."""


def compile_bundle(request: Request, out: Path, progress: Progress, jobs: int = 1) -> Manifest:
    """Compile what ``request`` asks for into a bundle at ``out``, which appears only when it is complete and verified."""
    with staged(out, request_key(request, out, TOOLS)) as folder:
        if request.model is not None:
            submodels = [_compile_onnx(request, request.model, folder, progress)]
        else:
            work = partial(_once, request, folder)
            submodels = in_processes(work, selected_submodels(request.submodels), progress, jobs)
        manifest = Manifest(
            preset=None if request.model else request.preset,
            target=request.target.name,
            tools={"m4c": __version__, **{tool: importlib.metadata.version(tool) for tool in TOOLS}},
            submodels=tuple(submodels),
            routes=tasks.routes({graph.name for submodel in submodels for graph in submodel.graphs}),
        )
        write_manifest(manifest, folder)
    return manifest


def _once(request: Request, folder: Path, name: str, progress: Progress) -> SubmodelRecord:
    """Compile a sub-model, unless an earlier export into ``folder`` completed it."""
    record = read_finished(folder, name)
    if record is not None:
        for graph in record.graphs:
            progress.finished(graph.name)
        progress.completed(name)
        return record
    record = compile_submodel(request, folder, name, progress)
    write_finished(folder, record)
    return record


def compile_submodel(request: Request, folder: Path, name: str, progress: Progress) -> SubmodelRecord:
    """Compile the selected graphs of one sub-model into ``folder``; they share one file of weights."""
    progress.stage(name, "build")
    submodel, path, sources = open_sources(request, name)
    artifacts = compile_sources(request, sources, folder / "graphs" / name, progress)
    weights = _weight_files(folder, name)
    progress.completed(name)
    return SubmodelRecord(
        name=name,
        weights="checkpoint" if path else f"random, seed {request.seed}",
        licence=submodel.licence if path else "random weights: no licence",
        files=(
            *weights,
            *_assets(path, submodel, folder),
            *_genai(request, path, sources, folder),
        ),
        host=submodel.facts(path),
        graphs=tuple(record_artifact(artifact, folder) for artifact in artifacts),
        **_adapters(request, sources, artifacts, weights, folder),
    )


def open_sources(request: Request, name: str) -> tuple[Submodel, Path | None, list[Any]]:
    """Return a sub-model without weights, its checkpoint, and the sources that are selected of it."""
    from m4c.adapters.folder import open_adapters
    from m4c.adapters.merge import merged
    from m4c.checkpoints.random import random_weights
    from m4c.match import match
    from m4c.models import build
    from m4c.skeleton import skeleton

    path = _weights_path(request.weights, name)
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


def _compile_onnx(request: Request, path: Path, folder: Path, progress: Progress) -> SubmodelRecord:
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
        compiled = []
        for source in sources:
            compiled.append(compile_graph(request, source, weights, floats, graphs, progress))
            progress.finished(source.name)
    return compiled


def compile_graph(
    request: Request,
    source: Source,
    weights: WeightFile,
    floats: FloatGraphs,
    folder: Path,
    progress: Progress,
) -> Artifact:
    """Compile one graph as planned, or for the CPU where its target cannot have it and a fallback is allowed.

    Raises:
        UnsupportedError: if the target cannot have it and the fallback is ``error``.
        NumbersError: if the artifact differs from its source.
    """
    planned = plan(request, source)
    allowed = (request.fallback or request.target.fallback) == "cpu"
    if planned.fallback and not allowed:
        raise UnsupportedError(
            planned.fallback, where=source.name, fix="allow it with --fallback cpu, or leave it out"
        )
    try:
        return _build(request, source, planned, weights, floats, folder, progress)
    except UnsupportedError as error:
        if not allowed or planned.fallback:
            raise
        reason = f"{error.what} ({error.where})" if error.where else error.what
        fallen = replace(fall_back(reason, request), cache=planned.cache)
        return _build(request, source, fallen, weights, floats, folder, progress)


def _build(
    request: Request,
    source: Source,
    planned: Plan,
    weights: WeightFile,
    floats: FloatGraphs,
    folder: Path,
    progress: Progress,
) -> Artifact:
    """Capture at the planned sizes, run the passes, write the artifact, and hold each signature against its source."""
    sources = {name: source.sized(sizes) for name, sizes in planned.signatures.items()}
    source = next(iter(sources.values()))
    progress.stage(source.name, "capture")
    captured = {name: floats.capture(one) for name, one in sources.items()}
    slots = slots_for(source, planned.precision, planned.format)
    read = weights_of(next(iter(captured.values())))
    calibrated = planned.precision in INTEGER
    samples = samples_for(source, request.calibration, request.seed, floats.open) if calibrated else None
    step = partial(progress.step, source.name)
    with tempfile.TemporaryDirectory(prefix="m4c-") as workspace:
        given, grids = _weighed(request, source, planned, Path(workspace), progress)
        pipeline = pipeline_for(request, planned, samples, Path(workspace), step, given, grids)
        pipeline = with_adapters(pipeline, slots)
        progress.stage(source.name, "passes" if samples is None else "calibrate")
        models = {}
        for name in sources:
            models[name], reports = pipeline.run(captured.pop(name))
        if "host" in planned.rewrites and all(is_step(models[name].graph) for name in models):
            planned = replace(planned, processor="cpu", fallback=LOOKED_UP)
        progress.stage(source.name, "emit")
        stem = folder / source.name.partition("/")[2]
        path = _emit(models, planned, stem, f"{source.name} {pipeline}", weights, step)
    coverage = covered(path, source.name, processor(request, planned), models, request.fallback == "error")
    progress.stage(source.name, "verify")
    floor = request.min_sqnr if planned.precision in {*SQNR_FLOOR_DB, *BITS} else None
    built = {}
    for name, one in sources.items():
        inputs, pooled = (
            typical(one, path, samples.to_verify) if samples else (one.sample(request.seed), None)
        )
        found = verify(one, models[name], path, planned.precision, inputs, floor, name, planned.cache, pooled)
        built[name] = Built(one, models[name], found)
    slots = filled_in(models[name], slots)
    return Artifact(
        planned,
        pipeline,
        path,
        built,
        floor,
        samples,
        tuple(
            note
            for report in reports
            if report.step.startswith(QuantizeWeights.name)
            for note in report.misses
        ),
        slots,
        prove(source, read, path, slots, planned, next(iter(built.values())).verification),
        coverage,
    )


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


def pipeline_for(
    request: Request,
    planned: Plan,
    samples: Samples | None,
    workspace: Path,
    step: Step,
    given: Given = MappingProxyType({}),
    grids: Grids = MappingProxyType({}),
) -> Pipeline:
    """Return the passes of a plan; ``given`` and ``grids`` are what is known of single weights."""
    if planned.precision in BITS:
        pipeline = for_weights(weight_scheme(request, planned), planned.dialect, given, grids)
    elif samples is None:
        pipeline = for_format(planned.format, dialect=planned.dialect)
    else:
        observer = _observer(request, planned)
        calibrate = Calibrate(samples.items, workspace, observer, lambda done: step(done, 0), ENOUGH)
        pipeline = for_integers(planned.precision, planned.format, calibrate, planned.rewrites)
    return with_cache(pipeline, planned.cache)


def _observer(request: Request, planned: Plan) -> Observer:
    """Return how ranges are chosen: as asked for, or as the precision has it."""
    return NAMED[request.observer] if request.observer else OBSERVERS[planned.precision]


def _weighed(
    request: Request, source: Source, planned: Plan, workspace: Path, progress: Progress
) -> tuple[Given, Grids]:
    """Return the weights that samples rounded and the grids that a budget bought; mostly there are none."""
    if planned.precision not in BITS or not isinstance(source, TorchSource):
        return {}, {}
    scheme = weight_scheme(request, planned)
    if scheme.bits_budget is None and scheme.method != CALIBRATED:
        return {}, {}
    from m4c.weight_plan import grids_for, rounded_on_samples

    progress.stage(source.name, "weigh")
    folder = _weights_path(request.weights, source.graph.submodel)
    tokenizer = folder / "tokenizer.json" if folder is not None else None
    grids = grids_for(source, scheme)
    return rounded_on_samples(
        source, scheme, grids, request.calibration, tokenizer, workspace, progress
    ), grids


def _emit(
    models: Mapping[str, ir.Model],
    planned: Plan,
    stem: Path,
    origin: str,
    weights: WeightFile,
    step: Step,
) -> Path:
    """Write the artifact of ``models``, which have the same weights; ``origin`` tells their graph and pipeline."""
    model = next(iter(models.values()))
    total, done = weight_bytes(model), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        step(done, total)

    path = stem.with_name(f"{stem.name}.{planned.format}")
    if planned.format == "onnx":
        to_onnx(model, path, weights, advance, origin)
        return path
    before = None
    if "host" in planned.rewrites:
        before, model = split(model)
        models = dict.fromkeys(models, model)
    if before is not None:
        to_tflite(before, host_file(path), progress=advance)
    to_tflite(models, path, progress=advance, operators=CONVOLVED if "linear" in planned.rewrites else EMIT)
    return path


def _weights_path(weights: Path | None, submodel: str) -> Path | None:
    """Return the checkpoint of a sub-model: its own folder within ``weights`` if there is one, else ``weights``."""
    if weights is not None and (weights / submodel).exists():
        return weights / submodel
    return weights


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
