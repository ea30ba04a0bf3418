"""Which operators a graph is made of, whatever it is stored as: a model in hand, an ONNX file or a TFLite file.

What is counted: every node of the main graph, of the graphs inside it (bodies of ``If``, ``Loop`` and ``Scan``; the
sub-graphs of a TFLite file) and of the model's functions, each once where it is written. The type of a node is its
operator, with the domain in front where that is not ONNX's own. ``Constant`` and ``Identity`` count like any other;
initializers are no nodes. Weights are not read.
"""

import mmap
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx
from ai_edge_litert import schema_py_generated as schema
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from m4c.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

Format = Literal["onnx", "tflite"]

TFLITE_IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of every TFLite file."""


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
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise UsageError(
            f"cannot read the graph: {error.strerror}", where=str(path), fix="give an .onnx or .tflite file"
        ) from error
    return of_tflite(path) if head[4:] == TFLITE_IDENTIFIER else of_onnx(path)


def of_onnx(path: Path) -> GraphOperators:
    """Count the operators of an ONNX file; external weights are not opened, inline ones not decoded.

    Raises:
        UsageError: if the file is unreadable or not an ONNX model.
    """
    fix = "give an .onnx file"
    try:
        proto = onnx.load_model(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise UsageError(f"cannot read the graph: {error.strerror}", where=str(path), fix=fix) from error
    except DecodeError as error:
        raise UsageError(f"not an ONNX model: {error}", where=str(path), fix=fix) from error
    # Almost any few bytes, none at all included, parse as some message: a model says its version and has a graph.
    if not proto.ir_version or not proto.HasField("graph"):
        raise UsageError("not an ONNX model: it has no graph", where=str(path), fix=fix)
    counts = _onnx_counts(proto.graph.node)
    for function in proto.functions:
        counts += _onnx_counts(function.node)
    return GraphOperators(path.stem, _sorted(counts), "onnx")


def of_tflite(path: Path) -> GraphOperators:
    """Count the operators of a TFLite file by their built-in names (``CONV_2D``) or custom codes.

    The file is mapped, so that only the pages that hold the graph are read.

    Raises:
        UsageError: if the file is unreadable, not TFLite, or damaged.
    """
    fix = "give a .tflite file"
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[4:8] != TFLITE_IDENTIFIER:
                raise UsageError("not a TFLite model: bytes 4 to 8 are not TFL3", where=str(path), fix=fix)
            counts = _tflite_counts(content)
    except OSError as error:
        raise UsageError(f"cannot read the graph: {error.strerror}", where=str(path), fix=fix) from error
    except ValueError as error:  # mmap: an empty file
        raise UsageError(f"not a TFLite model: {error}", where=str(path), fix=fix) from error
    except (struct.error, IndexError, TypeError, UnicodeDecodeError) as error:  # offsets that lead nowhere
        raise UsageError(f"the TFLite model is damaged: {error}", where=str(path), fix=fix) from error
    return GraphOperators(path.stem, _sorted(counts), "tflite")


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


def _tflite_counts(content: mmap.mmap) -> Counter[str]:
    model = schema.Model.GetRootAs(content, 0)
    names = [_tflite_name(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
    counts: Counter[str] = Counter()
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        counts.update(names[graph.Operators(i).OpcodeIndex()] for i in range(graph.OperatorsLength()))
    return counts


def _tflite_name(code: schema.OperatorCode) -> str:
    """Return an operator's name; old files keep its number in a byte, where 127 stands for all later ones."""
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if number == schema.BuiltinOperator.CUSTOM:
        return (code.CustomCode() or b"CUSTOM").decode()
    names = _builtin_names()
    if number not in names:
        raise IndexError(f"operator number {number} is unknown")
    return names[number]


@cache
def _builtin_names() -> dict[int, str]:
    codes = vars(schema.BuiltinOperator).items()
    return {number: name for name, number in codes if isinstance(number, int) and not name.startswith("_")}
