"""Matrices as GPTQ and AWQ pack them into words of 32 bits, read some outputs at a time.

Both store matrices with the inputs first. GPTQ: ``qweight`` (inputs / n, outputs), a word holding n = 32 / bits inputs, the
first in the lowest bits; ``qzeros`` (groups, outputs / n), a word holding n outputs. AWQ: ``qweight`` (inputs, outputs / 8) and
``qzeros`` (groups, outputs / 8), a word holding 8 outputs, interleaved. Both: ``scales`` (groups, outputs), and ``value =
(code − zero) · scale``. Sources: AutoGPTQ's ``QuantLinear.pack``, AutoAWQ's ``WQLinear_GEMM.from_linear``.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from m4c.blockwise import Blocks, from_nibbles
from m4c.checkpoints.quantization import Awq, Gptq, Settings
from m4c.errors import CheckpointError
from m4c.weights import Array, array

WORD = 32
"""Bits of a word."""

AWQ_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]
"""Where in a word each of 8 outputs lies: AWQ packs them in the order 0, 2, 4, 6, 1, 3, 5, 7."""


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """The tensors of one matrix, of agreeing shapes; nothing is read but what is asked for."""

    name: str
    settings: Settings
    qweight: ir.TensorProtocol
    qzeros: ir.TensorProtocol
    scales: ir.TensorProtocol
    order: Array | None
    """int64 (inputs,): the order in which inputs form groups, if it is another than their own."""

    def rows(self, rows: slice) -> Blocks:
        """Return some outputs, their columns in the order of the groups.

        Raises:
            CheckpointError: if a scale is not a finite number.
        """
        codes = self._codes(rows)
        if self.order is not None:
            codes = codes[:, self.order]
        scales = np.ascontiguousarray(array(self.scales)[:, rows].T, np.float32)
        if not np.isfinite(scales).all():
            raise CheckpointError(
                f"{self.name} has scales that are not finite numbers",
                where=self.name,
                fix="get a sound checkpoint",
            )
        return Blocks(
            torch.from_numpy(np.ascontiguousarray(codes)),
            torch.from_numpy(scales),
            torch.from_numpy(self.zeros(rows).astype(np.uint8)),
        )

    def zeros(self, rows: slice) -> Array:
        """Return the zero points of some outputs, int16 (rows, groups), as wide as the first format's greatest."""
        words = array(self.qzeros)
        match self.settings:
            case Gptq(bits=bits, below=below):
                return _across(words, rows, bits).astype(np.int16) + np.int16(below)
            case Awq():
                return _across(words, rows, 4, AWQ_PLACES).astype(np.int16)

    def _codes(self, rows: slice) -> Array:
        """Return the codes of some outputs, uint8 (rows, inputs)."""
        words = array(self.qweight)
        match self.settings:
            case Gptq(bits=bits):
                return unpacked(np.ascontiguousarray(words[:, rows].T), bits)
            case Awq():
                return _across(words, rows, 4, AWQ_PLACES)


def unpacked(words: Array, bits: int) -> Array:
    """Return what int32 ``words`` (rows, n) hold, lowest bits first: uint8 (rows, n · 32 / bits)."""
    octets = words.astype("<i4", copy=False).view(np.uint8)
    if bits == 8:
        return octets
    return from_nibbles(torch.from_numpy(octets), octets.shape[1] * 2).numpy()


def _across(words: Array, rows: slice, bits: int, places: list[int] | None = None) -> Array:
    """Return ``rows`` of the outputs that lie along the second axis of ``words`` (m, n): uint8 (rows, m)."""
    each = WORD // bits
    first, last = rows.start // each, -(-rows.stop // each)
    held = unpacked(np.ascontiguousarray(words[:, first:last]), bits)
    if places is not None:
        held = held.reshape(len(held), -1, each)[:, :, places].reshape(held.shape)
    return held[:, rows.start - first * each : rows.stop - first * each].T
