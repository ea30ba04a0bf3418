"""Matrices to round, and the plainest way to round them."""

import torch
from torch import Tensor

from m4c.blockwise import Blocks
from m4c.grid import Grid
from m4c.weights import Array

GRIDS = [
    Grid(bits, group, symmetric) for bits in (4, 8) for group in (32, None) for symmetric in (True, False)
]


def outliers(rows: int = 64, inputs: int = 1024) -> Tensor:
    """Return normal weights, one in a thousand of which is twenty times as large."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(rows, inputs, generator=generator)
    weights[torch.rand(rows, inputs, generator=generator) < 1e-3] *= 20
    return weights


def correlated(samples: int, inputs: int, seed: int = 0) -> Tensor:
    """Return activations most of which lie in an eighth of the space."""
    generator = torch.Generator().manual_seed(7)
    mixing = torch.randn(inputs // 8, inputs, generator=generator)
    generator.manual_seed(seed)
    few = torch.randn(samples, inputs // 8, generator=generator)
    return few @ mixing + 0.3 * torch.randn(samples, inputs, generator=generator)


def plain(weights: Tensor, grid: Grid) -> Tensor:
    """Round to nearest between the extremes of each group, in float64; on a symmetric grid the largest gets −2^(bits−1)."""
    groups = weights.double().view(-1, grid.size(weights.shape[1]))
    high, low = groups.amax(1, keepdim=True), groups.amin(1, keepdim=True)
    zero: Tensor | int = grid.middle
    if grid.symmetric:
        scale = torch.where(high > -low, high, low) / -grid.middle
    else:
        scale = (high.clamp(min=0) - low.clamp(max=0)) / grid.top
        scale = torch.where(scale == 0, 1.0, scale)
        zero = (-low.clamp(max=0) / scale).round()
    scale = torch.where(scale == 0, 1.0, scale)
    codes = ((groups / scale).round() + zero).clamp(0, grid.top)
    return ((codes - zero) * scale).view(weights.shape)


def squared(weights: Tensor, rounded: Tensor, grid: Grid) -> Tensor:
    """Return the squared error of each group, float64."""
    wrong = (weights.double() - rounded.double()).square()
    return wrong.view(-1, grid.size(weights.shape[1])).sum(1)


def values(blocks: Blocks) -> Array:
    """Return (code − zero) · scale, one number at a time."""
    rows, inputs = blocks.codes.shape
    size = inputs // blocks.scales.shape[1]
    made = torch.empty(rows, inputs)
    for row in range(rows):
        for column in range(inputs):
            code, zero = int(blocks.codes[row, column]), int(blocks.zeros[row, column // size])
            made[row, column] = (code - zero) * blocks.scales[row, column // size]
    return made.numpy()
