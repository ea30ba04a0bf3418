"""Which operators a graph is made of, whatever it is stored as: a model in hand, an ONNX file or a TFLite file.

What is counted: every node of the main graph, of the graphs inside it (bodies of ``If``, ``Loop`` and ``Scan``; the
sub-graphs of a TFLite file) and of the model's functions, each once where it is written. The type of a node is its
operator, with the domain in front where that is not ONNX's own. ``Constant`` and ``Identity`` count like any other;
initializers are no nodes. Weights are not read.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from m4c.errors import UsageError
from m4c.onnx_file import read_proto
from m4c.targets.read_tflite import is_tflite, read_tflite
from m4c.targets.view import Format, Graph

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class GraphOperators:
    """How often each operator type occurs in one graph; ``format`` tells whose operator names they are."""

    graph: str
    counts: Mapping[str, int]
    format: Format

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return sum(self.counts.values())

    @property
    def types(self) -> tuple[str, ...]:
        """The operator types, by name."""
        return tuple(sorted(self.counts))


@dataclass(frozen=True, slots=True)
class OperatorUse:
    """One operator type over several graphs: in how many it occurs, their share of all, and how often in total."""

    operator: str
    graphs: int
    share: float
    nodes: int


def of_model(name: str, model: "ir.Model") -> GraphOperators:
    """Count the operators of a model in hand."""
    # Imported here because onnx_ir takes half a second (it brings sympy), and the report of a file needs none of it.
    from m4c.model import operator_counts

    return GraphOperators(name, _sorted(operator_counts(model)), "onnx")


def of_file(path: Path) -> GraphOperators:
    """Count the operators of an ONNX or TFLite file, told apart by their content.

    Raises:
        UsageError: if the file is unreadable or neither.
    """
    return of_tflite(path) if is_tflite(path) else of_onnx(path)


def of_onnx(path: Path) -> GraphOperators:
    """Count the operators of an ONNX file; weights, inline or external, are not read.

    Raises:
        UsageError: if the file is unreadable or not an ONNX model.
    """
    proto = read_proto(path)
    counts = _onnx_counts(proto.graph.node)
    for function in proto.functions:
        counts += _onnx_counts(function.node)
    return GraphOperators(path.stem, _sorted(counts), "onnx")


def of_tflite(path: Path) -> GraphOperators:
    """Count the operators of a TFLite file by their built-in names (``CONV_2D``) or custom codes.

    Raises:
        UsageError: if the file is unreadable, not TFLite, or damaged.
    """
    return GraphOperators(path.stem, of_graphs(read_tflite(path)), "tflite")


def of_graphs(graphs: Iterable[Graph]) -> dict[str, int]:
    """Return how often each operator occurs in graphs of a file, by name."""
    return _sorted(Counter(node.operator for graph in graphs for node in graph.nodes))


def union(graphs: Sequence[GraphOperators]) -> tuple[OperatorUse, ...]:
    """Return every operator type that occurs in ``graphs``, by name, with how common it is.

    Raises:
        UsageError: if ONNX and TFLite graphs are mixed: their operators have different names.
    """
    if len({g.format for g in graphs}) > 1:
        names = ", ".join(f"{g.graph} ({g.format})" for g in graphs)
        raise UsageError(
            "ONNX and TFLite operators cannot be united", where=names, fix="unite each format by itself"
        )
    inside = Counter(operator for g in graphs for operator in g.counts)
    total = sum((Counter(g.counts) for g in graphs), Counter[str]())
    return tuple(OperatorUse(o, inside[o], inside[o] / len(graphs), total[o]) for o in sorted(total))


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _onnx_counts(nodes: Iterable[onnx.NodeProto]) -> Counter[str]:
    """Count nodes and those of the graphs inside them, under the names of :func:`m4c.model.operator`."""
    counts: Counter[str] = Counter()
    for node in nodes:
        counts[node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"] += 1
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                counts += _onnx_counts(graph.node)
    return counts
