"""Check a bundle on the machine it is on: hashes, then every artifact against its test vector. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from m4c.bundle import GraphRecord, Manifest, check_files
from m4c.cache import TYPES, beyond_rounding, pairs, real, without_scales
from m4c.errors import BundleError, NumbersError
from m4c.numerics import ACTIVATIONS, SQNR_FLOOR_DB, TOLERANCE, Difference, difference, held_to, worst
from m4c.precisions import BITS
from m4c.runners import open_runner

Array = np.ndarray

PRECISIONS = frozenset({*TOLERANCE, *SQNR_FLOOR_DB})


@dataclass(frozen=True, slots=True)
class Selftest:
    """The figures of one graph, or of one signature of several, on this machine."""

    graph: str
    """Its name, with that of the signature if there are several."""
    difference: Difference


def selftest(manifest: Manifest, folder: Path) -> list[Selftest]:
    """Return the figures of every graph.

    Raises:
        BundleError: if a file is missing or altered, or a runtime does not load it.
        NumbersError: if an artifact differs from its vector by more than its precision allows.
    """
    check_files(manifest, folder)
    return [
        Selftest(f"{graph.name} {one.signature}" if graph.further else graph.name, _check(one, folder))
        for graph in manifest.graphs
        for one in graph.signatures
    ]


def _check(graph: GraphRecord, folder: Path) -> Difference:
    """Compare one artifact with its vector."""
    if graph.precision not in PRECISIONS:
        raise BundleError(
            f"{graph.name} has precision {graph.precision!r}",
            fix=f"this m4c knows {', '.join(sorted(PRECISIONS))}",
        )
    if graph.cache not in TYPES:
        raise BundleError(
            f"{graph.name} stores its caches in {graph.cache!r}", fix=f"this m4c knows {', '.join(TYPES)}"
        )
    inputs, expected = _vector(graph, folder)
    actual = open_runner(folder / graph.file.path, mapped=True, signature=graph.signature or None).run(inputs)
    if graph.cache != "float32":
        actual = real(actual)
    found = worst([_compare(graph, name, expected[name], actual) for name in expected])
    precision, floor = held_to(graph.precision, graph.cache), graph.verification.min_sqnr_db
    if graph.format == "tflite" and precision in BITS:
        precision, floor = ACTIVATIONS, None
    if not found.within(precision, floor):
        raise NumbersError(
            f"{graph.name} differs from its test vector: {found}, "
            f"allowed is {found.allowed(precision, floor)}",
            where=graph.file.path,
            fix="compare the runtime's version with the one in the manifest, or export again",
        )
    return found


def _vector(graph: GraphRecord, folder: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the inputs and the outputs of a test vector."""
    try:
        vector = load_file(folder / graph.vector.path)
        inputs = {port.name: vector[f"inputs.{port.name}"] for port in graph.inputs}
        names = without_scales(port.name for port in graph.outputs)
        outputs = {name: vector[f"outputs.{name}"] for name in names}
    except (SafetensorError, KeyError) as error:
        raise BundleError(
            f"the test vector is not that of {graph.name}: {error}",
            where=graph.vector.path,
            fix="export again",
        ) from error
    if not outputs:
        raise BundleError(
            f"{graph.name} has no outputs to compare", where=graph.file.path, fix="export again"
        )
    return inputs, outputs


def _compare(graph: GraphRecord, name: str, expected: Array, actual: dict[str, Array]) -> Difference:
    """Compare one output; one that is missing or of another shape differs beyond any tolerance."""
    got = actual.get(name)
    if got is None or got.shape != expected.shape:
        raise NumbersError(
            f"{graph.name} returns {name} as {list(got.shape) if got is not None else 'nothing'}, "
            f"its test vector has {list(expected.shape)}",
            where=graph.file.path,
            fix="export again",
        )
    if graph.cache != "float32" and name in {p.name for _, p in pairs(graph.inputs, graph.outputs)}:
        got = beyond_rounding(expected, got, graph.cache)
    return difference(expected, got)
