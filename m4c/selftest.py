"""Check a bundle on the machine it is on: hashes, then every artifact against its test vector. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

from m4c.bundle import GraphRecord, Manifest, check_files
from m4c.errors import NumbersError
from m4c.numerics import Difference, difference, worst
from m4c.runners import open_runner


@dataclass(frozen=True, slots=True)
class Selftest:
    """The figures of one graph, on this machine."""

    graph: str
    difference: Difference


def selftest(manifest: Manifest, folder: Path) -> list[Selftest]:
    """Return the figures of every graph.

    Raises:
        BundleError: if a file is missing or altered, or a runtime does not load it.
        NumbersError: if an artifact differs from its vector by more than its precision allows.
    """
    check_files(manifest, folder)
    return [Selftest(graph.name, _check(graph, folder)) for graph in manifest.graphs]


def _check(graph: GraphRecord, folder: Path) -> Difference:
    """Compare one artifact with its vector."""
    vector = load_file(folder / graph.vector.path)
    inputs = {
        name.removeprefix("inputs."): value for name, value in vector.items() if name.startswith("inputs.")
    }
    actual = open_runner(folder / graph.file.path).run(inputs)
    found = worst([difference(vector[f"outputs.{port.name}"], actual[port.name]) for port in graph.outputs])
    if not found.within(graph.precision):
        raise NumbersError(
            f"{graph.name} differs from its test vector: {found}, allowed is {found.allowed(graph.precision)}",
            where=graph.file.path,
            fix="compare the runtime's version with the one in the manifest, or export again",
        )
    return found
