"""What a report can be about: a preset, a bundle, or a file. Presets are captured without any weights."""

import dataclasses
from functools import partial
from pathlib import Path

from m4c.bundle import MANIFEST, read_manifest
from m4c.errors import UsageError
from m4c.models import PRESETS, SUBMODELS
from m4c.operator_reports.coverage import GraphOperators, of_file, of_model
from m4c.parallel import in_processes
from m4c.progress import Progress


def operators_of(subject: str, progress: Progress, jobs: int = 1) -> list[GraphOperators]:
    """Return the operators of every graph of ``subject``; a preset is captured by ``jobs`` processes (0: one a core).

    Raises:
        UsageError: if it is neither a preset nor a bundle nor a readable file.
    """
    path = Path(subject)
    if subject in PRESETS:
        submodels = in_processes(partial(of_submodel, subject), tuple(SUBMODELS), progress, jobs)
        return [graph for graphs in submodels for graph in graphs]
    if (path / MANIFEST).is_file():
        return [
            dataclasses.replace(of_file(path / graph.file.path), graph=graph.name)
            for graph in read_manifest(path).graphs
        ]
    if path.is_file():
        return [of_file(path)]
    raise UsageError(
        f"there is nothing to report on at {subject}",
        fix=f"give a preset ({', '.join(PRESETS)}), a bundle, an .onnx or a .tflite file",
    )


def of_submodel(preset: str, name: str, progress: Progress) -> list[GraphOperators]:
    """Capture and canonicalize the graphs of a sub-model; its weights are never there."""
    from m4c.capture import capture
    from m4c.models import build
    from m4c.passes import canonical
    from m4c.skeleton import skeleton

    with skeleton():
        submodel = build(name, preset)
    made = []
    for graph in submodel.graphs_for():
        progress.stage(graph.name, "capture")
        model = capture(graph)
        progress.stage(graph.name, "passes")
        made.append(of_model(graph.name, canonical().run(model)[0]))
        progress.finished(graph.name)
    progress.completed(name)
    return made
