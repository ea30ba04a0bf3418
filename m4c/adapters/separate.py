"""Adapters that stay beside the artifacts: which slots they need, and the files that fill them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from safetensors.numpy import save_file

from m4c.adapters.contract import ONNX_SUFFIX, write_onnx_adapter
from m4c.adapters.folder import Adapter, Pair
from m4c.adapters.places import PARTS
from m4c.errors import UsageError
from m4c.precisions import HALF, INTEGER
from m4c.slots import Slot
from m4c.source import Source, TorchSource
from m4c.weights import Array


def slots_of(adapters: Sequence[Adapter]) -> tuple[Slot, ...]:
    """Return the slots that ``adapters`` need together, each once.

    Raises:
        UsageError: if one changes what no slot can: whole weights, biases, convolutions, or the lengths of rows.
    """
    found: dict[str, Slot] = {}
    for adapter in adapters:
        for name in adapter.replaced:
            raise _only_merged(adapter, f"{name}, which it stores whole")
        for pair in adapter.pairs:
            for slot, _ in _parts(adapter, pair):
                found[slot.module] = slot
    return tuple(found[module] for module in sorted(found))


def slots_for(
    source: Source, precision: str, file_format: str, rank_limit: int | None = None
) -> tuple[Slot, ...]:
    """Return the slots that adapters beside ``source`` need, in whichever of its sub-model's graphs; none if none stay beside.

    In TFLite, whose inputs have no defaults, each has the rank ``rank_limit``, or the largest that an adapter has there.

    Raises:
        UsageError: if artifacts of this precision have no slots, or an adapter has a larger rank than ``rank_limit``.
    """
    if not isinstance(source, TorchSource) or source.unmerged is not None or not source.adapters:
        return ()
    if precision in {*INTEGER, HALF}:
        raise UsageError(
            f"there are no slots for adapters in {precision}",
            where=source.name,
            fix="use --adapters merge, or --quantize int8-weights",
        )
    slots = slots_of(source.adapters)
    if file_format == "onnx":
        return slots
    return tuple(replace(slot, limit=_limit(source.adapters, slot, rank_limit)) for slot in slots)


def _limit(adapters: Sequence[Adapter], slot: Slot, wanted: int | None) -> int:
    """Return the rank of ``slot``: as ``wanted``, or the largest that ``adapters`` have for it."""
    ranks = {pair.rank: one for one in adapters for _, pair, _ in fillings(one, [slot])}
    largest = max(ranks)
    if wanted is not None and largest > wanted:
        raise UsageError(
            f"adapter {ranks[largest].name} has rank {largest} at {slot.module}, beyond --rank-limit {wanted}",
            where=str(ranks[largest].file),
            fix=f"give --rank-limit {largest} or more, or leave it out",
        )
    return wanted or largest


def filled_in(model: ir.Model, slots: Sequence[Slot]) -> tuple[Slot, ...]:
    """Return those of ``slots`` that ``model`` has."""
    names = {value.name for value in model.graph.inputs}
    return tuple(slot for slot in slots if slot.down in names)


def _only_merged(adapter: Adapter, what: str) -> UsageError:
    return UsageError(
        f"adapter {adapter.name} changes {what}: that has no slot beside a product",
        where=str(adapter.file),
        fix="use --adapters merge",
    )


def _parts(adapter: Adapter, pair: Pair) -> Iterator[tuple[Slot, slice]]:
    """Yield the slots that a pair fills, and the rows of its matrix that each is for."""
    place = pair.place
    outputs, inputs = place.shape
    if pair.magnitude is not None or pair.bias is not None:
        what = "the lengths of rows (DoRA)" if pair.magnitude is not None else "the bias"
        raise _only_merged(adapter, f"{what} of {place.module}")
    match place.kind:
        case "convolution":
            raise _only_merged(adapter, f"{place.module}, a convolution")
        case "table":
            yield Slot(place.module, place.weight, outputs, inputs, table=True), slice(None)
        case "packed" if (
            place.module.rpartition(".")[2] not in PARTS
        ):  # the graph multiplies by each part alone
            each = outputs // len(PARTS)
            for number, name in enumerate(PARTS):
                first = number * each
                yield (
                    Slot(f"{place.module}.{name}", place.weight, inputs, each, first),
                    slice(first, first + each),
                )
        case _:
            yield Slot(place.module, place.weight, inputs, outputs, place.first), slice(None)


def fillings(adapter: Adapter, slots: Sequence[Slot]) -> Iterator[tuple[Slot, Pair, slice]]:
    """Yield those of ``slots`` that ``adapter`` fills, each with its pair and the rows of its matrix that the slot is for."""
    wanted = {slot.module: slot for slot in slots}
    for pair in adapter.pairs:
        for slot, rows in _parts(adapter, pair):
            if slot.module in wanted:
                yield wanted[slot.module], pair, rows


def factors(adapter: Adapter, slots: Sequence[Slot]) -> dict[str, Array]:
    """Return A (inputs, rank) and B (rank, outputs), float32, of those of ``slots`` that ``adapter`` fills, by name."""
    found = {}
    for slot, pair, rows in fillings(adapter, slots):
        left, right = pair.left(), pair.right()
        if slot.table:  # its rows are what is gathered
            down, up = left, right
        else:
            down, up = right.T, left[rows].T
        found[slot.down] = np.ascontiguousarray(down)
        found[slot.up] = np.ascontiguousarray(up * np.float32(pair.scale))
    return found


def write(path: Path, filled: Mapping[str, Array], base: str) -> None:
    """Write the factors that fill slots of a graph; ``base`` is the SHA-256 of the weights that they are for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ONNX_SUFFIX:
        write_onnx_adapter(path, filled, base)
    else:
        save_file(dict(sorted(filled.items())), path)
