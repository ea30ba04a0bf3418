"""Evidence from LiteRT's own GPU delegate: it loads a TFLite file on a device, or on a driver that computes on the CPU.

It is asked for the GPU alone: with the CPU beside it, LiteRT calls a file fully accelerated of which XNNPACK took the rest.
Which operators it leaves, and why, is in its log, by operator and not by node; so every node of such an operator is asked
by itself. That runs in a process of its own, since a delegate that crashes must not end m4c.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m4c.errors import UsageError
from m4c.operator_reports.compilers import TABLES, compiler_of, refused, told
from m4c.operator_reports.litert_gpu_probe import BEGINS
from m4c.operator_reports.placement import Placement, place
from m4c.targets.legality import Legal
from m4c.targets.partition import cut
from m4c.targets.profile import Target
from m4c.targets.read_tflite import read_tflite
from m4c.targets.view import Graph, Node

DRIVER = "M4C_GPU_DRIVER"
"""The environment variable that names a folder with a Vulkan driver; without it, the one that the system has is asked."""

LIBRARY = "libvk_swiftshader.so"
INSTALL = (
    f"a GPU with a Vulkan driver, or one that computes on the CPU: unpack Debian's chromium-common (apt-get download "
    f"chromium-common; dpkg -x …), and set {DRIVER} to the folder in it that has {LIBRARY}"
)
PROBE = Path(__file__).with_name("litert_gpu_probe.py")
SECONDS = 600
"""A file, and the nodes of it that are asked, must be loaded by then."""

DEVICE = "Selected adapter:"
LISTED = "Following operations are not supported by GPU delegate:"
REASON = re.compile(r"^([A-Z][A-Z0-9_]*): (.*)$", re.MULTILINE)
COUNTED = re.compile(r"(\d+|No) operations will run on the GPU, and (?:the remaining|all) (\d+)")
TOGETHER = "float16 weights are left to the CPU as well, where not all else is taken"
SOURCE = "LiteRT's GPU delegate, its log"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the delegate did with a file."""

    error: str | None
    """What loading ended with; None if it took all."""
    said: str

    @property
    def reasons(self) -> Mapping[str, tuple[str, ...]]:
        """What it says of the operators that it leaves, by their names."""
        found: dict[str, tuple[str, ...]] = {}
        listed = COUNTED.split(self.said.partition(LISTED)[2])[0]
        for operator, text in REASON.findall(listed):
            found[operator] = (*found.get(operator, ()), text.strip())
        return found

    @property
    def taken(self) -> int | None:
        """How many operators it says that it runs, None if it says nothing of that."""
        match = COUNTED.search(self.said)
        return None if match is None else 0 if match[1] == "No" else int(match[1])


def compiled(path: Path, target: Target) -> tuple[Placement, ...]:
    """Return what LiteRT's GPU delegate takes of a TFLite file, one placement for each of its graphs.

    Raises:
        UsageError: if the target has no such compiler, there is no device, or the delegate fails on the file.
    """
    compiler_of(target, "tflite")
    given = read_tflite(path)
    (answer,) = asked([path])
    if answer.error is None:
        return tuple(_wholly(graph, target) for graph in given)
    if LISTED not in answer.said:
        raise UsageError(
            f"LiteRT's GPU delegate does not take the file: {answer.error.splitlines()[-1]}",
            where=str(path),
            fix=TABLES,
        )
    if len(given) > 1:
        raise UsageError(
            "LiteRT's GPU delegate does not take all of the file, and it has several graphs",
            where=str(path),
            fix="export one size",
        )
    return (_partly(path, given[0], answer, target),)


def _wholly(graph: Graph, target: Target) -> Placement:
    """Return a placement of all nodes in one partition."""
    nodes = tuple(range(len(graph.nodes)))
    return told(place(graph, target), tuple(Legal() for _ in nodes), [nodes])


def _partly(path: Path, graph: Graph, answer: Answer, target: Target) -> Placement:
    """Return where the nodes of a graph are that the delegate takes a part of."""
    foretold = place(graph, target)
    suspect = [node for node in graph.nodes if node.operator in answer.reasons and not _holds_weight(node)]
    alone = dict(zip((node.index for node in suspect), _alone(path, graph, suspect), strict=True))
    judged = list(foretold.verdicts)
    for node, verdict in zip(graph.nodes, foretold.verdicts, strict=True):
        found = alone.get(node.index)
        if _holds_weight(node):
            judged[node.index] = refused(verdict, node.operator, [TOGETHER], SOURCE)
        elif found is None or found.error is None:
            judged[node.index] = Legal(verdict.doubts)
        else:
            said = found.reasons.get(node.operator, ()) or (found.error.splitlines()[-1],)
            judged[node.index] = refused(verdict, node.operator, said, SOURCE)
    made = cut(graph, [isinstance(verdict, Legal) for verdict in judged], target.runtimes["tflite"].partition)
    if answer.taken != len(made.nodes):
        raise UsageError(
            f"LiteRT's GPU delegate runs {answer.taken} operators, and {len(made.nodes)} by what it does with single ones",
            where=str(path),
            fix=TABLES,
        )
    return told(foretold, tuple(judged), (partition.nodes for partition in made.delegated))


def _holds_weight(node: Node) -> bool:
    """Return whether ``node`` is a DEQUANTIZE of a stored weight in float16."""
    first = node.input(0)
    return node.operator == "DEQUANTIZE" and first is not None and first.constant and first.dtype == "float16"


def _alone(path: Path, graph: Graph, nodes: Sequence[Node]) -> list[Answer]:
    """Return what the delegate does with each of ``nodes`` by itself, its stored weights with it."""
    if not nodes:
        return []
    from m4c.targets.emit_tflite.single import single

    with tempfile.TemporaryDirectory(prefix="m4c-") as folder:
        files = []
        for node in nodes:
            files.append(Path(folder) / f"{node.index}.tflite")
            makers = [graph.producers.get(tensor) for tensor in node.inputs if tensor is not None]
            weights = {maker.index for maker in makers if maker is not None and _holds_weight(maker)}
            files[-1].write_bytes(single(path, [*sorted(weights), node.index]))
        return asked(files)


def asked(paths: Sequence[Path]) -> list[Answer]:
    """Return what the delegate does with each file.

    Raises:
        UsageError: if there is no device, or it ends the process.
    """
    with tempfile.TemporaryDirectory(prefix="m4c-") as folder:
        command = [sys.executable, str(PROBE), *map(str, paths)]
        try:
            done = subprocess.run(
                command,
                env=environment(Path(folder)),
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise UsageError(
                f"LiteRT's GPU delegate took longer than {SECONDS} s",
                where=str(paths[0]),
                fix="give a smaller graph",
            ) from error
    if DEVICE not in done.stderr:
        raise UsageError("LiteRT finds no GPU", fix=INSTALL)
    if done.returncode:
        last = paths[min(done.stdout.count("\n"), len(paths) - 1)]
        raise UsageError(
            f"LiteRT's GPU delegate ended its process with {done.returncode}", where=str(last), fix=TABLES
        )
    errors = [json.loads(line)["error"] for line in done.stdout.splitlines() if line.startswith('{"error"')]
    return [Answer(*pair) for pair in zip(errors, _parts(done.stderr), strict=True)]


def _parts(said: str) -> Iterator[str]:
    """Yield what was said of each file."""
    yield from re.split(rf"^{BEGINS}\d+$", said, flags=re.MULTILINE)[1:]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which the driver that the user names is found; ``folder`` is for what describes it.

    Raises:
        UsageError: if there is none where :data:`DRIVER` points to.
    """
    made = dict(os.environ)
    driver = made.get(DRIVER)
    if driver is None:
        return made
    library = Path(driver) / LIBRARY
    if not library.is_file():
        raise UsageError(f"{DRIVER} is {driver}, which has no {LIBRARY}", fix=INSTALL)
    described = {
        "file_format_version": "1.0.0",
        "ICD": {"library_path": str(library), "api_version": "1.0.5"},
    }
    file = folder / "driver.json"
    file.write_text(json.dumps(described), "utf-8")
    before = made.get("LD_LIBRARY_PATH")
    made["VK_ICD_FILENAMES"] = str(file)
    made["LD_LIBRARY_PATH"] = f"{driver}:{before}" if before else str(driver)
    return made
