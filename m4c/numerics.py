"""How closely an artifact must follow its source: the one table of tolerances, and the measures.

Float artifacts are compared by the largest absolute difference relative to the largest value of the source, so that one
figure serves outputs of any scale. Integer artifacts are compared by their signal-to-quantization-noise ratio.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "int8-weights": 1e-4, "int4": 1e-4}
"""Largest allowed relative error of a float artifact, by its precision. Where weights alone are rounded, the source
is compared with the same rounded weights: rounding costs accuracy, what follows must not cost any."""

SQNR_FLOOR_DB = {"int8": 10.0, "int16x8": 25.0}
"""Smallest allowed SQNR in dB of an integer artifact: below it an artifact is broken rather than imprecise.

Whisper tiny.en's encoder in int8 has 12.2 dB and transcribes as its source does; at 5 dB it begins to miss words. In
int16x8 it has 31.5 dB.
"""

ACTIVATIONS = "int8"
"""The precision whose floor holds for a TFLite artifact with rounded weights as LiteRT runs it, with activations in 8 bits."""

REWRITTEN = "int16x8"
"""The precision whose floor holds for the graph of an integer build before it is rounded, in float.

What passes do for integers, such as to leave out an epsilon, costs little: with random weights, of m4-nano's graphs the text
encoder of Stable Diffusion has least, 32.3 dB.
"""

NOTABLE_DB = 20.0
"""Integer artifacts below this are pointed out to the user."""


def held_to(precision: str, cache: str) -> str:
    """Return the precision whose tolerance an artifact has: float16's, where its attention computes in that for its cache."""
    return "float16" if cache == "float16" and precision in TOLERANCE else precision


@dataclass(frozen=True, slots=True)
class Difference:
    """How far ``actual`` is from ``expected``, over all outputs of a graph."""

    max_absolute: float
    max_relative: float
    sqnr_db: float

    def within(self, precision: str, min_sqnr: float | None = None) -> bool:
        """Return whether this difference is acceptable for an artifact of ``precision``.

        ``min_sqnr`` (dB) is used instead of the table's floor, for integers.
        """
        if precision in TOLERANCE:
            loud = min_sqnr is None or self.sqnr_db >= min_sqnr
            return self.max_relative <= TOLERANCE[precision] and loud
        return self.sqnr_db >= _floor(precision, min_sqnr)

    def allowed(self, precision: str, min_sqnr: float | None = None) -> str:
        """Return the bound that :meth:`within` applies, for messages."""
        if precision in TOLERANCE and min_sqnr is not None:
            return f"max relative error {TOLERANCE[precision]:g} and SQNR of at least {min_sqnr:g} dB"
        if precision in TOLERANCE:
            return f"max relative error {TOLERANCE[precision]:g}"
        return f"SQNR of at least {_floor(precision, min_sqnr):g} dB"

    def __str__(self) -> str:
        """Return the figures on one line."""
        return f"max relative error {self.max_relative:.2e}, SQNR {self.sqnr_db:.1f} dB"


def _floor(precision: str, min_sqnr: float | None) -> float:
    return SQNR_FLOOR_DB[precision] if min_sqnr is None else min_sqnr


def sqnr(expected: Array, actual: Array) -> float:
    """Return the signal-to-quantization-noise ratio in dB: 10·log10(Σ expected² / Σ (expected − actual)²)."""
    signal = float(np.sum(np.square(expected, dtype=np.float64)))
    noise = float(np.sum(np.square(expected.astype(np.float64) - actual.astype(np.float64))))
    if noise == 0:
        return float("inf")
    return float("-inf") if signal == 0 else 10 * float(np.log10(signal / noise))


def difference(expected: Array, actual: Array) -> Difference:
    """Compare two arrays of one shape; infinities must be equal and NaN must be in neither, else the error is infinite."""
    if expected.shape != actual.shape:
        raise ValueError(f"shapes differ: {expected.shape} and {actual.shape}")
    want, got = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(want)
    if not np.array_equal(want[~finite], got[~finite]) or not np.isfinite(got[finite]).all():
        return Difference(float("inf"), float("inf"), float("-inf"))
    if not finite.any():
        return Difference(0.0, 0.0, float("inf"))
    want, got = want[finite], got[finite]
    worst = float(np.abs(want - got).max())
    largest = float(np.abs(want).max())
    relative = worst / largest if largest else worst
    return Difference(worst, relative, sqnr(want, got))


def worst(differences: list[Difference]) -> Difference:
    """Return the worst figure of each kind."""
    return Difference(
        max(d.max_absolute for d in differences),
        max(d.max_relative for d in differences),
        min(d.sqnr_db for d in differences),
    )
