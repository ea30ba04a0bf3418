"""Round to nearest, with the scale of each group searched for the smallest squared error.

Groups are first divided by the scale that just holds them, so that all candidates are plain numbers near 1, sums stay small
whatever the weights are, and one clamp serves all. The work is done in pieces that stay in a core's second cache.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from m4c.blockwise import Blocks, Grid
from m4c.weights import spans

SHRINKS = {4: (1.0, 8 / 7, 0.9, 0.8), 8: (1.0, 128 / 127)}
"""Scales that are tried, by bits, as shares of the one that just holds the largest value.

A little more than 1 serves groups that reach as far up as down, where the code −2^(bits−1) is best left out.
"""

TINY = 1e-30
"""The smallest scale; groups that would need a smaller one are zero."""

PIECE = 1 << 17
"""Weights that are searched at once: two more float32 buffers of this size are all that is needed beside them."""


def round_to_nearest(rows: Tensor, grid: Grid) -> Blocks:
    """Quantize ``rows`` float32 (rows, inputs), which are overwritten; each group keeps the scale with the smallest error.

    Every candidate is refined once: with its codes fixed, the best scale has a closed form, Σ w·q / Σ q². On a symmetric
    grid the scale has the sign that gives the largest value the code −2^(bits−1), which has no positive counterpart.
    """
    outputs, inputs = rows.shape
    groups = rows.view(-1, grid.size(inputs))
    codes = torch.empty(groups.shape, dtype=torch.int8)
    scales = torch.empty(len(groups), 1)
    zeros = torch.full((len(groups), 1), float(grid.middle))
    pieces = spans(len(groups), max(1, PIECE // groups.shape[1]))
    spare = torch.empty(2, pieces[0].stop, groups.shape[1])
    for piece in pieces:
        found, scales[piece], zeros[piece] = _piece(groups[piece], grid, spare[:, : piece.stop - piece.start])
        # torch converts to int8 five times as fast as to uint8, so the codes are shifted into its range and back
        codes[piece] = found.add_(zeros[piece] - 128)
    return Blocks(
        codes.view(torch.uint8).bitwise_xor_(128).view(outputs, inputs),
        scales.view(outputs, -1),
        zeros.view(outputs, -1).to(torch.uint8),
    )


def _piece(groups: Tensor, grid: Grid, spare: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the centred codes of ``groups`` (in ``spare``), their scales and zero points, (groups, 1) each."""
    largest, smallest = groups.amax(1, keepdim=True), groups.amin(1, keepdim=True)
    if grid.symmetric:
        full = torch.where(largest + smallest > 0, largest, smallest).div_(-grid.middle)
        full.masked_fill_(full.abs() < TINY, TINY)
        zero = torch.full_like(full, grid.middle)
    else:
        smallest.clamp_(max=0)
        full = largest.clamp_(min=0).div_(grid.top).sub_(smallest / grid.top).clamp_(min=TINY)
        zero = smallest.div_(full).neg_().round_().clamp_(0, grid.top)
    groups.mul_(full.reciprocal())
    bounds = _Bounds(grid, -zero, grid.top - zero)
    share = _search(groups, bounds, spare)
    return bounds.nearest(torch.mul(groups, share.reciprocal(), out=spare[0])), full.mul_(share), zero


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The centred codes that some groups may have."""

    grid: Grid
    low: Tensor
    high: Tensor

    def nearest(self, values: Tensor) -> Tensor:
        """Round ``values`` in place to the integers between the bounds."""
        values.round_()
        if self.grid.symmetric:
            return values.clamp_(-self.grid.middle, self.grid.middle - 1)
        # torch has fast kernels for these two, and none for a clamp to tensors
        torch.maximum(values, self.low, out=values)
        return torch.minimum(values, self.high, out=values)


def _search(groups: Tensor, bounds: _Bounds, spare: Tensor) -> Tensor:
    """Return for each group the scale (groups, 1), refined, that explains most of Σ w²."""
    codes, products = spare
    ones = torch.ones(groups.shape[1])
    shrinks = SHRINKS[bounds.grid.bits]
    product, square = torch.empty(2, len(shrinks), len(groups))
    for index, shrink in enumerate(shrinks):
        bounds.nearest(torch.mul(groups, 1 / shrink, out=codes))
        torch.mv(torch.mul(groups, codes, out=products), ones, out=product[index])
        torch.mv(codes.square_(), ones, out=square[index])
    ratio = product.div_(square.clamp_(min=1))  # a group without codes is explained by no scale
    best = ratio.square().mul_(square).max(0, keepdim=True).indices  # argmax would be thirty times as slow
    share = ratio.gather(0, best).view(-1, 1)
    return torch.where(share == 0, 1, share)
