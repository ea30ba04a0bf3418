"""Measure what the report on scaling is made of: bytes of M4's files, of values at once, and parameters of adapters."""

from typing import Any

from m4c.adapters.places import places
from m4c.models import CACHED, SUBMODELS, build
from m4c.operator_reports.zoo.activations import activation_bytes
from m4c.operator_reports.zoo.measure import built
from m4c.operator_reports.zoo.registry import BUILDERS
from m4c.operator_reports.zoo.scaling import SCHEMA
from m4c.parallel import in_processes
from m4c.precisions import BITS, HALF
from m4c.progress import Progress
from m4c.request import Request
from m4c.resources import estimate
from m4c.scheme import scheme
from m4c.skeleton import skeleton
from m4c.targets.profile import load_target

Record = dict[str, Any]

RANK = 4
"""Of the adapters: the paper's default (its Table 4)."""

ADAPTED = ("q_proj", "v_proj", "to_q", "to_v")
"""Queries and values, which these adapters change, by the names of their modules."""

PAST = 511
"""Steps that the backbone's cache holds in a call, one less than a round number of positions."""

TARGETS = {HALF: "gpu", **dict.fromkeys(BITS, "cpu")}
"""What M4 is built for, by precision."""


def of_builder(builder: str, progress: Progress) -> dict[str, int]:
    """Return the bytes of values of each graph of a model of the zoo."""
    found = {graph.name: activation_bytes(graph) for graph in built(builder)}
    progress.completed(builder)
    return found


def of_submodel(name: str, progress: Progress) -> Record:
    """Return of a sub-model the bytes of its export in each precision, of its graphs' values, and its adapter's parameters."""
    with skeleton():
        submodel = build(name, "m4")
    found = {
        "bytes": {precision: _exported_bytes(name, precision) for precision in TARGETS},
        "activations": {
            graph.name: activation_bytes(graph.sized({**graph.static, **_steps(name)}))
            for graph in submodel.graphs_for()
        },
        "adapter": RANK
        * sum(
            sum(place.shape)
            for path, place in places(submodel.source).items()
            if path.rpartition(".")[2] in ADAPTED
        ),
    }
    progress.completed(name)
    return found


def _steps(name: str) -> dict[str, int]:
    return {"past": PAST} if name == CACHED else {}


def _exported_bytes(name: str, precision: str) -> int:
    """Return how many bytes an export of a sub-model at the paper's sizes takes, test vectors included."""
    request = Request(
        load_target(TARGETS[precision]),
        (name,),
        preset="m4",
        precision=precision,
        scheme=scheme(precision, None, True, "rtn", (), None),
    )
    return estimate(request, 1).output_bytes


def measured(progress: Progress, jobs: int) -> Record:
    """Return all that is stored, computed by ``jobs`` processes (0: one a core)."""
    models = in_processes(of_builder, BUILDERS, progress, jobs)
    m4 = in_processes(of_submodel, tuple(SUBMODELS), progress, jobs)
    return {
        "schema": SCHEMA,
        "models": dict(zip(BUILDERS, models, strict=True)),
        "m4": dict(zip(SUBMODELS, m4, strict=True)),
    }
