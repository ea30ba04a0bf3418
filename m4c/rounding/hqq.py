"""Half-quadratic quantization: zero points and scales that let a few weights go far off, so that most are near.

Source: H. Badri and A. Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023. The error is measured by
its p-norm with p < 1. It is split off as a variable of its own, which a generalized soft threshold finds; what the weights
are without it is fitted by zero point and scale in closed form. No samples are needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from m4c.blockwise import Blocks
from m4c.grid import Grid
from m4c.rounding.rtn import round_to_nearest
from m4c.weights import spans

NORM = 0.7
"""The power of the error that is summed. Source: the authors' own default."""

THRESHOLD = 0.1
"""Strength of the soft threshold, 1/β, for errors in steps of the grid; the authors begin with β = 10."""

DECAY = 1 / 1.01
"""How the threshold falls from one iteration to the next. Source: the authors' κ."""

ITERATIONS = 20

TINY = 1e-30
"""In place of a denominator of 0."""

PIECE = 1 << 16
"""Weights that are solved for at once."""


def half_quadratic(rows: Tensor, grid: Grid) -> Blocks:
    """Quantize ``rows`` float32 (rows, inputs), which are left alone.

    No group ends with a larger Σ |error|^0.7 than :func:`m4c.rounding.rtn.round_to_nearest` gives, where it begins. On a
    symmetric grid only the scale is solved for.
    """
    outputs, inputs = rows.shape
    groups = rows.reshape(-1, grid.size(inputs))
    begin = round_to_nearest(rows, grid)
    codes, scales, zeros = begin.codes.view(groups.shape), begin.scales.view(-1, 1), begin.zeros.view(-1, 1)
    for piece in spans(len(groups), max(1, PIECE // groups.shape[1])):
        values = groups[piece] / scales[piece]
        fit = _solve(values, _Fit(grid, torch.ones_like(scales[piece]), zeros[piece].float()))
        if grid.short:
            fit = _stored(values, fit, scales[piece])
        codes[piece] = fit.codes(values)
        scales[piece].mul_(fit.scale)
        zeros[piece] = fit.zero
    return Blocks(codes.view(outputs, inputs), grid.stored(scales.view(outputs, -1)), zeros.view(outputs, -1))


@dataclass(frozen=True, slots=True)
class _Fit:
    """Scale and zero point (groups, 1) of some groups."""

    grid: Grid
    scale: Tensor
    zero: Tensor

    def of(self, some: Tensor) -> "_Fit":
        """Return the fit of ``some`` of the groups."""
        return _Fit(self.grid, self.scale[some], self.zero[some])

    def codes(self, values: Tensor) -> Tensor:
        """Return the codes of ``values``, as floats."""
        return (values / self.scale).add_(self.zero).round_().clamp_(self.grid.bottom, self.grid.top)

    def error(self, values: Tensor) -> Tensor:
        """Return Σ |error|^p (groups, 1)."""
        made = self.codes(values).sub_(self.zero).mul_(self.scale)
        return made.sub_(values).abs_().pow_(NORM).sum(1, keepdim=True)


def _stored(values: Tensor, fit: _Fit, scales: Tensor) -> _Fit:
    """Return ``fit`` with its scale, in steps of ``scales``, as it is stored; 1 where that is better."""
    made = _Fit(fit.grid, fit.grid.stored(fit.scale * scales) / scales, fit.zero)
    begin = _Fit(fit.grid, torch.ones_like(fit.scale), fit.zero)
    worse = made.error(values) > begin.error(values)
    return _Fit(fit.grid, torch.where(worse, 1.0, made.scale), fit.zero)


def _solve(values: Tensor, best: _Fit) -> _Fit:
    """Return the best fit met from ``best`` on; ``values`` are in steps of its scale. A group that gets worse is done.

    What is compared are fits as they will be stored, with integer zero points; from one to the next these stay as they are.
    """
    error, going = _neighbours(values, best), torch.arange(len(values))
    fit, threshold = best, THRESHOLD
    for _ in range(ITERATIONS):
        stored, fit = _next(values, fit, threshold)
        found = stored.error(values)
        better = (found < error).view(-1)
        if not better.any():
            break
        going, values, error, fit = going[better], values[better], found[better], fit.of(better)
        best.scale[going], best.zero[going] = stored.scale[better], stored.zero[better]
        threshold *= DECAY
    return best


def _neighbours(values: Tensor, best: _Fit) -> Tensor:
    """Move ``best`` to the zero point beside where that is better, and return its error (groups, 1).

    What follows moves a zero point by less than a half at a time, which rounding would undo.
    """
    error = best.error(values)
    begin = best.zero.clone()
    for beside in () if best.grid.symmetric else (begin - 1, begin + 1):
        fit = _Fit(best.grid, torch.ones_like(begin), beside.clamp_(0, best.grid.top))
        wrong = values - (fit.codes(values) - fit.zero)
        fit = _Fit(
            best.grid, _scale(values - _shrunk(wrong, THRESHOLD), fit.codes(values) - fit.zero), fit.zero
        )
        found = fit.error(values)
        better = (found < error).view(-1)
        error[better], best.scale[better], best.zero[better] = (
            found[better],
            fit.scale[better],
            fit.zero[better],
        )
    return error


def _next(values: Tensor, fit: _Fit, threshold: float) -> tuple[_Fit, _Fit]:
    """Return the fit that follows ``fit``: with its zero point rounded, and as it is."""
    codes = fit.codes(values)
    target = values - _shrunk(values - (codes - fit.zero) * fit.scale, threshold)
    if fit.grid.symmetric:
        made = _Fit(fit.grid, _scale(target, codes - fit.zero), fit.zero)
        return made, made
    zero = (codes - target / fit.scale).mean(1, keepdim=True).clamp_(0, fit.grid.top)
    whole = zero.round()
    return (
        _Fit(fit.grid, _scale(target, codes - whole), whole),
        _Fit(fit.grid, _scale(target, codes - zero), zero),
    )


def _scale(target: Tensor, centred: Tensor) -> Tensor:
    """Return the scale (groups, 1) that brings ``centred`` codes nearest to ``target``; it stays near 1, and positive."""
    square = centred.square().sum(1, keepdim=True)
    product = centred.mul_(target).sum(1, keepdim=True)
    return torch.where(square > 0, product / square.clamp_(min=TINY), 1.0).clamp_(0.25, 2)


def _shrunk(error: Tensor, threshold: float) -> Tensor:
    """Return the part of ``error`` that is given up: sign(e) · max(|e| − threshold · |e|^(p−1), 0)."""
    size = error.abs()
    kept = size.sub(size.pow(NORM - 1).nan_to_num_(posinf=0.0), alpha=threshold).clamp_(min=0)
    return kept.copysign_(error)
