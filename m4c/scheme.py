"""Weight-only quantization as a user asks for it: which matrices get which grid, by which method."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from m4c.errors import UsageError
from m4c.grid import Grid
from m4c.precisions import BITS

if TYPE_CHECKING:
    from m4c.blockwise import BlockwiseWeight, Method

METHODS = ("rtn", "hqq")
"""Methods that need the weights alone; :data:`m4c.rounding.methods.METHODS` has their functions."""

CALIBRATED = "gptq"
"""The method that needs calibration samples."""

GROUPS = {4: (64, 32, 16), 8: (128, 64, 32, 16)}
"""Group sizes by bits, the first of which divides the inputs is used unless the user says otherwise.

LLaMA-7B at 4 bits takes 4.1 GB in groups of 32 with float32 scales, and 3.7 GB in groups of 64.
"""

LITERT_GROUPS = {4: (128, 64, 32), 8: ()}
"""The same for LiteRT: in 4 bits XNNPACK computes with groups of 32 or a multiple, the larger the faster, and in 8 bits with a
scale a channel. Without groups, LiteRT's own 4-bit kernel computes other numbers than XNNPACK's, so there is no such grid.
"""

LEAST_OUTPUTS = 4
"""Outputs of a 4-bit matrix in LiteRT: its own kernel returns zeros for fewer."""

TABLE_BITS = 8
"""Embedding tables keep this many bits: they are gathered, not multiplied, so fewer would save memory but no time."""

KEPT = ("float32", "int8")
"""What can be asked of matrices that are to be kept at a higher precision."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """Grids for the matrices of a model."""

    bits: int
    group: int | None = None
    """Inputs that share a scale; 0: a whole output channel; None: what :data:`GROUPS` gives."""
    symmetric: bool = True
    method: str = "rtn"
    keep: tuple[tuple[str, str], ...] = ()
    """Patterns of weight names and what they are kept in; the first that fits counts."""
    bits_budget: float | None = None
    """Average bits of a weight that may be spent; grids of 8 bits are given to the matrices that need them most."""
    litert: bool = False
    """Whether the grids are those that LiteRT computes with."""

    def __post_init__(self) -> None:
        """Refuse what is not known."""
        if self.method not in (*METHODS, CALIBRATED):
            raise UsageError(
                f"there is no method {self.method!r}", fix=f"choose from: {', '.join((*METHODS, CALIBRATED))}"
            )
        if self.litert:
            self._check_litert()
        for pattern, kept in self.keep:
            if kept not in KEPT:
                raise UsageError(
                    f"{pattern} cannot be kept in {kept!r}", fix=f"choose from: {', '.join(KEPT)}"
                )

    @property
    def rounding(self) -> "Method":
        """The method for matrices that no samples reach: of the head of a gptq build, say, and to measure errors by."""
        from m4c.rounding import methods

        return methods.METHODS["rtn" if self.method == CALIBRATED else self.method]

    def grid(self, name: str, inputs: int, *, table: bool = False) -> Grid | None:
        """Return the grid of the matrix ``name`` with ``inputs`` inputs, or None if it stays as it is.

        Raises:
            UsageError: if the group size that the user chose does not divide the inputs.
        """
        bits = TABLE_BITS if table else self.bits
        for pattern, kept in self.keep:
            if fnmatchcase(name, pattern):
                if kept == "float32":
                    return None
                bits = 8
                break
        grid = self.of(bits, inputs)
        return Grid(bits, grid.group, short=self.litert) if table else grid

    def of(self, bits: int, inputs: int) -> Grid:
        """Return the grid of ``bits`` for a matrix with ``inputs`` inputs."""
        if self.group is not None and bits == self.bits:
            return Grid(bits, self.group or None, self.symmetric, self.litert)
        groups = LITERT_GROUPS if self.litert else GROUPS
        group = next((size for size in groups[bits] if inputs % size == 0), None)
        if self.litert and group is None:
            bits = 8
        return Grid(bits, group, self.symmetric, self.litert)

    def for_litert(self) -> "Scheme":
        """Return this scheme for LiteRT.

        Raises:
            UsageError: if LiteRT has no kernels for what it says.
        """
        return replace(self, litert=True)

    def _check_litert(self) -> None:
        """Refuse what LiteRT does not compute."""
        if not self.symmetric:
            raise UsageError(
                "LiteRT computes with weights around zero alone",
                fix="leave out --asymmetric, or add --format onnx",
            )
        known = LITERT_GROUPS[self.bits]
        if self.group is None or (self.group == 0 and not known):
            return
        if not known or self.group % known[-1] or self.group == 0:
            allowed = f"a multiple of {known[-1]}" if known else "0, a scale for each channel"
            raise UsageError(
                f"LiteRT has no fast kernel for {self.bits}-bit weights with a group size of {self.group}",
                fix=f"give --group-size {allowed}, or leave it out",
            )

    def __str__(self) -> str:
        """Return it as a pipeline prints it."""
        group = "auto" if self.group is None else self.group or "channel"
        text = f"{'int' if self.symmetric else 'uint'}{self.bits}/{group}, {self.method}"
        kept = "".join(f", {pattern}={kept}" for pattern, kept in self.keep)
        budget = f", {self.bits_budget:g} bits" if self.bits_budget else ""
        return text + kept + budget + (", LiteRT" if self.litert else "")


def scheme(
    precision: str | None,
    group: int | None,
    symmetric: bool,
    method: str,
    keep: tuple[str, ...],
    bits_budget: float | None,
) -> Scheme | None:
    """Return the scheme that options ask for, or None if weights alone are not quantized.

    Raises:
        UsageError: if the options are of another precision than ``precision``, or not well formed.
    """
    if precision not in BITS:
        if group is not None or not symmetric or keep or method != "rtn" or bits_budget is not None:
            raise UsageError(
                f"these options are for {' and '.join(BITS)}", fix="add --quantize int4, or leave them out"
            )
        return None
    pairs = []
    for rule in keep:
        pattern, sign, kept = rule.rpartition("=")
        if not sign or not pattern:
            raise UsageError(
                f"--keep {rule} has no precision", fix="write it as PATTERN=int8 or PATTERN=float32"
            )
        pairs.append((pattern, kept))
    return Scheme(BITS[precision], group, symmetric, method, tuple(pairs), bits_budget)


Given = Mapping[str, "BlockwiseWeight"]
"""Matrices that were quantized before: by a calibrated method, or where the checkpoint came from."""

Grids = Mapping[str, Grid]
"""Grids of single matrices, by name, instead of a scheme's."""
