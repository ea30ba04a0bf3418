"""Matrices on a grid: small integers, with a scale and a zero point for every few inputs of each output.

``value = (code − zero) · scale``. Codes are unsigned; on a symmetric grid every zero point is the middle of the range. A
matrix is quantized a stretch of rows at a time, when it is written, and never held whole.
"""

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import numpy as np
import onnx_ir as ir
import torch
from numba import njit
from torch import Tensor

from m4c.ahead import ahead
from m4c.errors import Bug, UsageError
from m4c.grid import Grid
from m4c.weights import Array, Recipe, lazy, spans

STRETCH = 1 << 20
"""Weights that are quantized at once: what a core's caches hold in float32, with room for a few copies."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Some rows of a matrix on a grid."""

    codes: Tensor
    """uint8 (rows, inputs)."""
    scales: Tensor
    """float32 (rows, groups)."""
    zeros: Tensor
    """uint8 (rows, groups)."""

    def dequantized(self) -> Tensor:
        """Return the values, float32 (rows, inputs)."""
        made = torch.empty(self.codes.shape)
        _dequantize(*(t.contiguous().numpy() for t in (self.codes, self.scales, self.zeros)), made.numpy())
        return made


Method = Callable[[Tensor, Grid], Blocks]
"""Quantizes rows, float32 (rows, inputs), each for itself; the rows are left alone."""

Rows = Callable[[slice], Blocks]
"""Gives some rows of one matrix, quantized."""


class BlockwiseWeight:
    """A matrix (outputs, inputs) on a grid, and the tensors that formats store it as."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        grid: Grid,
        rows: Rows,
        order: Array | None = None,
        step: int | None = None,
    ) -> None:
        """Take what gives the rows. ``order`` (inputs,) is the order of the codes' columns, if it is another.

        ``step`` is how many rows are quantized at once, if not what fits the caches.

        Raises:
            UsageError: if the group size does not divide the inputs.
        """
        if shape[1] % grid.size(shape[1]):
            raise UsageError(
                f"a group size of {grid.group} does not divide the {shape[1]} inputs of {name}",
                where=name,
                fix="choose a smaller --group-size",
            )
        self.name, self.shape, self.grid, self.order = name, shape, grid, order
        self.parts: tuple[BlockwiseWeight, ...] = ()
        self.groups = shape[1] // grid.size(shape[1])
        self.step = step or max(1, STRETCH // shape[1])
        self._rows = rows

    def rows(self, rows: slice) -> Blocks:
        """Return some rows, quantized."""
        blocks = self._rows(rows)
        wanted = ((rows.stop - rows.start, self.shape[1]), (rows.stop - rows.start, self.groups))
        if tuple(blocks.codes.shape) != wanted[0] or tuple(blocks.scales.shape) != wanted[1]:
            raise Bug(f"{self.name}: rows of another shape", where=self.name)
        return blocks

    def packed(self) -> tuple[Recipe, Recipe, Recipe | None]:
        """Return codes, scales and zero points as MatMulNBits stores them.

        Codes are uint8 (outputs, groups, group · bits / 8), low nibbles first; scales float32 (outputs, groups); zero points
        uint8 (outputs, ⌈groups · bits / 8⌉), None on a symmetric grid. Source: com.microsoft.MatMulNBits of ONNX Runtime.
        """
        outputs, inputs = self.shape
        bits, blob = self.grid.bits, self.grid.size(inputs) * self.grid.bits // 8

        def make(rows: slice) -> tuple[Array, ...]:
            blocks = self.rows(rows)
            codes = nibbles(blocks.codes) if bits == 4 else blocks.codes
            made = codes.view(len(codes), self.groups, blob).numpy(), blocks.scales.numpy()
            if self.grid.symmetric:
                return made
            return *made, (nibbles(blocks.zeros) if bits == 4 else blocks.zeros).numpy()

        made = _Jointly(self, make, spans(outputs, self.step))
        return (
            made.recipe(0, f"{self.name}.packed", ir.DataType.UINT8, (outputs, self.groups, blob)),
            made.recipe(1, f"{self.name}.packed.scales", ir.DataType.FLOAT, (outputs, self.groups)),
            None
            if self.grid.symmetric
            else made.recipe(
                2, f"{self.name}.packed.zeros", ir.DataType.UINT8, (outputs, (self.groups * bits + 7) // 8)
            ),
        )

    def table(self) -> tuple[Recipe, Recipe]:
        """Return a symmetric 8-bit table to gather rows from: codes int8 (outputs, inputs), scales (outputs, groups)."""

        def make(rows: slice) -> tuple[Array, ...]:
            blocks = self.rows(rows)
            return _signed(blocks.codes, self.grid).numpy(), blocks.scales.numpy()

        made = _Jointly(self, make, spans(self.shape[0], self.step))
        return (
            made.recipe(0, f"{self.name}.q", ir.DataType.INT8, self.shape),
            made.recipe(1, f"{self.name}.scales", ir.DataType.FLOAT, (self.shape[0], self.groups)),
        )

    def linear(self) -> tuple[Recipe, Recipe]:
        """Return codes and scales as FULLY_CONNECTED of LiteRT has them: signed, around a zero point of 0.

        In 4 bits, codes are uint8 (outputs, inputs / 2), two in a byte, the first in the low half, and scales float16 (outputs,
        groups). In 8 bits with a scale a channel, int8 (outputs, inputs) and float32 (outputs,).
        """
        outputs, inputs = self.shape

        def make(rows: slice) -> tuple[Array, ...]:
            blocks = self.rows(rows)
            if self.grid.bits == 8:
                return _signed(blocks.codes, self.grid).numpy(), blocks.scales.numpy()
            return nibbles(blocks.codes).bitwise_xor_(0x88).numpy(), blocks.scales.half().numpy()

        made = _Jointly(self, make, spans(outputs, self.step))
        name, scales = f"{self.name}.q", f"{self.name}.scales"
        if self.grid.bits == 8:
            return (
                made.recipe(0, name, ir.DataType.INT8, (outputs, inputs)),
                made.recipe(1, scales, ir.DataType.FLOAT, (outputs,)),
            )
        return (
            made.recipe(0, name, ir.DataType.UINT8, (outputs, inputs // 2)),
            made.recipe(1, scales, ir.DataType.FLOAT16, (outputs, self.groups)),
        )

    def shortened(self) -> "BlockwiseWeight":
        """Return this symmetric matrix with short scales; codes of a negative one change their signs, or nearly so."""
        grid = replace(self.grid, short=True)

        def rows(span: slice) -> Blocks:
            blocks = self.rows(span)
            grouped = blocks.codes.view(len(blocks.codes), self.groups, -1).to(torch.int16)
            mirrored = (2 * grid.middle - grouped).clamp_(max=grid.top)
            codes = torch.where(blocks.scales.unsqueeze(2) < 0, mirrored, grouped).clamp_(min=grid.bottom)
            return Blocks(
                codes.to(torch.uint8).view(blocks.codes.shape), grid.stored(blocks.scales), blocks.zeros
            )

        return BlockwiseWeight(self.name, self.shape, grid, rows, self.order, self.step)

    def turned(self) -> tuple[Recipe, Recipe, Recipe | None]:
        """Return codes, scales and zero points as DequantizeLinear before a MatMul takes them, inputs first.

        Codes (inputs, outputs) and zero points are (u)int4 or (u)int8, signed on a symmetric grid; scales are float32 (groups,
        outputs), or (outputs,) for one group.
        """
        outputs, inputs = self.shape
        dtype = _stored_dtype(self.grid)
        few = (outputs,) if self.grid.group is None else (self.groups, outputs)

        def make(rows: slice) -> tuple[Array, ...]:
            blocks = self.rows(rows)
            codes = np.asarray(_signed(blocks.codes, self.grid).numpy().T, dtype.numpy())
            if self.grid.symmetric:
                return codes, blocks.scales.numpy().T
            return codes, blocks.scales.numpy().T, np.asarray(blocks.zeros.numpy().T, dtype.numpy())

        made = _Jointly(self, make, spans(outputs, self.step), axis=1)
        return (
            made.recipe(0, f"{self.name}.q", dtype, (inputs, outputs)),
            made.recipe(1, f"{self.name}.scales", ir.DataType.FLOAT, few),
            None if self.grid.symmetric else made.recipe(2, f"{self.name}.zeros", dtype, few),
        )

    def dequantized(self, dtype: ir.DataType = ir.DataType.FLOAT) -> Recipe:
        """Return the matrix with the values that the codes stand for, its columns in their own order."""

        def part(rows: slice) -> Array:
            values = self.rows(rows).dequantized()
            if self.order is not None:
                values = values[:, torch.from_numpy(np.argsort(self.order))]
            return np.asarray(values.numpy(), dtype.numpy())

        def read() -> Array:
            return np.concatenate([part(rows) for rows in spans(self.shape[0], self.step)])

        return lazy(self.name, dtype, self.shape, read, part, self, step=self.step)


def stacked(parts: list[BlockwiseWeight]) -> BlockwiseWeight:
    """Return the matrix of all outputs of ``parts``, which have the same inputs and grid, and no order of their own."""
    ends = list(accumulate(part.shape[0] for part in parts))

    def rows(wanted: slice) -> Blocks:
        pieces = []
        for part, end in zip(parts, ends, strict=True):
            start = end - part.shape[0]
            first, last = max(wanted.start, start), min(wanted.stop, end)
            if first < last:
                pieces.append(part.rows(slice(first - start, last - start)))
        return Blocks(*(torch.cat([getattr(p, f) for p in pieces]) for f in ("codes", "scales", "zeros")))

    shape, steps = (ends[-1], parts[0].shape[1]), min(part.step for part in parts)
    made = BlockwiseWeight("+".join(part.name for part in parts), shape, parts[0].grid, rows, step=steps)
    made.parts = tuple(parts)
    return made


PIECE = re.compile(r"(.+)\[(\d+):(\d+)\]")
"""The name of rows of a matrix that are stored by themselves."""


def piece(name: str, rows: slice) -> str:
    """Return the name of ``rows`` of the matrix ``name``."""
    return f"{name}[{rows.start}:{rows.stop}]"


def whole(found: Iterable[BlockwiseWeight]) -> list[BlockwiseWeight]:
    """Return the matrices that ``found`` are, with all pieces of one put together again."""
    made: list[BlockwiseWeight] = []
    pieces: dict[str, dict[int, BlockwiseWeight]] = {}
    for weight in found:
        match = PIECE.fullmatch(weight.name)
        if match is None:
            made.append(weight)
        else:
            pieces.setdefault(match[1], {})[int(match[2])] = weight
    for name, held in pieces.items():
        joined = stacked([held[start] for start in sorted(held)])
        made.append(BlockwiseWeight(name, joined.shape, joined.grid, joined.rows, step=joined.step))
    return made


class _Jointly:
    """Tensors that one computation makes: who reads one leaves the later ones waiting, to be taken once.

    So a matrix is quantized once though codes, scales and zero points are written one after the other.
    """

    def __init__(
        self,
        weight: BlockwiseWeight,
        make: Callable[[slice], tuple[Array, ...]],
        rows: list[slice],
        axis: int = 0,
    ) -> None:
        self._weight, self._make, self._rows, self._axis = weight, make, rows, axis
        self._waiting: dict[tuple[int, int, int], Array] = {}
        self._lock = threading.Lock()

    def recipe(self, index: int, name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> Recipe:
        """Return the tensor ``index``; the first can be read in parts if rows are its first axis."""

        def read() -> Array:
            pieces = list(ahead(partial(self._take, index), self._rows))
            return np.concatenate(pieces, axis=self._axis).reshape(shape)

        part = (lambda rows: self._take(index, rows)) if index == 0 and self._axis == 0 else None
        return lazy(name, dtype, shape, read, part, self._weight, self._rows[0].stop)

    def _take(self, index: int, rows: slice) -> Array:
        """Return the product ``index`` of ``rows``."""
        with self._lock:
            waiting = self._waiting.pop((index, rows.start, rows.stop), None)
        if waiting is not None:
            return waiting
        made = self._make(rows)
        with self._lock:
            for later in range(index + 1, len(made)):
                self._waiting[later, rows.start, rows.stop] = made[later]
        return made[index]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _dequantize(codes: Array, scales: Array, zeros: Array, values: Array) -> None:
    """Fill ``values`` (rows, inputs) with what the codes stand for."""
    rows, groups = scales.shape
    size = codes.shape[1] // groups
    for row in range(rows):
        for group in range(groups):
            scale, zero = scales[row, group], np.float32(zeros[row, group])
            for i in range(group * size, (group + 1) * size):
                values[row, i] = (np.float32(codes[row, i]) - zero) * scale


def nibbles(codes: Tensor) -> Tensor:
    """Return 4-bit ``codes``, uint8 (rows, n), two to a byte, the first in the low half: uint8 (rows, ⌈n/2⌉)."""
    if codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    pairs = codes.contiguous().view(torch.int16)  # little-endian: the first code in the low byte
    return ((pairs >> 4) | pairs).to(torch.uint8)


def from_nibbles(octets: Tensor, count: int) -> Tensor:
    """Return the first ``count`` codes, uint8 (rows, count), of each row of what :func:`nibbles` packed."""
    codes = torch.empty(*octets.shape, 2, dtype=torch.uint8)
    torch.bitwise_and(octets, 15, out=codes[..., 0])
    torch.bitwise_right_shift(octets, 4, out=codes[..., 1])
    return codes.view(len(octets), -1)[:, :count].contiguous()


def _signed(codes: Tensor, grid: Grid) -> Tensor:
    """Return codes as they are stored: around 0 on a symmetric grid."""
    return (codes.to(torch.int16) - grid.middle).to(torch.int8) if grid.symmetric else codes


def _stored_dtype(grid: Grid) -> ir.DataType:
    """Return the dtype of codes that stand beside a DequantizeLinear."""
    if grid.bits == 4:
        return ir.DataType.INT4 if grid.symmetric else ir.DataType.UINT4
    return ir.DataType.INT8 if grid.symmetric else ir.DataType.UINT8
