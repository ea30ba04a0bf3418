"""Heads, and heads turned by rotary angles, recognized: ``x · cos + swap(x) · sin`` with rows of two tables."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from m4c.passes.reading import Unlike, dims, expect, expect_axis, known, made_by, producer_of
from m4c.rewrite import attribute
from m4c.weights import small

SPLIT = (0, 2, 1, 3)
"""The permutation between (batch, steps, heads, head_dim) and (batch, heads, steps, head_dim)."""


@dataclass(frozen=True, slots=True)
class Heads:
    """``source`` (batch, steps, heads · head_dim) seen as (batch, heads, steps, head_dim)."""

    source: ir.Value
    batch: int | str
    steps: int | str
    heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Turn:
    """Rows of the tables of cosines and signed sines (positions, head_dim), chosen by ``positions`` (batch, steps)."""

    cos: ir.Value
    sin: ir.Value
    positions: ir.Value


def read_heads(value: ir.Value | None, what: str, *readers: ir.Node) -> Heads:
    """Return the heads of ``value``: a projection, reshaped and transposed."""
    turned = producer_of(value, "Transpose", what, *readers)
    if tuple(attribute(turned, "perm", ())) != SPLIT:
        raise Unlike(f"{what} is transposed by {attribute(turned, 'perm')}, not {SPLIT}")
    split = producer_of(turned.inputs[0], "Reshape", what, turned)
    batch, steps, heads, size = dims(split.outputs[0]) if len(dims(split.outputs[0])) == 4 else (0, 0, "", "")
    if not isinstance(heads, int) or not isinstance(size, int):
        raise Unlike(f"{what} is not split into a known number of heads")
    expect(split.inputs[0], (batch, steps, heads * size), what)
    return Heads(known(split.inputs[0]), batch, steps, heads, size)


def read_rotated(value: ir.Value | None, what: str, reader: ir.Node) -> tuple[Heads, Turn]:
    """Return what ``x · cos + swap(x) · sin`` turns, and by which angles."""
    added = producer_of(value, "Add", f"{what}, which is to be rotary,", reader)
    factors = [producer_of(v, "Mul", what, added) for v in added.inputs]
    swapped = [(m, i) for m in factors for i in (0, 1) if made_by(m.inputs[i], "Concat")]
    if len(swapped) != 1:
        raise Unlike(f"{what} is not turned by halves")
    ((crossed, index),) = swapped
    (straight,) = [m for m in factors if m is not crossed] or [crossed]
    x, slices = _swapped(crossed, index, what)
    if x not in straight.inputs:
        raise Unlike(f"{what} is turned with the halves of another value")
    heads = read_heads(x, what, straight, *slices)
    cos = straight.inputs[1 - straight.inputs.index(x)]
    found = _turn(cos, crossed.inputs[1 - index], heads, what)
    return heads, found


def _swapped(crossed: ir.Node, index: int, what: str) -> tuple[ir.Value, tuple[ir.Node, ir.Node]]:
    """Return the value whose second half is concatenated with its first, and the nodes that take the halves."""
    joined = producer_of(crossed.inputs[index], "Concat", what, crossed)
    expect_axis(joined, 3, f"the swap of {what}")
    if len(joined.inputs) != 2:
        raise Unlike(f"{what} is swapped in {len(joined.inputs)} parts")
    upper, lower = (producer_of(v, "Slice", what, joined) for v in joined.inputs)
    x, size = known(upper.inputs[0]), dims(upper.inputs[0])[-1]
    if lower.inputs[0] is not x or not isinstance(size, int) or size % 2:
        raise Unlike(f"{what} is not swapped by halves")
    half = size // 2
    if _range(upper, size) != (half, size) or _range(lower, size) != (0, half):
        raise Unlike(f"{what} is swapped by {_range(upper, size)} and {_range(lower, size)} of {size}")
    return x, (upper, lower)


def _range(node: ir.Node, size: int) -> tuple[int, int] | None:
    """Return what a slice of the last of four axes takes, if it is constant."""
    held = [small(v) for v in node.inputs[1:]]
    given = [int(v.item()) for v in held if v is not None and v.size == 1]
    if (
        len(given) != len(held)
        or len(given) not in (3, 4)
        or given[2] not in (3, -1)
        or given[3:] not in ([], [1])
    ):
        return None
    start, stop, _ = slice(given[0], given[1]).indices(size)
    return start, stop


def _turn(cos: ir.Value | None, sin: ir.Value | None, heads: Heads, what: str) -> Turn:
    """Return the tables and the positions behind two factors."""
    tables = [_row(value, heads, f"the {name} of {what}") for value, name in ((cos, "cosine"), (sin, "sine"))]
    (cosines, chosen), (sines, also) = tables
    if chosen is not also:
        raise Unlike(f"cosine and sine of {what} are of different positions")
    for table, sign in ((cosines, 1), (sines, -1)):
        held, half = small(table), heads.head_dim // 2
        if held is None:
            raise Unlike(f"the table {table.name} is not in memory, so nobody can say what it holds")
        if held.ndim != 2 or held.shape[1] != 2 * half or table.dtype != heads.source.dtype:
            raise Unlike(f"the table {table.name} is {held.dtype}{list(held.shape)}")
        if not np.array_equal(held[:, :half], sign * held[:, half:]):
            raise Unlike(f"the halves of {table.name} differ by more than the sign that belongs there")
    if cosines.shape != sines.shape:
        raise Unlike(f"the tables {cosines.name} and {sines.name} are of different sizes")
    return Turn(cosines, sines, chosen)


def _row(value: ir.Value | None, heads: Heads, what: str) -> tuple[ir.Value, ir.Value]:
    """Return the table and the positions whose rows are (batch, 1, steps, head_dim)."""
    shaped = producer_of(value, "Unsqueeze" if made_by(value, "Unsqueeze") else "Reshape", what)
    expect(value, (heads.batch, 1, heads.steps, heads.head_dim), what)
    expect(shaped.inputs[0], (heads.batch, heads.steps, heads.head_dim), what)
    gather = producer_of(shaped.inputs[0], "Gather", what)
    if attribute(gather, "axis", 0) != 0:
        raise Unlike(f"{what} is gathered along axis {attribute(gather, 'axis')}")
    table, positions = (known(v) for v in gather.inputs)
    expect(positions, (heads.batch, heads.steps), f"the positions for {what}")
    if positions.dtype != ir.DataType.INT64:
        raise Unlike(f"the positions {positions.name} are {positions.dtype}, not INT64")
    return table, positions
