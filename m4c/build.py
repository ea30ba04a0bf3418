"""One graph becomes an artifact: capture → passes → emit → verify."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import onnx_ir as ir

from m4c.adapters.proof import Proof, prove, worse
from m4c.adapters.separate import filled_in, slots_for
from m4c.artifact import Artifact, Built
from m4c.calibration import FEW_RANDOM, RANDOM, Samples, samples_for, without_samples
from m4c.capture import weights_of
from m4c.errors import UnsupportedError
from m4c.float_graphs import FloatGraphs
from m4c.half import LARGEST
from m4c.held_out import typical
from m4c.host_part import LOOKED_UP, is_step, of_many_dimensions, of_numbers, split
from m4c.numerics import SQNR_FLOOR_DB, Difference
from m4c.observers import ENOUGH, NAMED, Observer
from m4c.operator_reports.covered import covered
from m4c.passes import (
    OBSERVERS,
    for_format,
    for_halves,
    for_integers,
    for_weights,
    legalized,
    with_adapters,
    with_cache,
)
from m4c.passes.calibrate import Calibrate
from m4c.passes.halve import Halve
from m4c.passes.quantize_weights import QuantizeWeights
from m4c.pipeline import Note, Pipeline
from m4c.plan import Plan, fall_back, plan, processor, weight_scheme
from m4c.precisions import BITS, HALF, INTEGER
from m4c.progress import Progress
from m4c.request import Request
from m4c.runners import host_file
from m4c.scheme import CALIBRATED, Given, Grids
from m4c.slots import Slot
from m4c.source import Source, TorchSource
from m4c.targets.emit_onnx import to_onnx, weight_bytes
from m4c.targets.emit_tflite import operators_for, to_tflite
from m4c.unrounded import check_unrounded
from m4c.verify import verify
from m4c.weight_file import WeightFile
from m4c.weights import Array

WIDE = "it reaches {:.3g}, and float16 ends at {:g}: it is float32"
"""Why a weight or a value of a float16 build is not in float16."""

Step = Callable[[int, int], None]
"""Told how much of a stage is done, and of how much."""


@dataclass(frozen=True)
class Site:
    """Where the graphs of one sub-model are built."""

    request: Request
    weights: WeightFile
    """What ONNX graphs store their weights in."""
    floats: FloatGraphs
    """The graphs as they were captured."""
    folder: Path
    """Of the artifacts."""
    progress: Progress


@dataclass(frozen=True)
class Rewritten:
    """What the passes made of a graph."""

    pipeline: Pipeline
    models: Mapping[str, ir.Model]
    """By the names of the signatures."""
    floats: tuple[Note, ...]
    """Where weights stay float that could be rounded, and why."""

    @property
    def one(self) -> ir.Model:
        """Any of the models: all have the same weights."""
        return next(iter(self.models.values()))


def compile_graph(site: Site, source: Source) -> Artifact:
    """Compile one graph as planned, or for the CPU where its target cannot have it and a fallback is allowed.

    Raises:
        UnsupportedError: if the target cannot have it and the fallback is ``error``.
        NumbersError: if the artifact differs from its source.
    """
    request = site.request
    planned = plan(request, source)
    allowed = (request.fallback or request.target.fallback) == "cpu"
    if planned.fallback and not allowed:
        raise UnsupportedError(
            planned.fallback, where=source.name, fix="allow it with --fallback cpu, or leave it out"
        )
    try:
        return _build(site, source, planned)
    except UnsupportedError as error:
        if not allowed or planned.fallback:
            raise
        reason = f"{error.what} ({error.where})" if error.where else error.what
        return _build(site, source, replace(fall_back(reason, request), cache=planned.cache))


def _build(site: Site, source: Source, planned: Plan) -> Artifact:
    """Capture at the planned sizes, run the passes, write the artifact, and hold each signature against its source."""
    request, progress = site.request, site.progress
    sources = {name: source.sized(sizes) for name, sizes in planned.signatures.items()}
    source = next(iter(sources.values()))
    limit = request.adapters.rank_limit if request.adapters else None
    slots = slots_for(source, planned.precision, planned.format, limit)
    progress.stage(source.name, "capture")
    captured = {name: site.floats.capture(one) for name, one in sources.items()}
    read = weights_of(next(iter(captured.values())))
    samples = _samples(site, source, planned)
    with tempfile.TemporaryDirectory(
        prefix="m4c-"
    ) as workspace:  # weights may come from there when they are written
        made = _rewritten(site, sources, planned, captured, samples, slots, Path(workspace))
        if "host" in planned.rewrites and all(is_step(model.graph) for model in made.models.values()):
            planned = replace(planned, processor="cpu", fallback=LOOKED_UP)
        progress.stage(source.name, "emit")
        path, wide = _emit(site, source, planned, made)
    coverage = covered(
        path, source.name, processor(request, planned), made.models, request.fallback == "error"
    )
    progress.stage(source.name, "verify")
    built = _verified(request, sources, planned, made, path, samples)
    slots = filled_in(made.one, slots)
    proofs: dict[str, Proof] = {}
    for name, one in built.items():
        proofs = worse(
            proofs, prove(one.source, one.model, read, path, slots, planned, one.verification, name)
        )
    floor = _floor(request, planned)
    floats = (*made.floats, *(Note(name, WIDE.format(value, LARGEST)) for name, value in wide.items()))
    return Artifact(planned, made.pipeline, path, built, floor, samples, floats, slots, proofs, coverage)


def _samples(site: Site, source: Source, planned: Plan) -> Samples | None:
    """Return what the plan wants to see computed: for ranges of integers, or for what goes beyond float16."""
    given, seed = site.request.calibration, site.request.seed
    if planned.precision in INTEGER:
        return samples_for(source, given, seed, site.floats.open)
    if planned.precision != HALF or planned.format != "onnx":
        return None
    found = given is not None and not without_samples(source, given)
    return samples_for(source, given if found else RANDOM, seed, site.floats.open, FEW_RANDOM)


def _rewritten(
    site: Site,
    sources: Mapping[str, Source],
    planned: Plan,
    captured: dict[str, ir.Model],
    samples: Samples | None,
    slots: tuple[Slot, ...],
    workspace: Path,
) -> Rewritten:
    """Run the passes of the plan over what was ``captured``, which is left empty.

    Raises:
        NumbersError: for an integer build, if the graph is not that of its source before it is rounded.
    """
    source = next(iter(sources.values()))
    step = partial(site.progress.step, source.name)
    given, grids = _weighed(site.request, source, planned, workspace, site.progress)
    pipeline = pipeline_for(site.request, planned, samples, workspace, step, given, grids)
    pipeline = with_adapters(pipeline, slots)
    site.progress.stage(source.name, "passes" if samples is None else "calibrate")
    before, rest = pipeline.split(Calibrate)
    models = {}
    for name in list(captured):
        model, reports = before.run(captured.pop(name))
        if samples is not None and planned.precision in INTEGER:
            check_unrounded(sources[name], model, next(iter(samples.items)), workspace)
        models[name], more = rest.run(model) if rest.steps else (model, ())
    rounding = [
        r for r in (*reports, *more) if r.step.partition("{")[0] in (QuantizeWeights.name, Halve.name)
    ]
    return Rewritten(pipeline, models, tuple(note for report in rounding for note in report.misses))


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
        pipeline = legalized(for_format(planned.format, dialect=planned.dialect), planned.rewrites)
    elif planned.precision == HALF:
        halve = Halve(samples.items, workspace, lambda done: step(done, 0))
        pipeline = for_halves(planned.dialect, halve, planned.rewrites)
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
    folder = request.checkpoint(source.graph.submodel)
    tokenizer = folder / "tokenizer.json" if folder is not None else None
    grids = grids_for(source, scheme)
    return rounded_on_samples(
        source, scheme, grids, request.calibration, tokenizer, workspace, progress
    ), grids


def _emit(site: Site, source: Source, planned: Plan, made: Rewritten) -> tuple[Path, Mapping[str, float]]:
    """Write the artifact, and the host's part of it beside it if it has one.

    Returns where it is, and the weights that float16 does not hold with the largest number of each.
    """
    model, models = made.one, made.models
    total, done = weight_bytes(model), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        site.progress.step(source.name, done, total)

    stem = source.name.partition("/")[2]
    path = site.folder / f"{stem}.{planned.format}"
    if planned.format == "onnx":
        to_onnx(model, path, site.weights, advance, f"{source.name} {made.pipeline}")
        return path, {}
    if "host" in planned.rewrites or "rank" in planned.rewrites:
        before, model = split(model, of_numbers if "host" in planned.rewrites else of_many_dimensions)
        models = dict.fromkeys(models, model) if before is not None else models
        if before is not None:
            to_tflite(before, host_file(path), progress=advance)
    operators, half = operators_for(planned.rewrites), planned.precision == HALF
    return path, to_tflite(models, path, progress=advance, operators=operators, half=half)


def _verified(
    request: Request,
    sources: Mapping[str, Source],
    planned: Plan,
    made: Rewritten,
    path: Path,
    samples: Samples | None,
) -> dict[str, Built]:
    """Hold each signature of the artifact at ``path`` against its source."""
    built = {}
    for name, one in sources.items():
        inputs, pooled = _taken(request, one, planned, path, samples)
        found = verify(
            one,
            made.models[name],
            path,
            planned.precision,
            inputs,
            _floor(request, planned),
            name,
            planned.cache,
            pooled,
        )
        built[name] = Built(one, made.models[name], found)
    return built


def _taken(
    request: Request, source: Source, planned: Plan, path: Path, samples: Samples | None
) -> tuple[Mapping[str, Array], Difference | None]:
    """Return the inputs that an artifact is held against its source on, and the figures over several where it has integers."""
    if samples is None:
        return source.sample(request.seed), None
    if planned.precision == HALF:
        return next(iter(samples.to_verify)), None
    return typical(source, path, samples.to_verify)


def _floor(request: Request, planned: Plan) -> float | None:
    """Return the least SQNR in dB that the user asked for, where the precision is measured by it."""
    return request.min_sqnr if planned.precision in {*SQNR_FLOOR_DB, *BITS} else None
