"""Placements of whatever a report can be about: a preset, a sub-model, a bundle or a file.

What the target has no format for is brought to it without weights: captured or loaded, rewritten, lowered to TFLite in memory,
and judged as if it was quantized to the target's precision. What cannot be lowered says why.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from m4c.bundle import MANIFEST, read_manifest
from m4c.errors import UnsupportedError, UsageError
from m4c.models import PRESETS, SUBMODELS
from m4c.operator_reports import litert_gpu, qnn, vela
from m4c.operator_reports.compilers import compiler_of
from m4c.operator_reports.covered import known, located, read
from m4c.operator_reports.placement import Placement, place
from m4c.origins import Origins
from m4c.parallel import in_processes
from m4c.precisions import HALF, INTEGER
from m4c.progress import Progress
from m4c.selection import selected_submodels
from m4c.targets.profile import Target
from m4c.targets.read_onnx import read_onnx
from m4c.targets.read_tflite import is_tflite
from m4c.targets.view import Graph

if TYPE_CHECKING:
    import onnx_ir as ir


ASKED: Mapping[str, Callable[[Path, Target], tuple[Placement, ...]]] = {
    "vela": vela.compiled,
    "litert_gpu": litert_gpu.compiled,
    "qnn": qnn.compiled,
}
"""Who is asked for evidence, by the keys of :data:`m4c.targets.profile.COMPILERS`."""


@dataclass(frozen=True, slots=True)
class NotConverted:
    """A graph of which there is nothing in a format of the target."""

    name: str
    why: str
    fix: str


Judged = Placement | NotConverted


def judged(
    subject: str,
    target: Target,
    progress: Progress,
    preset: str = "m4-nano",
    jobs: int = 1,
    evidence: str = "table",
) -> list[Judged]:
    """Return where every graph of ``subject`` runs on ``target``; ``jobs`` processes capture sub-models (0: one a core).

    ``evidence`` is ``table``, or ``compiled``: then the target's own compiler is run on every file.

    Raises:
        UsageError: if it is no preset, sub-model, bundle or readable file, or there is no compiler to ask.
    """
    path = Path(subject)
    if evidence == "compiled" and (subject in PRESETS or subject.partition("/")[0] in SUBMODELS):
        raise UsageError(
            f"a compiler takes files, and {subject} is none",
            fix=f"m4c export {subject} --target {target.name} --calibration …, then report on the bundle",
        )
    if subject in PRESETS:
        return _captured((), subject, target, progress, jobs)
    if subject.partition("/")[0] in SUBMODELS:
        return _captured((subject,), preset, target, progress, jobs)
    if (path / MANIFEST).is_file():
        return list(_of_bundle(path, target, evidence))
    if path.is_file():
        return list(_of_file(path, path.stem, target, evidence))
    raise UsageError(
        f"there is nothing to report on at {subject}",
        fix=f"give a preset ({', '.join(PRESETS)}), a sub-model, a bundle, an .onnx or a .tflite file",
    )


def _captured(
    names: tuple[str, ...], preset: str, target: Target, progress: Progress, jobs: int
) -> list[Judged]:
    """Capture the selected graphs of a preset, each sub-model in a process, and judge them."""
    work = partial(of_submodel, names, preset, target)
    found = in_processes(work, selected_submodels(names), progress, jobs)
    return [one for submodel in found for one in submodel]


def of_submodel(
    names: tuple[str, ...], preset: str, target: Target, name: str, progress: Progress
) -> list[Judged]:
    """Capture the graphs of a sub-model that are in ``names``, or all, at sizes that the target takes, and judge them."""
    from m4c.capture import capture
    from m4c.models import build
    from m4c.selection import selected_graphs
    from m4c.skeleton import skeleton

    with skeleton():
        submodel = build(name, preset)
    made: list[Judged] = []
    for graph in selected_graphs(names, submodel):
        progress.stage(graph.name, "capture")
        fixed = graph.sized(graph.static) if target.static_shapes or target.format == "tflite" else graph
        model = capture(fixed)
        progress.stage(graph.name, "passes")
        made.append(_of_model(model, graph.name, target))
        progress.finished(graph.name)
    progress.completed(name)
    return made


def _of_model(model: "ir.Model", name: str, target: Target) -> Judged:
    """Judge a model in hand as an export would write it in the target's own format and precision."""
    from m4c.passes import for_format, legalized, without_ranges
    from m4c.targets.view_model import view_model

    rewrites = target.rewrites(target.format, target.precision)
    pipeline = (
        without_ranges(target.precision, target.format, rewrites)
        if target.precision in INTEGER
        else legalized(for_format(target.format), rewrites)
    )
    try:
        rewritten = pipeline.run(model)[0]
        if target.format == "onnx":
            return place(view_model(rewritten, name), target)
        return _lowered(rewritten, name, target, rewrites)
    except UnsupportedError as error:
        return NotConverted(name, f"{error.what} ({error.where})" if error.where else error.what, error.fix)


def _lowered(model: "ir.Model", name: str, target: Target, rewrites: frozenset[str]) -> Judged:
    """Judge what the accelerator gets of a rewritten ``model``, lowered to TFLite in memory."""
    from m4c.host_part import LOOKED_UP, is_step, of_many_dimensions, split
    from m4c.targets.emit_tflite import operators_for
    from m4c.targets.emit_tflite.emit import lower
    from m4c.targets.emit_tflite.halves import halve
    from m4c.targets.view_flat import as_if, view_flat

    if "host" in rewrites:
        if is_step(model.graph):
            return NotConverted(name, LOOKED_UP, "nothing: the host does it")
        model = split(model)[1]
    elif "rank" in rewrites:
        model = split(model, of_many_dimensions)[1]
    flat = lower(model, operators=operators_for(rewrites))
    if target.precision == HALF:
        halve(flat)
    graph = view_flat(flat, name)
    assumed = target.precision if target.precision in INTEGER else ""
    return place(as_if(graph, target.precision), target, assumed)


def _of_bundle(folder: Path, target: Target, evidence: str) -> Iterator[Judged]:
    """Judge the artifacts of a bundle; one in another format was built for another processor, and says why."""
    for record in read_manifest(folder).graphs:
        if record.format not in target.runtimes:
            why = record.fallback or f"its artifact is {record.format}"
            yield NotConverted(record.name, why, f"export it with --target {target.name}")
            continue
        yield from _of_file(folder / record.file.path, record.name, target, evidence, known(folder, record))


def _of_file(
    path: Path, name: str, target: Target, evidence: str, origins: Sequence[Origins] = ()
) -> Iterator[Judged]:
    """Judge every graph of a file; an ONNX file for a target that takes none is lowered first."""
    if evidence == "compiled":
        found = ASKED[compiler_of(target, "tflite" if is_tflite(path) else "onnx").name](path, target)
        for index, one in enumerate(found):
            graph = located(one.graph, origins[index]) if origins else one.graph
            yield replace(one, graph=replace(graph, name=_numbered(name, index, len(found))))
    elif is_tflite(path) or "onnx" in target.runtimes:
        yield from _placed(read(path, origins), name, target)
    else:
        from m4c.source import OnnxSource

        read_onnx(path)
        try:
            model = OnnxSource(path).capture()
        except UnsupportedError as error:
            yield NotConverted(name, error.what, error.fix)
            return
        yield _of_model(model, name, target)


def _placed(graphs: tuple[Graph, ...], name: str, target: Target) -> Iterator[Judged]:
    for index, graph in enumerate(graphs):
        yield place(replace(graph, name=_numbered(name, index, len(graphs))), target)


def _numbered(name: str, index: int, count: int) -> str:
    """Return the name of a graph of a file that has several."""
    return name if count == 1 else f"{name}#{index}"
