"""Graphs in hand as an export would write them: captured or loaded, rewritten and lowered in memory, without any weight.

Of several targets, those that write a graph alike get it once.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from m4c.errors import UnsupportedError
from m4c.operator_reports.covered import located
from m4c.operator_reports.placement import Judged, NotConverted, place
from m4c.origins import origins_of
from m4c.precisions import HALF, INTEGER
from m4c.progress import Progress
from m4c.targets.profile import Target
from m4c.targets.view import Graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from m4c.models.graph import Graph as ToCapture

Form = tuple[str, str, frozenset[str]]
"""Format, precision and rewrites of a build."""


def of_submodel(
    names: tuple[str, ...], preset: str, targets: Sequence[Target], name: str, progress: Progress
) -> dict[str, list[Judged]]:
    """Capture the graphs of a sub-model that are in ``names``, or all, at sizes that each target takes, and judge them."""
    from m4c.models import build
    from m4c.selection import selected_graphs
    from m4c.skeleton import skeleton

    with skeleton():
        submodel = build(name, preset)
    made: dict[str, list[Judged]] = {target.name: [] for target in targets}
    for graph in selected_graphs(names, submodel):
        for target, found in of_graph(graph, targets, progress).items():
            made[target].append(found)
        progress.finished(graph.name)
    progress.completed(name)
    return made


def of_graph(graph: "ToCapture", targets: Sequence[Target], progress: Progress) -> Mapping[str, Judged]:
    """Capture a graph at sizes that each target takes, and judge it there."""
    from m4c.capture import capture

    made: dict[str, Judged] = {}
    for fixed in (True, False):
        takers = [t for t in targets if (t.static_shapes or t.format == "tflite") == fixed]
        if not takers:
            continue
        progress.stage(graph.name, "capture")
        model = capture(graph.sized(graph.static) if fixed else graph)
        progress.stage(graph.name, "passes")
        made |= of_model(model, graph.name, takers)
    return made


def of_model(model: "ir.Model", name: str, targets: Sequence[Target]) -> Mapping[str, Judged]:
    """Judge a model in hand on each of ``targets``, in its own format and precision."""
    from m4c.targets.view_flat import as_if

    made: dict[Form, Graph | NotConverted] = {}
    found: dict[str, Judged] = {}
    for target in targets:
        form = target.format, target.precision, target.rewrites(target.format, target.precision)
        if form not in made:
            made[form] = _in_form(model, name, form)
        graph = made[form]
        if isinstance(graph, NotConverted):
            found[target.name] = graph
        elif target.format == "onnx":
            found[target.name] = place(graph, target)
        else:
            assumed = target.precision if target.precision in INTEGER else ""
            found[target.name] = place(as_if(graph, target.precision), target, assumed)
    return found


def _in_form(model: "ir.Model", name: str, form: Form) -> Graph | NotConverted:
    """Return a copy of ``model`` as a build of that form would hold it, or why it cannot be one."""
    from m4c.passes import for_format, legalized, without_ranges
    from m4c.targets.view_model import view_model

    file_format, precision, rewrites = form
    pipeline = (
        without_ranges(precision, file_format, rewrites)
        if precision in INTEGER
        else legalized(for_format(file_format), rewrites)
    )
    try:
        rewritten = pipeline.run(model.clone())[0]
        return view_model(rewritten, name) if file_format == "onnx" else _lowered(rewritten, name, form)
    except UnsupportedError as error:
        return NotConverted(name, f"{error.what} ({error.where})" if error.where else error.what, error.fix)


def _lowered(model: "ir.Model", name: str, form: Form) -> Graph | NotConverted:
    """Return what the accelerator gets of a rewritten ``model``, lowered to TFLite in memory."""
    from m4c.host_part import LOOKED_UP, is_step, of_many_dimensions, split
    from m4c.targets.emit_tflite import operators_for
    from m4c.targets.emit_tflite.emit import lower
    from m4c.targets.emit_tflite.halves import halve
    from m4c.targets.view_flat import view_flat

    _, precision, rewrites = form
    if "host" in rewrites:
        if is_step(model.graph):
            return NotConverted(name, LOOKED_UP, "nothing: the host does it", by_host=True)
        model = split(model)[1]
    elif "rank" in rewrites:
        model = split(model, of_many_dimensions)[1]
    flat = lower(model, operators=operators_for(rewrites))
    if precision == HALF:
        halve(flat)
    return located(view_flat(flat, name), origins_of(model))
