"""Round to nearest, with the scale of each group searched for the smallest squared error."""

import torch
from torch import Tensor

from m4c.blockwise import Blocks, Grid

SHRINKS = {4: (1.0, 0.92, 0.84, 0.76), 8: (1.0,)}
"""Scales that are tried, by bits, as shares of the one that just holds the largest value."""

TINY = 1e-30
"""Added to scales of groups that are all zero."""


def round_to_nearest(rows: Tensor, grid: Grid) -> Blocks:
    """Quantize ``rows`` float32 (rows, inputs); each group keeps the scale with the smallest error.

    Every candidate is refined once: with its codes fixed, the best scale has a closed form, Σ w·q / Σ q². On a symmetric
    grid the scale has the sign that gives the largest value the code −2^(bits−1), which has no positive counterpart.
    """
    groups = rows.view(rows.shape[0], -1, grid.size(rows.shape[1]))
    return _symmetric(groups, grid) if grid.symmetric else _asymmetric(groups, grid)


def _symmetric(groups: Tensor, grid: Grid) -> Blocks:
    low, high = -grid.middle, grid.middle - 1
    smallest, largest = torch.aminmax(groups, dim=2)
    extreme = torch.where(-smallest > largest, smallest, largest)
    full = extreme / low
    full = torch.where(full == 0, TINY, full)
    best, gain = None, None
    for shrink in SHRINKS[grid.bits]:
        scale = full * shrink
        codes = (groups * scale.reciprocal().unsqueeze(2)).round_().clamp_(low, high)
        product = torch.linalg.vecdot(groups, codes)
        square = torch.linalg.vecdot(codes, codes).clamp_(min=1)
        explained = product * product / square  # what the refined scale takes off Σ w²
        if gain is None or best is None:
            best, gain = product / square, explained
        else:
            better = explained > gain
            best, gain = torch.where(better, product / square, best), torch.where(better, explained, gain)
    assert best is not None
    best = torch.where(best == 0, TINY, best)
    codes = (groups * best.reciprocal().unsqueeze(2)).round_().clamp_(low, high).add_(grid.middle)
    rows = codes.to(torch.uint8).view(groups.shape[0], -1)
    return Blocks(rows, best, torch.full(best.shape, grid.middle, dtype=torch.uint8))


def _asymmetric(groups: Tensor, grid: Grid) -> Blocks:
    smallest, largest = (bound.unsqueeze(2) for bound in torch.aminmax(groups, dim=2))
    smallest, largest = smallest.clamp_(max=0), largest.clamp_(min=0)
    best = None
    for shrink in SHRINKS[grid.bits]:
        scale = (largest - smallest) * (shrink / grid.top) + TINY
        zero = (-smallest * shrink / scale).round_().clamp_(0, grid.top)
        codes = (groups / scale).round_().add_(zero).clamp_(0, grid.top)
        centred = codes - zero
        product, square = (groups * centred).sum(2, keepdim=True), (centred * centred).sum(2, keepdim=True)
        explained = product * product / square.clamp(min=1)
        found = (product / square.clamp(min=1), zero, explained)
        if best is None:
            best = found
        else:
            better = explained > best[2]
            best = (
                torch.where(better, found[0], best[0]),
                torch.where(better, zero, best[1]),
                torch.where(better, explained, best[2]),
            )
    assert best is not None
    scale, zero = best[0] + (best[0] == 0) * TINY, best[1]
    codes = (groups / scale).round_().add_(zero).clamp_(0, grid.top)
    rows = codes.to(torch.uint8).view(groups.shape[0], -1)
    return Blocks(rows, scale.squeeze(2), zero.squeeze(2).to(torch.uint8))
