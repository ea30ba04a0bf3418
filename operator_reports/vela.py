"""Evidence from Arm's own compiler: Vela takes a file, and what it left to the CPU is read from the file that it writes.

Its printed totals count steps of its own and not the model's operators, and its exit status is 0 even if nothing runs on the
NPU: neither is used. Reasons are in its warnings. Vela is optional: it is run as a program that the user installed.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from m4c.errors import UsageError
from m4c.operator_reports.compilers import TABLES, compiler_of, refused, told
from m4c.operator_reports.placement import Placement, place
from m4c.targets.legality import Legal
from m4c.targets.partition import epochs
from m4c.targets.profile import Target
from m4c.targets.read_tflite import read_tflite
from m4c.targets.view import Graph, Tensor

PROGRAM = "vela"
INSTALL = "pip install 'm4c[compilers]', or ethos-u-vela==5.2.0 in an environment of its own with its vela on the PATH"
NPU = "ethos-u"
"""The custom operator that stands for what runs on the NPU."""

SILENT = "Vela left it on the CPU without a reason"

WARNING = re.compile(r"Warning \(supported operators\) operator: (\S+), ofm: '(.*)'\n\s*Reason: (.*)")
EXCEPTION = re.compile(r"^\w+Error: ", re.MULTILINE)
SECONDS = 600
"""A compile that takes longer is given up."""


def compiled(path: Path, target: Target) -> tuple[Placement, ...]:
    """Return where Vela puts every node of a TFLite file, one placement for each of its graphs.

    Raises:
        UsageError: if the target has no such compiler, it is not installed, or it does not take the file.
    """
    compiler = compiler_of(target, "tflite").machine
    given = read_tflite(path)
    if any(node.operator == NPU for graph in given for node in graph.nodes):
        raise UsageError(
            "Vela has compiled this file already", where=str(path), fix="give the file before it"
        )
    with tempfile.TemporaryDirectory(prefix="m4c-") as folder:
        said = _run(path, compiler, Path(folder))
        made = read_tflite(Path(folder) / f"{path.stem}_vela.tflite")
        return tuple(as_compiled(graph, done, said, target) for graph, done in zip(given, made, strict=True))


def _run(path: Path, configuration: str, folder: Path) -> str:
    """Run Vela and return what it says."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise UsageError(f"{PROGRAM} is not installed", fix=INSTALL)
    command = [program, str(path), "--accelerator-config", configuration, "--output-dir", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"Vela took longer than {SECONDS} s", where=str(path), fix="give a smaller graph"
        ) from error
    if done.returncode or not (folder / f"{path.stem}_vela.tflite").is_file():
        raise UsageError(
            f"Vela does not take the file: {_error(done.stderr or done.stdout)}",
            where=str(path),
            fix=TABLES,
        )
    return done.stdout


def _error(said: str) -> str:
    """Return what Vela ended with: an exception's whole text, without the trace before it, or else its last line."""
    found = list(EXCEPTION.finditer(said))
    text = said[found[-1].start() :] if found else "".join(said.strip().splitlines()[-1:])
    return " ".join(text.split()) or "it wrote nothing"


def _warnings(said: str) -> dict[str, str]:
    """Return the reason for each tensor whose operator Vela refused."""
    return {tensor: reason.strip() for _, tensor, reason in WARNING.findall(said)}


def as_compiled(graph: Graph, made: Graph, said: str, target: Target) -> Placement:
    """Return what became of ``graph`` in ``made``: a node that is still there runs on the CPU, and Vela ``said`` why."""
    warnings = _warnings(said)
    left = {tensor.name for node in made.nodes if node.operator != NPU for tensor in node.outputs}
    foretold = place(graph, target)
    judged = tuple(
        refused(
            verdict,
            node.operator,
            [warnings[t.name] for t in node.outputs if t.name in warnings] or [SILENT],
            "ethos-u-vela, its warnings",
        )
        if any(tensor.name in left for tensor in node.outputs)
        else Legal(verdict.doubts)
        for node, verdict in zip(graph.nodes, foretold.verdicts, strict=True)
    )
    supported = [isinstance(verdict, Legal) for verdict in judged]
    groups = epochs(graph.nodes, supported)
    if len(groups) != sum(node.operator == NPU for node in made.nodes):
        groups = list(_traced(graph, made, supported))
    return told(foretold, judged, groups)


def _traced(graph: Graph, made: Graph, supported: list[bool]) -> Iterator[tuple[int, ...]]:
    """Yield the nodes of ``graph`` in each NPU operator of ``made``: all that its outputs need, up to its inputs.

    The file does not say it of every node: what an earlier NPU operator left in scratch memory is no input. So this is asked
    only where Vela cuts otherwise than the greedy epochs that it was seen to equal.
    """
    makers = graph.producers
    tensors: dict[str, Tensor] = {tensor.name: tensor for tensor in makers}
    for node in made.nodes:
        if node.operator != NPU:
            continue
        stop = {tensor.name for tensor in node.inputs if tensor is not None and not tensor.constant}
        open_ = [tensors[tensor.name] for tensor in node.outputs if tensor.name in tensors]
        found: set[int] = set()
        while open_:
            maker = makers.get(open_.pop())
            if maker is None or maker.index in found or not supported[maker.index]:
                continue
            found.add(maker.index)
            open_ += [t for t in maker.inputs if t is not None and t.name not in stop]
        yield tuple(sorted(found))
