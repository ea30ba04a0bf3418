"""One node of a bundle in one chain: its module, the ONNX operator, the operators of the artifact, and the verdict on each."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m4c.bundle import GraphRecord, read_manifest
from m4c.errors import UsageError
from m4c.operator_reports.covered import known, read
from m4c.operator_reports.placement import Placement, place
from m4c.operator_reports.render_placement import reason_json
from m4c.origins import Origin, Origins, origin
from m4c.targets.legality import Illegal, Verdict
from m4c.targets.profile import Target, load_target
from m4c.targets.view import Graph, Node

SCHEMA = 1
"""Version of the JSON object: it changes when a key is renamed, removed or means something else."""

SUGGESTED = 5
"""How many names are suggested where there is none of that name."""


@dataclass(frozen=True, slots=True)
class Step:
    """An operator of an artifact on its target."""

    graph: str
    target: str
    node: Node
    origin: Origin | None
    verdict: Verdict
    partition: int | None
    """Which of the target's partitions runs it, None if none does."""


def explain(bundle: Path, name: str, target: Target | None = None) -> list[Step]:
    """Return every node of a bundle that ``name`` means, in execution order, on ``target`` or what it was built for.

    ``name`` is that of a value, a module path, or the index of a node; ``graph:name`` says in which graph.

    Raises:
        BundleError: if it is no bundle.
        UsageError: if nothing has that name, with those that are closest, or ``target`` takes none of the graphs that have it.
    """
    every = read_manifest(bundle).graphs
    graph, _, rest = name.partition(":")
    named = [one for one in every if one.name == graph]
    records, wanted = (named, rest) if named and rest else (every, name)
    views = [view for record in records for view in _views(bundle, record)]
    matches = [(view, found) for view in views if (found := _matching(view, wanted))]
    if not matches:
        raise _unknown(wanted, views)
    return [step for view, nodes in matches for step in _steps(view, nodes, target)]


@dataclass(frozen=True, slots=True)
class _View:
    record: GraphRecord
    graph: Graph
    origins: Origins

    def origin(self, node: Node) -> Origin | None:
        return origin(node.outputs[0].name, self.origins) if node.outputs else None


def _views(bundle: Path, record: GraphRecord) -> Iterator[_View]:
    """Yield the graphs of an artifact, a signature after another."""
    path, origins = bundle / record.file.path, known(bundle, record)
    for index, graph in enumerate(read(path)):
        yield _View(record, graph, origins[index] if origins else {})


def _matching(view: _View, wanted: str) -> list[Node]:
    """Return the nodes that a name means: an index, a value of the artifact, one of the model, a module or one in it."""
    if wanted.isdigit():
        return list(view.graph.nodes[int(wanted) : int(wanted) + 1])
    by_value = [n for n in view.graph.nodes if wanted in (n.where, *(t.name for t in n.outputs))]
    if by_value and wanted not in view.origins:
        return by_value
    origins = {node: view.origin(node) for node in view.graph.nodes}
    by_origin = [node for node, one in origins.items() if one is not None and one.value == wanted]
    inside = [
        node for node, one in origins.items() if one is not None and f"{one.module}.".startswith(f"{wanted}.")
    ]
    return by_origin or by_value or inside


def _steps(view: _View, nodes: list[Node], target: Target | None) -> Iterator[Step]:
    """Yield ``nodes`` as the target runs them."""
    placement: Placement = place(view.graph, target or load_target(view.record.processor))
    partitions = {node: index for index, part in enumerate(placement.cut.delegated) for node in part.nodes}
    for node in nodes:
        yield Step(
            view.record.name,
            placement.target.name,
            node,
            view.origin(node),
            placement.verdicts[node.index],
            partitions.get(node.index),
        )


def _unknown(wanted: str, views: list[_View]) -> UsageError:
    """Return the error of a name that nothing has, with those that are closest."""
    names: dict[str, None] = {}
    for view in views:
        for node in view.graph.nodes:
            names |= dict.fromkeys(tensor.name for tensor in node.outputs)
        for one in view.origins.values():
            names |= {one.value: None, one.module: None}
    close = difflib.get_close_matches(wanted, names, SUGGESTED, 0.4)
    within = [name for name in names if wanted and wanted in name and name not in close]
    found = (*close, *within)[:SUGGESTED]
    nodes = max(len(view.graph.nodes) for view in views)
    if wanted.isdigit():
        return UsageError(f"no graph has a node {wanted}", fix=f"the last one has the index {nodes - 1}")
    return UsageError(
        f"no node, value or module is called {wanted}",
        fix=f"close to it: {', '.join(found)}" if found else "m4c report BUNDLE --target … names nodes",
    )


def lines(steps: list[Step]) -> Iterator[str]:
    """Yield the chains as text."""
    for step in steps:
        node, one = step.node, step.origin
        made = f"#{node.index} {node.operator} → {', '.join(str(tensor) for tensor in node.outputs)}"
        chain = f"{one.module} → {one.operator} {one.value} → " if one is not None else ""
        yield f"{step.graph}: {chain}{made}"
        for text in _verdict(step):
            yield f"  {text}"


def _verdict(step: Step) -> Iterator[str]:
    """Yield the verdict, every reason with its fix, and every doubt."""
    if isinstance(step.verdict, Illegal):
        yield f"{step.target} does not run it"
        for reason in step.verdict.reasons:
            yield f"why: {reason.text} ({reason.source}; {reason.evidence})"
            yield f"fix: {reason.fix}"
    elif step.partition is None:
        yield f"{step.target} would run it, but its runtime leaves it to the CPU with what is around it"
    else:
        yield f"{step.target} runs it, in partition {step.partition + 1}; by lists and documented limits, an upper bound"
    for doubt in step.verdict.doubts:
        yield f"in doubt: {doubt.text}"


def to_json(steps: list[Step], name: str) -> dict[str, Any]:
    """Return the chains as a plain object of version ``SCHEMA``."""
    return {"schema": SCHEMA, "kind": "explanation", "name": name, "nodes": [_json(one) for one in steps]}


def _json(step: Step) -> dict[str, Any]:
    node, one = step.node, step.origin
    illegal = isinstance(step.verdict, Illegal)
    return {
        "graph": step.graph,
        "target": step.target,
        "module": one.module if one else None,
        "onnx": {"operator": one.operator, "value": one.value} if one else None,
        "node": node.index,
        "operator": node.operator,
        "values": [tensor.name for tensor in node.outputs],
        "legal": not illegal,
        "partition": step.partition,
        "reasons": [reason_json(r) for r in step.verdict.reasons]
        if isinstance(step.verdict, Illegal)
        else [],
        "doubts": [reason_json(r) for r in step.verdict.doubts],
        "evidence": "table",
        "upper_bound": True,
    }
