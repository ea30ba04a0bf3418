"""Placements of whatever a report can be about: a preset, a sub-model, a bundle or a file.

What the target has no format for is brought to it without weights: captured or loaded, rewritten, lowered to TFLite in memory,
and judged as if it was quantized to the target's precision. What cannot be lowered says why.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from m4c.bundle import MANIFEST, read_manifest
from m4c.errors import UnsupportedError, UsageError
from m4c.models import PRESETS, SUBMODELS
from m4c.operator_reports import litert_gpu, qnn, vela
from m4c.operator_reports.captured import of_model, of_submodel
from m4c.operator_reports.compilers import compiler_of
from m4c.operator_reports.covered import known, located, read
from m4c.operator_reports.placement import Judged, NotConverted, Placement, place
from m4c.origins import Origins
from m4c.parallel import in_processes
from m4c.progress import Progress
from m4c.selection import selected_submodels
from m4c.targets.profile import Target
from m4c.targets.read_onnx import read_onnx
from m4c.targets.read_tflite import is_tflite
from m4c.targets.view import Graph

if TYPE_CHECKING:
    pass


ASKED: Mapping[str, Callable[[Path, Target], tuple[Placement, ...]]] = {
    "vela": vela.compiled,
    "litert_gpu": litert_gpu.compiled,
    "qnn": qnn.compiled,
}
"""Who is asked for evidence, by the keys of :data:`m4c.targets.profile.COMPILERS`."""


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
    work = partial(of_submodel, names, preset, (target,))
    found = in_processes(work, selected_submodels(names), progress, jobs)
    return [one for submodel in found for one in submodel[target.name]]


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
        yield of_model(model, name, (target,))[target.name]


def _placed(graphs: tuple[Graph, ...], name: str, target: Target) -> Iterator[Judged]:
    for index, graph in enumerate(graphs):
        yield place(replace(graph, name=_numbered(name, index, len(graphs))), target)


def _numbered(name: str, index: int, count: int) -> str:
    """Return the name of a graph of a file that has several."""
    return name if count == 1 else f"{name}#{index}"
