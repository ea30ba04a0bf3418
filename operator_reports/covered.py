"""What of an artifact runs on its target, as an export records it: the figures of a report, in short."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from m4c.bundle import BreakRecord, CoverageRecord, GraphRecord, ShareRecord
from m4c.errors import UnsupportedError, UsageError
from m4c.operator_reports.placement import Break, Placement, place
from m4c.origins import Origins, origin, origins_of, read_origins
from m4c.targets.legality import runtime_of
from m4c.targets.profile import Target
from m4c.targets.read_onnx import read_onnx
from m4c.targets.read_tflite import is_tflite, read_tflite
from m4c.targets.view import Graph, Node

if TYPE_CHECKING:
    import onnx_ir as ir


def covered(
    path: Path, name: str, target: Target, models: "Mapping[str, ir.Model]", strict: bool
) -> dict[str, CoverageRecord]:
    """Return what runs on ``target`` of the artifact at ``path``, by its signatures; the file is read, nothing is captured.

    ``models`` are what was emitted for each signature, in the order of the file; nothing is returned where the target takes no
    graphs of that format.

    Raises:
        UnsupportedError: if ``strict`` and a node does not run there; it names the first, its reason and its fix.
    """
    form = "tflite" if is_tflite(path) else "onnx"
    try:
        runtime_of(target, form)
    except UsageError as error:
        if strict:
            raise UnsupportedError(error.what, where=name, fix=error.fix) from error
        return {}
    origins = [origins_of(model) for model in models.values()]
    found = {}
    for signature, graph in zip(models, read(path, origins), strict=True):
        placement = place(graph, target)
        if strict and placement.first_break is not None:
            raise _refused(placement.first_break, name, target)
        found[signature] = recorded(placement)
    return found


def known(folder: Path, record: GraphRecord) -> tuple[Origins, ...]:
    """Return the origins of the values of an artifact of the bundle at ``folder``, a signature after another."""
    if record.origins is None:
        return ()
    found = read_origins(folder / record.origins.path)
    return tuple(found[one.signature] for one in record.signatures)


def read(path: Path, origins: Sequence[Origins] = ()) -> tuple[Graph, ...]:
    """Return the graphs of an artifact; nodes whose origin is known are where their module is.

    ``origins`` are those of the graphs in the order of the file, or none.
    """
    graphs = read_tflite(path) if is_tflite(path) else read_onnx(path)
    if not origins:
        return graphs
    return tuple(located(graph, known) for graph, known in zip(graphs, origins, strict=True))


def located(graph: Graph, origins: Origins) -> Graph:
    """Return ``graph`` with each node where its module is, if that is known."""
    nodes = tuple(_located(node, origins) for node in graph.nodes)
    return Graph(graph.name, graph.format, nodes, graph.inputs, graph.outputs)


def _located(node: Node, origins: Origins) -> Node:
    found = origin(node.outputs[0].name, origins) if node.outputs else None
    return node if found is None else replace(node, where=found.module)


def recorded(placement: Placement) -> CoverageRecord:
    """Return a placement as a manifest has it."""
    delegated, whole = placement.taken, placement.whole
    return CoverageRecord(
        runtime=placement.runtime,
        outcome=placement.outcome,
        nodes=ShareRecord(len(placement.graph.nodes), placement.legal, len(placement.delegated)),
        macs=ShareRecord(whole.macs, placement.allowed.macs, delegated.macs),
        partitions=len(placement.cut.delegated),
        first_break=_break(placement.first_break),
        refused=None if placement.refused is None else placement.refused.text,
        evidence=placement.evidence,
        upper_bound=placement.evidence == "table",
    )


def _break(found: Break | None) -> BreakRecord | None:
    if found is None:
        return None
    node, reasons = found.node, found.reasons
    texts = tuple(reason.text for reason in reasons)
    return BreakRecord(node.index, node.operator, node.where, texts, reasons[0].fix)


def _refused(found: Break, name: str, target: Target) -> UnsupportedError:
    """Return the error of a graph of which ``found`` does not run."""
    node, reason = found.node, found.reasons[0]
    return UnsupportedError(
        f"{target.name} does not run all of {name}: {reason.text}",
        where=f"{name}: #{node.index} {node.operator} ({node.where})",
        fix=f"{reason.fix}; or leave out --fallback error",
    )
