"""Grids that weights are rounded to. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from m4c.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """What codes a matrix is rounded to."""

    bits: int
    group: int | None
    """Inputs that share a scale; None: all inputs of an output channel."""
    symmetric: bool = True
    short: bool = False
    """Whether scales are positive and numbers of bfloat16 and float16 both, as LiteRT's kernels have them."""

    def __post_init__(self) -> None:
        """Refuse what no runtime computes with."""
        if self.bits not in (4, 8):
            raise UsageError(f"weights of {self.bits} bits", fix="choose 4 or 8")
        if self.group is not None and (self.group < 16 or self.group & (self.group - 1)):
            raise UsageError(f"a group size of {self.group}", fix="choose a power of two from 16 on")

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    @property
    def bottom(self) -> int:
        """The smallest code: LiteRT's own 8-bit kernels add up in 16 bits, which −128 overflows."""
        return 1 if self.short and self.bits == 8 else 0

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return 1 << (self.bits - 1)

    def stored(self, scales: "Tensor") -> "Tensor":
        """Return float32 ``scales`` as a format will store them: what follows is chosen for these.

        A file of LiteRT has float16 scales, XNNPACK rounds them to bfloat16 (8 bits) when it packs weights, and takes none
        that is negative; float16 ends at 2^-24 and 65504.
        """
        if not self.short:
            return scales
        return scales.abs().clamp(2**-24, 65280).bfloat16().half().float()

    def size(self, inputs: int) -> int:
        """Return how many inputs share a scale in a matrix of ``inputs``."""
        return inputs if self.group is None else self.group

    def bits_per_weight(self, inputs: int) -> float:
        """Return the size of a weight with its share of the scale, and of the zero point where there is one."""
        scale = 16 if self.short and self.group is not None else 32
        return self.bits + (scale + (0 if self.symmetric else self.bits)) / self.size(inputs)

    def __str__(self) -> str:
        """Return a short name, such as ``int4/32`` or ``uint4/64``."""
        return f"{'int' if self.symmetric else 'uint'}{self.bits}/{self.group or 'channel'}"
