"""Hold an artifact against its source: the same inputs, the tolerance of its precision, and where it began to differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.allocator import trim
from m4c.cache import beyond_rounding, narrowed, real, stored
from m4c.errors import NumbersError
from m4c.float_products import Ran, run_in_float
from m4c.kernels import check_kernels
from m4c.model import module_path
from m4c.numerics import ACTIVATIONS, SQNR_FLOOR_DB, Difference, difference, held_to, sqnr, worst
from m4c.observers import MASKED
from m4c.precisions import BITS, INTEGER
from m4c.read_back import read_back
from m4c.runners import open_runner
from m4c.segments import SEGMENT_BYTES, run_each_in_segments
from m4c.source import Source, TorchSource
from m4c.targets.emit_tflite import SIGNATURE
from m4c.trace import onnx_values, tflite_values
from m4c.weights import part

Array = np.ndarray

LEAST_DB = 6.0
"""Smallest SQNR of a rounded matrix: 4 bits give gaussian weights about 20 dB, and 15 dB where a few are 20 times as large."""

SAMPLED, SAMPLED_ROWS = 4, 32
"""Places of a rounded matrix that are held against the true one, and rows of each."""

FLOAT_FIX = "this artifact must not be shipped: report it"
INTEGER_FIX = "give more typical --calibration samples, try --quantize none, or allow less by --min-sqnr"


@dataclass(frozen=True)
class Verification:
    """The result of a comparison: the figures, and the input and output pair it was made on."""

    difference: Difference
    inputs: Mapping[str, Array]
    """As the artifact takes them: caches as they are stored."""
    outputs: Mapping[str, Array]
    """What the source computes, not the artifact."""
    steps: float | None = None
    """How far LiteRT's kernels are from products by rounded weights, in steps: :data:`m4c.float_products.MOST_STEPS`."""
    whole_db: float | None = None
    """SQNR in dB of the whole as LiteRT runs it, where it rounds activations and the file is small enough to be run at once."""


def verify(
    source: Source,
    model: ir.Model,
    artifact: Path,
    precision: str,
    inputs: Mapping[str, Array],
    min_sqnr: float | None = None,
    signature: str = SIGNATURE,
    cache: str = "float32",
    pooled: Difference | None = None,
) -> Verification:
    """Compare ``artifact`` with ``source`` on ``inputs``; ``model`` is what the artifact was emitted from.

    ``signature`` is which one of a TFLite file is compared. ``min_sqnr`` (dB) replaces the floor of an integer
    ``precision``. Of a TFLite file in integers, every kernel is held against its node too. Where the artifact stores its
    caches in ``cache``, the source takes the same rounded ones, and may differ from what is returned by the rounding of new
    steps. ``pooled`` are the figures over several samples, where ``inputs`` are one of them: they are held to the same and are
    those that count.

    Raises:
        NumbersError: if they differ by more than ``precision`` allows, naming the first node that does; if the artifact
            misses an output or gives another shape; or if the source itself does not compute numbers.
    """
    caches = narrowed(cache, source.inputs, source.outputs)
    taken = stored(inputs, [past.name for past, _ in caches], cache) if caches else inputs
    given = real(taken) if caches else inputs
    expected = source.run(given)
    _check_numbers(source, expected)
    hybrid = artifact.suffix == ".tflite" and precision in BITS
    ran = (
        run_in_float(artifact, taken, check=True, signature=signature)
        if hybrid
        else Ran(run_each(artifact, [taken], precision, signature)[0], None)
    )
    actual = real(ran.outputs) if caches else ran.outputs
    _check_outputs(source, expected, actual)
    reference, lost = source, None
    if precision in BITS:
        lost = min(sqnr(expected[name], actual[name]) for name in expected)
        del expected  # with its caches, before others like it are made
        reference = _rounded(source, artifact, signature)
        expected = reference.run(given)
    found = compared(expected, actual, {present.name for _, present in caches}, cache)
    if lost is not None:
        found = replace(found, sqnr_db=lost)
    held = held_to(precision, cache)
    found = found if pooled is None or not found.within(held, min_sqnr) else pooled
    if not found.within(held, min_sqnr):
        raise NumbersError(
            f"{source.name} differs from its source: {found}, allowed is {found.allowed(held, min_sqnr)}",
            where=first_difference(reference, model, artifact, held, given, taken, min_sqnr, signature),
            fix=INTEGER_FIX if precision in SQNR_FLOOR_DB else FLOAT_FIX,
        )
    if precision in INTEGER and artifact.suffix == ".tflite":
        trim()  # what XNNPACK had packed
        check_kernels(model, artifact, inputs)
    whole = _whole(source, artifact, inputs, expected, signature) if hybrid else None
    return Verification(found, taken, expected, ran.steps, whole)


def compared(
    expected: Mapping[str, Array], actual: Mapping[str, Array], caches: set[str], cache: str
) -> Difference:
    """Return the worst figures of all outputs; of ``caches``, what the rounding to ``cache`` explains does not count."""
    return worst(
        [
            difference(value, beyond_rounding(value, actual[name], cache) if name in caches else actual[name])
            for name, value in expected.items()
        ]
    )


def _whole(
    source: Source,
    artifact: Path,
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    signature: str,
) -> float | None:
    """Return the SQNR in dB of an artifact as LiteRT runs it, activations in 8 bits; None if it is too large to be packed here.

    Raises:
        NumbersError: if it is below what integer activations must have.
    """
    if artifact.stat().st_size > SEGMENT_BYTES:
        return None
    made = open_runner(artifact, signature=signature).run(inputs)
    _check_outputs(source, expected, made)
    found = worst([difference(expected[name], made[name]) for name in expected])
    if not found.within(ACTIVATIONS):
        raise NumbersError(
            f"{source.name} as LiteRT runs it differs from its source: {found}, "
            f"allowed is {found.allowed(ACTIVATIONS)}",
            where=source.name,
            fix=INTEGER_FIX,
        )
    return found.sqnr_db


def _rounded(source: Source, artifact: Path, signature: str) -> Source:
    """Return ``source`` with its weights as ``artifact`` stores them; rows of each are held against the true ones before.

    Raises:
        NumbersError: for a matrix that was rounded to something else.
    """
    stored = read_back(artifact, signature)
    rounded = source.with_weights(stored)
    for name, matrix in stored.items():
        true = source.weight(name)
        for rows in _spread(matrix.shape.numpy()[0]):
            found = sqnr(part(true, rows), part(matrix, rows))
            if not found >= LEAST_DB:  # so that NaN is none
                raise NumbersError(
                    f"{name} was rounded to other values: SQNR {found:.1f} dB",
                    where=f"{name}, rows {rows.start} to {rows.stop - 1}",
                    fix=FLOAT_FIX,
                )
    return rounded


def with_stored(
    source: TorchSource, artifact: Path, precision: str, signature: str = SIGNATURE
) -> TorchSource:
    """Return ``source`` with its weights as ``artifact``, which was verified, stores them."""
    return source.with_weights(read_back(artifact, signature)) if precision in BITS else source


def run_each(
    artifact: Path, feeds: Sequence[Mapping[str, Array]], precision: str, signature: str = SIGNATURE
) -> list[dict[str, Array]]:
    """Return the outputs of ``artifact`` for each of ``feeds``, products by rounded weights in float as in :func:`verify`."""
    if artifact.suffix == ".onnx":
        return run_each_in_segments(artifact, feeds)
    if precision in BITS:
        return [run_in_float(artifact, one, signature=signature).outputs for one in feeds]
    runner = open_runner(artifact, mapped=True, signature=signature)
    return [runner.run(one) for one in feeds]


def _spread(rows: int) -> list[slice]:
    """Return the first, the last and a few rows between: all would be as much work as to round them again."""
    starts = np.linspace(0, max(0, rows - SAMPLED_ROWS), SAMPLED, dtype=int)
    return [slice(start, min(start + SAMPLED_ROWS, rows)) for start in sorted(set(starts.tolist()))]


def _check_numbers(source: Source, expected: Mapping[str, Array]) -> None:
    """Raise if the source computes NaN: nothing can be said of an artifact then."""
    for name, values in expected.items():
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise NumbersError(
                f"{source.name} computes NaN in {name}, before anything was compiled",
                where=source.name,
                fix="check the weights and the inputs",
            )


def _check_outputs(source: Source, expected: Mapping[str, Array], actual: Mapping[str, Array]) -> None:
    """Raise if an output is missing or has another shape."""
    fix = "this is a bug of m4c; please report it"
    missing = set(expected) - set(actual)
    if missing:
        raise NumbersError(
            f"the artifact does not return {', '.join(sorted(missing))}", where=source.name, fix=fix
        )
    for name, values in expected.items():
        if values.shape != actual[name].shape:
            raise NumbersError(
                f"{name} is {list(values.shape)} in the source and {list(actual[name].shape)} in the artifact",
                where=source.name,
                fix=fix,
            )


def first_difference(
    source: Source,
    model: ir.Model,
    artifact: Path,
    precision: str,
    given: Mapping[str, Array],
    taken: Mapping[str, Array],
    min_sqnr: float | None = None,
    signature: str = SIGNATURE,
) -> str:
    """Return the first node, in the order of the graph, whose value is beyond what ``precision`` allows.

    The source computes from ``given``, the artifact from ``taken``, which is the same with caches as they are stored.
    """
    actual: dict[str, Array] = {}
    if artifact.suffix == ".onnx":
        onnx_values(artifact, taken, actual.__setitem__)
    elif precision in BITS:
        run_in_float(artifact, taken, actual.__setitem__, signature=signature)
    else:
        tflite_values(artifact, taken, actual.__setitem__, signature)
    return first_beyond(source, model, actual, precision, given, min_sqnr)


def first_beyond(
    source: Source,
    model: ir.Model,
    actual: Mapping[str, Array],
    precision: str,
    given: Mapping[str, Array],
    min_sqnr: float | None = None,
) -> str:
    """Return the first node of ``model`` whose ``actual`` value is not what ``source`` computes from ``given``.

    Values that only one of the two computes, such as those inside a fused operator, are passed over; so are masked ones,
    which saturate in integers and would hide all others in floats.
    """
    found: dict[str, Difference] = {}

    def compare(name: str, value: Array) -> None:
        comparable = (
            name in actual
            and actual[name].shape == value.shape
            and (value.dtype.kind, actual[name].dtype.kind) == ("f", "f")
        )
        if comparable and not np.isnan(value).any():  # NaN that the source masks later says nothing
            real = value >= MASKED
            found[name] = difference(value[real], actual[name][real])

    source.record(given, compare)
    for node in model.graph:
        for output in node.outputs:
            if output.name in found and not found[output.name].within(precision, min_sqnr):
                return f"{node.op_type} {output.name} of {module_path(node)}: {found[output.name]}"
    return f"{source.name}: no single node, the error adds up"
