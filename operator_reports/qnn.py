"""Evidence from Qualcomm's own compiler: ONNX Runtime's QNN provider takes an ONNX file and compiles it for a Hexagon.

It needs no device, but libraries that come with it; its process has a Python of its own, which may be another environment's.
ONNX Runtime first optimizes the graph, as it does for a user, so a node may be in another one: it is where that is. A QNN that
does not load puts everything on the CPU and says nothing: so a graph that must run there is asked along, a single Relu.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from m4c.errors import UsageError
from m4c.operator_reports.compilers import TABLES, compiler_of, refused, told
from m4c.operator_reports.placement import Placement, place
from m4c.targets.legality import Legal
from m4c.targets.profile import SOCS, Target
from m4c.targets.read_onnx import read_onnx
from m4c.targets.view import Graph, consumers

PYTHON = "M4C_QNN_PYTHON"
"""The environment variable that names the Python to run it by; without it, the one that runs m4c."""

INSTALL = (
    f"pip install onnxruntime-qnn==2.7.0 in an environment of its own, and set {PYTHON} to its bin/python "
    "(the libraries in it have Qualcomm's own licence)"
)
PROBE = Path(__file__).with_name("qnn_probe.py")
REASON = re.compile(r"REASON : (.*?)\.\s*\S+ node `([^`]*)` will not be assigned to QNN EP")
INVALID = re.compile(
    r"QNN\.(\w+)\(\) failed for node `(n\d+)(?:_\d+)?` of type `[^`]*` with (error code \d+)"
)
"""Two things that QNN says of a node it refuses: that its list has no such operator, or that its own validation failed."""

SECONDS = 600
"""A compile that takes longer is given up."""

SILENT = "QNN left it to the CPU without a reason"

NAMED = re.compile(r"n(\d+)(?!\d)")
"""Begins the name of a node while QNN is asked, also after ONNX Runtime put it into another: ``n12/MatMulAddFusion``."""

WORKS = '<ir_version: 10, opset_import: ["" : 20]> g (float[1, 4] x) => (float[1, 4] y) { [n0] y = Relu(x) }'
"""What every QNN takes."""

Assigned = Mapping[str, int | None]
"""The partition of every node by its name, None for the CPU."""


def named(index: int) -> str:
    """Return what a node is called while QNN is asked."""
    return f"n{index}"


def compiled(path: Path, target: Target) -> tuple[Placement, ...]:
    """Return where QNN puts every node of an ONNX file.

    Raises:
        UsageError: if the target has no such compiler, it is not installed, it takes nothing at all, or not the file.
    """
    soc = compiler_of(target, "onnx").machine
    (graph,) = read_onnx(path)
    with tempfile.TemporaryDirectory(prefix="m4c-") as folder:
        numbered, works = Path(folder) / "numbered.onnx", Path(folder) / "works.onnx"
        onnx.save(onnx.parser.parse_model(WORKS), works)
        proto = onnx.load(path, load_external_data=False)
        for index, node in enumerate(proto.graph.node):
            node.name = named(index)
        onnx.save(proto, numbered)
        answers, said = _run(path, soc, [(works, Path(folder)), (numbered, path.parent.resolve())])
    sane, found = answers
    if sane != {named(0): 0}:
        raise UsageError("QNN does not work: it takes no single Relu", fix=INSTALL)
    return (as_assigned(replace(graph, name=path.stem), found, said, target),)


def _run(path: Path, soc: str, graphs: list[tuple[Path, Path]]) -> tuple[list[Assigned], str]:
    """Return what QNN assigned of each graph, and what it said."""
    python = os.environ.get(PYTHON) or sys.executable
    files = [str(part) for pair in graphs for part in pair]
    command = [python, str(PROBE), *SOCS[soc], *files]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"QNN took longer than {SECONDS} s", where=str(path), fix="give a smaller graph"
        ) from error
    except OSError as error:
        raise UsageError(f"{python} does not run: {error.strerror}", fix=INSTALL) from error
    if "No module named 'onnxruntime_qnn'" in done.stderr:
        raise UsageError("onnxruntime-qnn is not installed", fix=INSTALL)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise UsageError(
            f"QNN does not take the file: {' '.join(last) or f'exit status {done.returncode}'}",
            where=str(path),
            fix=TABLES,
        )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stderr


def as_assigned(graph: Graph, answer: Assigned, said: str, target: Target) -> Placement:
    """Return where the nodes of ``graph`` are by an ``answer`` for the names that they had; QNN ``said`` why not."""
    reasons = {name: f"QNN's {check} failed with {code}" for check, name, code in INVALID.findall(said)}
    reasons |= {name: text.strip() for text, name in REASON.findall(said)}
    foretold = place(graph, target)
    found = _everywhere(graph, answer)
    judged = tuple(
        refused(
            verdict, node.operator, [reasons.get(named(node.index), SILENT)], "onnxruntime-qnn, what it logs"
        )
        if found[node.index] is None
        else Legal(verdict.doubts)
        for node, verdict in zip(graph.nodes, foretold.verdicts, strict=True)
    )
    groups: dict[int, list[int]] = {}
    for index, partition in sorted(found.items()):
        if partition is not None:
            groups.setdefault(partition, []).append(index)
    return told(foretold, judged, map(tuple, groups.values()))


def _everywhere(graph: Graph, answer: Assigned) -> dict[int, int | None]:
    """Return the partition of every node: one that is in another is where its first reader is, else where its maker is."""
    found = {int(match[1]): part for name, part in answer.items() if (match := NAMED.match(name))}
    readers, makers = consumers(graph.nodes), graph.producers
    for node in reversed(graph.nodes):
        behind = [reader.index for tensor in node.outputs for reader in readers.get(tensor, ())]
        if node.index not in found and behind:
            found[node.index] = found[behind[0]]
    for node in graph.nodes:
        before = [makers[t].index for t in node.inputs if t is not None and t in makers]
        if node.index not in found:
            found[node.index] = found[before[0]] if before else None
    return found
