"""Graphs on several targets at once: captured once, lowered once for targets of one format and form, judged for each."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m4c.errors import UnsupportedError, UsageError
from m4c.models import PRESETS, SUBMODELS
from m4c.operator_reports.judged import Judged, NotConverted, judged
from m4c.operator_reports.placement import place
from m4c.parallel import in_processes
from m4c.progress import Progress
from m4c.selection import selected_submodels
from m4c.targets.legality import runtime_of
from m4c.targets.profile import Target
from m4c.targets.read_tflite import is_tflite
from m4c.targets.view import Graph

if TYPE_CHECKING:
    import onnx_ir as ir

Found = Mapping[str, list[Judged]]
"""The graphs of a subject by the name of a target."""


def across(
    subject: str,
    targets: Sequence[Target],
    progress: Progress,
    preset: str = "m4-nano",
    jobs: int = 1,
    evidence: str = "table",
) -> Found:
    """Return where every graph of ``subject`` runs on each of ``targets``; arguments as of :func:`judged`.

    Raises:
        UsageError: as :func:`judged` does.
    """
    preset = subject if subject in PRESETS else preset
    names = () if subject in PRESETS else (subject,)
    captured = not names or subject.partition("/")[0] in SUBMODELS
    if len(targets) == 1:
        return {targets[0].name: judged(subject, targets[0], progress, preset, jobs, evidence)}
    if evidence != "table" or not captured:
        return {target.name: _of_file(subject, target, progress, preset, evidence) for target in targets}
    work = partial(of_submodel, names, preset, tuple(targets))
    parts = in_processes(work, selected_submodels(names), progress, jobs)
    return {target.name: [one for part in parts for one in part[target.name]] for target in targets}


def _of_file(subject: str, target: Target, progress: Progress, preset: str, evidence: str) -> list[Judged]:
    """Judge a file or a bundle on one of several targets: one that takes no such file is no mistake."""
    path = Path(subject)
    if path.is_file() and is_tflite(path):
        try:
            runtime_of(target, "tflite")
        except UsageError as error:
            return [NotConverted(path.stem, error.what, error.fix)]
    return judged(subject, target, progress, preset, evidence=evidence)


def of_submodel(
    names: tuple[str, ...], preset: str, targets: Sequence[Target], name: str, progress: Progress
) -> dict[str, list[Judged]]:
    """Capture the graphs of a sub-model that are in ``names``, or all, at sizes that each target takes, and judge them."""
    from m4c.capture import capture
    from m4c.models import build
    from m4c.selection import selected_graphs
    from m4c.skeleton import skeleton

    with skeleton():
        submodel = build(name, preset)
    made: dict[str, list[Judged]] = {target.name: [] for target in targets}
    for graph in selected_graphs(names, submodel):
        for fixed in (True, False):
            takers = [t for t in targets if (t.static_shapes or t.format == "tflite") == fixed]
            if not takers:
                continue
            progress.stage(graph.name, "capture")
            model = capture(graph.sized(graph.static) if fixed else graph)
            progress.stage(graph.name, "passes")
            for target, found in of_model(model, graph.name, takers).items():
                made[target].append(found)
        progress.finished(graph.name)
    progress.completed(name)
    return made


def of_model(model: "ir.Model", name: str, targets: Sequence[Target]) -> dict[str, Judged]:
    """Judge a model in hand on each of ``targets``, as it would be built for it."""
    from m4c.targets.view_flat import as_if

    made: dict[tuple[str, str], Graph | NotConverted] = {}
    found: dict[str, Judged] = {}
    for target in targets:
        # The norm of integer builds keeps ranges narrow; which one is written does not depend on the weights.
        key = (target.format, "norm" if target.precision in ("int8", "int16x8") else "mean")
        if key not in made:
            made[key] = _in_form(model, name, *key)
        graph = made[key]
        if isinstance(graph, NotConverted):
            found[target.name] = graph
        elif target.format == "onnx":
            found[target.name] = place(graph, target)
        else:
            assumed = target.precision if target.precision != "float32" else ""
            found[target.name] = place(as_if(graph, target.precision), target, assumed)
    return found


def _in_form(model: "ir.Model", name: str, form: str, norm: Any) -> Graph | NotConverted:
    """Return a model as a graph of a format, or why it cannot be one."""
    from m4c.passes import for_format
    from m4c.targets.emit_tflite.emit import lower
    from m4c.targets.view_flat import view_flat
    from m4c.targets.view_model import view_model

    rewritten = for_format(form, norm).run(model)[0]
    if form == "onnx":
        return view_model(rewritten, name)
    try:
        return view_flat(lower(rewritten), name)
    except UnsupportedError as error:
        return NotConverted(name, f"{error.what} ({error.where})" if error.where else error.what, error.fix)
