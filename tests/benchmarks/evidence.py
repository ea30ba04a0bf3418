"""What profiles foretell, beside what the targets' own compilers did: single operators, one graph each.

    PATH=…/vela/bin:$PATH M4C_QNN_PYTHON=…/qnn/bin/python python -m tests.benchmarks.evidence docs/evidence.md

The graphs are those that the tests of the TFLite emitter run: every operator that it knows, in several forms. Vela takes them
as int8 TFLite, QNN as float ONNX. A node is foretold by the profile alone, then looked up in what the compiler made of it.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.errors import UsageError
from m4c.operator_reports import qnn, vela
from m4c.operator_reports.placement import Break, place
from m4c.targets.emit_tflite import to_tflite
from m4c.targets.legality import Illegal, Verdict
from m4c.targets.profile import Target, load_target
from m4c.targets.read_onnx import read_onnx
from m4c.targets.read_tflite import read_tflite
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
    "ethos-u85": "Vela 5.2.0",
    "qualcomm-htp": "onnxruntime-qnn 2.7.0, SM8650",
}
"""The targets whose compiler is asked."""


@dataclass(frozen=True)
class Compared:
    """A node as it was foretold and as it was found."""

    case: str
    operator: str
    foretold: Verdict
    found: Verdict

    @property
    def agrees(self) -> bool:
        """Whether both put it in one place."""
        return isinstance(self.foretold, Illegal) == isinstance(self.found, Illegal)


@dataclass(frozen=True)
class Failed:
    """A file that the compiler ended on without a result, and the first node of it that the profile refuses."""

    case: str
    foretold: Break | None
    why: str


Result = tuple[list[Compared], list[Failed]]


def cases() -> dict[str, Case]:
    """Return every graph of the emitter's tests, by a name of its own."""
    alone = {**test_arithmetic.CASES, **test_normalization.CASES}
    with_operators = (test_linear.CASES, test_convolution.CASES, test_shape.CASES)
    return alone | {name: case for table in with_operators for name, (_, case) in table.items()}


def written(case: Case, path: Path) -> Path:
    """Write a case as float ONNX, or as int8 TFLite if ``path`` ends in that."""
    model = one(case)
    if path.suffix == ".tflite":
        quantized(model, sample(model, np.random.default_rng(0)))
        to_tflite(model, path)
    else:
        ir.save(model, path)
    return path


def compared(target: Target, folder: Path) -> Result:
    """Return every node of every case, and the files that the compiler ended on."""
    suffix, compiler = (".onnx", qnn) if target.name == "qualcomm-htp" else (".tflite", vela)
    found: list[Compared] = []
    failed: list[Failed] = []
    for name, case in cases().items():
        path = written(case, folder / f"{name}{suffix}")
        try:
            placements = compiler.compiled(path, target)
        except UsageError as error:
            read = read_tflite if suffix == ".tflite" else read_onnx
            failed.append(Failed(name, place(read(path)[0], target).first_break, error.what))
            continue
        for made in placements:
            foretold = place(made.graph, target)
            found += [
                Compared(name, node.operator, before, after)
                for node, before, after in zip(
                    made.graph.nodes, foretold.verdicts, made.verdicts, strict=True
                )
            ]
    return found, failed


def page(results: dict[str, Result]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield from (
        "# Evidence",
        "",
        "Graphs of one operator each, those of the TFLite emitter's tests: what a profile foretells of every node, beside what",
        "the target's own compiler did with it. Written by `python -m tests.benchmarks.evidence docs/evidence.md`.",
        "Graphs that a compiler ended on without a result are listed below; their nodes are in no count of nodes.",
        "",
        "| target | compiler | graphs | nodes | both run | both refuse | foretold, refused | not foretold, run |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    )
    for target, (found, failed) in results.items():
        counts = Counter((isinstance(c.foretold, Illegal), isinstance(c.found, Illegal)) for c in found)
        graphs = len({one.case for one in found}) + len(failed)
        figures = (counts[False, False], counts[True, True], counts[False, True], counts[True, False])
        cells = (target, COMPILERS[target], graphs, len(found), *figures)
        yield f"| {' | '.join(map(str, cells))} |"
    for target, (found, failed) in results.items():
        wrong = [one for one in found if not one.agrees]
        if wrong or failed:
            yield from ("", f"## Where they differ: {target}", "")
            yield from ("| graph | operator | the profile | the compiler |", "|---|---|---|---|")
        yield from dict.fromkeys(
            f"| {one.case} | {one.operator} | {_said(one.foretold)} | {_said(one.found)} |" for one in wrong
        )
        for end in failed:
            first = end.foretold
            operator, said = (first.node.operator, first.reasons[0].text) if first else ("", "runs")
            yield f"| {end.case} | {operator} | {_cell(said)} | {_cell(end.why)} |"


def _said(verdict: Verdict) -> str:
    """Return a verdict with its reasons, in a cell."""
    if not isinstance(verdict, Illegal):
        return "runs"
    return "; ".join(_cell(reason.text) for reason in verdict.reasons)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Ask every compiler, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--targets", nargs="+", choices=COMPILERS, default=list(COMPILERS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {name: compared(load_target(name), Path(folder)) for name in arguments.targets}
    arguments.page.write_text("\n".join(page(results)) + "\n", "utf-8")


if __name__ == "__main__":
    main()
