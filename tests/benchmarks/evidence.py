"""What profiles foretell, beside what the targets' own compilers did: single operators, blocks, and all graphs of bundles.

    m4c export --target ethos-u55 --calibration random -o ethos-u55          (and qualcomm-htp with --format onnx; and others)
    PATH=…/vela/bin:$PATH M4C_QNN_PYTHON=…/qnn/bin/python python -m tests.benchmarks.evidence docs/evidence.md \\
        --bundles ethos-u55 qualcomm-htp

Single operators are the graphs that the tests of the TFLite emitter run: every operator that it knows, in several forms. Vela
takes them as int8 TFLite, LiteRT's GPU delegate as float16 TFLite (M4C_GPU_DRIVER=FOLDER), QNN as float ONNX. Blocks
(:mod:`tests.benchmarks.blocks`) are in int8, for a GPU in float16; where the target has rewrites, also without. A node is
foretold by the profile alone, then looked up in what the compiler made of it; of a file that the compiler does not take,
every node is refused.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.bundle import read_manifest
from m4c.errors import UsageError
from m4c.operator_reports.compilers import compiler_of
from m4c.operator_reports.judged import ASKED
from m4c.operator_reports.placement import Placement, place
from m4c.precisions import HALF
from m4c.targets.emit_tflite import to_tflite
from m4c.targets.legality import Illegal
from m4c.targets.profile import Target, load_target
from m4c.targets.read_onnx import read_onnx
from m4c.targets.read_tflite import read_tflite
from tests.benchmarks import blocks
from tests.targets.emit_tflite import (
    test_arithmetic,
    test_convolution,
    test_linear,
    test_normalization,
    test_shape,
)
from tests.targets.emit_tflite.graphs import Case, one, quantized, sample

COMPILERS = {
    "ethos-u55": "Vela 5.2.0",
    "ethos-u65": "Vela 5.2.0",
    "ethos-u85": "Vela 5.2.0",
    "gpu": "LiteRT 2.3.0, WebGPU on SwiftShader",
    "qualcomm-htp": "onnxruntime-qnn 2.7.0, SM8650",
}
"""The targets whose compiler is asked."""

SETS = ("single operators", "blocks", "graphs of M4")
"""What they are asked about."""


@dataclass(frozen=True)
class File:
    """A graph in a file: which of :data:`SETS` it is of, and what it is called there."""

    kind: str
    name: str
    path: Path


@dataclass(frozen=True)
class Compared:
    """A node as it was foretold and as it was found: where it runs, and why not elsewhere."""

    file: File
    operator: str
    foretold: bool
    found: bool
    said: str
    answered: str


def cases() -> dict[str, Case]:
    """Return every graph of the emitter's tests, by a name of its own."""
    alone = {**test_arithmetic.CASES, **test_normalization.CASES}
    with_operators = (test_linear.CASES, test_convolution.CASES, test_shape.CASES)
    return alone | {name: case for table in with_operators for name, (_, case) in table.items()}


def files(target: Target, folder: Path, bundles: list[Path]) -> Iterator[File]:
    """Write every graph that the compiler of ``target`` is asked about, and find those of bundles."""
    suffix = suffix_of(target)
    for name, case in cases().items():
        yield File(SETS[0], name, written(case, folder / f"{name}{suffix}", target))
    runtime = target.runtimes[suffix.removeprefix(".")]
    forms = {"": runtime.rewrites} | ({", as it is": frozenset[str]()} if runtime.rewrites else {})
    for name, block in blocks.BLOCKS.items():
        for form, rewrites in forms.items():
            path = blocks.written(block, folder / f"{name}{form}{suffix}", rewrites, target.precision)
            yield File(SETS[1], f"{name}{form}", path)
    for bundle in bundles:
        for graph in read_manifest(bundle).graphs:
            if graph.file.path.endswith(suffix):
                yield File(SETS[2], f"{bundle.name}: {graph.name}", bundle / graph.file.path)


def suffix_of(target: Target) -> str:
    """Return the ending of the files that the compiler of ``target`` takes."""
    runtime = target.runtimes.get("onnx")
    return ".onnx" if runtime is not None and runtime.compiler is not None else ".tflite"


def written(case: Case, path: Path, target: Target) -> Path:
    """Write a case as ``path`` ends: as float ONNX, or as TFLite, in float16 for a target of that and else in int8."""
    model = one(case)
    if path.suffix == ".tflite" and target.precision == HALF:
        to_tflite(model, path, half=True)
    elif path.suffix == ".tflite":
        quantized(model, sample(model, np.random.default_rng(0)))
        to_tflite(model, path)
    else:
        ir.save(model, path)
    return path


def compared(target: Target, file: File) -> list[Compared]:
    """Return every node of a file, as it was foretold and as it was found."""
    onnx = file.path.suffix == ".onnx"
    try:
        answers = ASKED[compiler_of(target, "onnx" if onnx else "tflite").name](file.path, target)
    except UsageError as error:
        graphs = (read_onnx if onnx else read_tflite)(file.path)
        foretold = [place(graph, target) for graph in graphs]
        return [
            Compared(
                file, node.operator, node.index in table.cut.nodes, False, said(table, node.index), error.what
            )
            for table in foretold
            for node in table.graph.nodes
        ]
    found = []
    for made in answers:
        table = place(made.graph, target)
        for node in made.graph.nodes:
            there, here = (node.index in one.cut.nodes for one in (table, made))
            told = said(table, node.index), said(made, node.index)
            found.append(Compared(file, node.operator, there, here, *told))
    return found


def said(placement: Placement, index: int) -> str:
    """Return where a node is, or why it is not on the target."""
    if index in placement.cut.nodes:
        return "runs"
    verdict = placement.verdicts[index]
    if placement.refused is not None:
        return f"the file is refused: {placement.refused.text}"
    if isinstance(verdict, Illegal):
        return "; ".join(reason.text for reason in verdict.reasons)
    return "in no partition"


def page(results: dict[str, list[Compared]]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield from (
        "# Evidence",
        "",
        "What a profile foretells of every node, beside what the target's own compiler did with it. Single operators are",
        "the graphs of the TFLite emitter's tests, blocks those of `tests/benchmarks/blocks.py`, and graphs of M4 those of",
        "bundles. Of a file that a compiler does not take, every node is refused. Written by `python -m",
        "tests.benchmarks.evidence docs/evidence.md --bundles …`.",
        "",
        "| target | compiler | of | graphs | nodes | both run | both refuse | foretold, refused | not foretold, run "
        "| refusals foretold | foretold rightly |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    )
    for target, nodes in results.items():
        for kind in (*SETS, "all"):
            yield _row(target, kind, [one for one in nodes if kind in (one.file.kind, "all")])
    for target, nodes in results.items():
        wrong = Counter(
            (one.file.name, one.operator, one.said, one.answered)
            for one in nodes
            if one.foretold != one.found
        )
        if wrong:
            yield from ("", f"## Where they differ: {target}", "")
            yield from ("| graph | nodes | operator | the profile | the compiler |", "|---|---:|---|---|---|")
        for (graph, operator, *texts), count in wrong.items():
            yield f"| {graph} | {count} | {operator} | {' | '.join(map(_cell, texts))} |"


def _row(target: str, kind: str, nodes: list[Compared]) -> str:
    """Return the counts of some nodes; shares are of the nodes that the compiler refused, and of all."""
    counts = Counter((one.foretold, one.found) for one in nodes)
    both, none, refused, run = (
        counts[c] for c in ((True, True), (False, False), (True, False), (False, True))
    )
    graphs = len({one.file.path for one in nodes})
    shares = (_share(none, none + refused), _share(both + none, len(nodes)))
    cells = (target, COMPILERS[target], kind, graphs, len(nodes), both, none, refused, run, *shares)
    return f"| {' | '.join(map(str, cells))} |"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Ask every compiler, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--targets", nargs="+", choices=COMPILERS, default=list(COMPILERS))
    parser.add_argument("--bundles", nargs="+", type=Path, default=[])
    arguments = parser.parse_args()
    results = {}
    for name in arguments.targets:
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
            target = load_target(name)
            work = partial(compared, target)
            asked = pool.map(work, files(target, Path(folder), arguments.bundles))
            results[name] = [node for nodes in asked for node in nodes]
    arguments.page.write_text("\n".join(page(results)) + "\n", "utf-8")


if __name__ == "__main__":
    main()
