"""Count the operators of the zoo and of M4 at every level, and judge both on every target. This needs minutes; what it finds is
stored as data.
"""

import importlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import onnx_ir as ir
import torch

from m4c.capture import OPSET, exported, to_model
from m4c.errors import M4CError
from m4c.model import operator_counts
from m4c.models import SUBMODELS
from m4c.models import build as build_submodel
from m4c.models.graph import Graph, Port
from m4c.operator_reports.captured import of_graph, of_model, of_submodel
from m4c.operator_reports.zoo import placed
from m4c.operator_reports.zoo.baseline import LEVELS, SCHEMA
from m4c.operator_reports.zoo.registry import BUILDERS
from m4c.parallel import in_processes
from m4c.passes import canonical
from m4c.passes.simplify import Simplify
from m4c.pipeline import Pipeline
from m4c.progress import Progress
from m4c.quiet import quiet
from m4c.skeleton import skeleton
from m4c.targets.profile import Target, load_target, names

Record = dict[str, Any]

FOLDING = "onnxscript.optimizer._constant_folding"
"""Tells of every constant that it cannot fold; the node stays, and is counted."""


def built(builder: str) -> tuple[Graph, ...]:
    """Return the graphs of ``builder``, such as ``text:roberta,20``; their weights are fake."""
    module, _, rest = builder.partition(":")
    function, *arguments = rest.split(",")
    make: Callable[..., tuple[Graph, ...]] = getattr(
        importlib.import_module(f"{__package__}.{module}"), function
    )
    with skeleton():
        return make(*map(int, arguments))


def parameters(graphs: tuple[Graph, ...]) -> int:
    """Return how many parameters ``graphs`` have, each counted once."""
    return sum(p.numel() for p in {id(p): p for g in graphs for p in g.module.parameters()}.values())


def counted(graph: Graph, progress: Progress) -> tuple[Record, ir.Model]:
    """Return how often each operator type occurs in ``graph`` at each of ``LEVELS``, and the model as it was translated.

    Raises:
        M4CError: if it cannot be captured, or a pass fails.
    """
    progress.stage(graph.name, "export")
    program = exported(graph)
    found = {"aten": _aten(program)}
    progress.stage(graph.name, "translate")
    model = to_model(graph if graph.outputs else replace(graph, outputs=_outputs(program)), program)
    found["onnx"] = operator_counts(model)
    progress.stage(graph.name, "passes")
    with quiet(FOLDING):
        found["optimized"] = operator_counts(Pipeline((Simplify(),)).run(model)[0])
        found["canonical"] = operator_counts(canonical().run(model)[0])
    return {level: dict(sorted(found[level].items())) for level in LEVELS}, model


def _aten(program: torch.export.ExportedProgram) -> Counter[str]:
    """Count the operators that a program calls, without their overloads; graphs within it are entered."""
    graphs = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    calls = [node.target for g in graphs for node in g.graph.nodes if node.op == "call_function"]
    packets = [packet for call in calls if (packet := getattr(call, "overloadpacket", None)) is not None]
    return Counter(str(packet).replace(".", "::") for packet in packets)


def _outputs(program: torch.export.ExportedProgram) -> tuple[Port, ...]:
    """Return ports for what a program returns."""
    (last,) = (node for node in program.graph.nodes if node.op == "output")
    values = [node.meta["val"] for node in last.args[0]]
    return tuple(Port(f"output_{i}", "float32", tuple(v.shape), "values") for i, v in enumerate(values))


def targets() -> tuple[Target, ...]:
    """Return every target that comes with m4c."""
    return tuple(map(load_target, names()))


def of_builder(builder: str, progress: Progress) -> tuple[Record, Record]:
    """Return the parameters and counts of a model of the zoo, and by target where each of its graphs runs.

    ``failed`` says why there are none.
    """
    graphs = built(builder)
    made: Record = {"parameters": parameters(graphs), "graphs": {}}
    runs: Record = {name: {} for name in names()}
    try:
        for graph in graphs:
            named = replace(graph, name=f"{builder}/{graph.name}")
            made["graphs"][graph.name], model = counted(named, progress)
            progress.stage(named.name, "targets")
            with quiet(FOLDING):
                found = (
                    of_graph(named, targets(), progress)
                    if graph.dynamic
                    else of_model(model, named.name, targets())
                )
            for target, one in found.items():
                runs[target][graph.name] = placed.row(one)
            progress.finished(named.name)
    except M4CError as error:
        made["failed"] = f"{graph.name}: {error.what}"
    progress.completed(builder)
    return made, runs


def of_m4(name: str, progress: Progress) -> tuple[Record, Record]:
    """Return the counts of the graphs of a sub-model of M4 at the paper's sizes, captured whole, and where each runs."""
    with skeleton():
        submodel = build_submodel(name, "m4")
    made = {g.name: counted(replace(g, repeats=None), progress)[0] for g in submodel.graphs_for()}
    found = of_submodel((name,), "m4", targets(), name, progress)
    runs = {target: {one.name: placed.row(one) for one in ones} for target, ones in found.items()}
    return made, runs


def measured(progress: Progress, jobs: int) -> tuple[Record, Record]:
    """Return the counts of all builders and of M4, and where they run, computed by ``jobs`` processes (0: one a core)."""
    models = in_processes(of_builder, BUILDERS, progress, jobs)
    m4 = in_processes(of_m4, tuple(SUBMODELS), progress, jobs)
    versions = ("torch", "transformers", "diffusers", "onnxscript")
    made_by = {
        "opset": OPSET,
        "libraries": {name: version(name).partition("+")[0] for name in versions},
    }
    counts = {
        "schema": SCHEMA,
        **made_by,
        "models": {builder: counts for builder, (counts, _) in zip(BUILDERS, models, strict=True)},
        "m4": {graph: counts for found, _ in m4 for graph, counts in found.items()},
    }
    runs = {
        "schema": placed.SCHEMA,
        **made_by,
        "targets": {target.name: target.digest for target in targets()},
        "models": {builder: found for builder, (_, found) in zip(BUILDERS, models, strict=True)},
        "m4": {
            target: {graph: row for _, found in m4 for graph, row in found[target].items()}
            for target in names()
        },
    }
    return counts, runs
