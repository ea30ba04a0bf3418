"""Scales as LiteRT has them: positive, and numbers of bfloat16 and of float16, before codes are chosen."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from m4c.blockwise import Blocks, BlockwiseWeight, Method
from m4c.grid import Grid
from m4c.rounding.hqq import half_quadratic
from m4c.rounding.rtn import round_to_nearest
from m4c.weights import Array, array
from tests.rounding.matrices import outliers

SHORT = [Grid(4, 32, short=True), Grid(4, 128, short=True), Grid(8, None, short=True)]
NUMBERS = st.floats(-60000, 60000, width=32)


def is_short(scales: torch.Tensor) -> bool:
    """Return whether both formats hold every one of ``scales``."""
    both = scales.equal(scales.bfloat16().float()) and scales.equal(scales.half().float())
    return both and bool((scales > 0).all())


@given(held=arrays(np.float32, (16,), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_scales_that_both_formats_hold(held: Array) -> None:
    scales = torch.from_numpy(held)
    stored = Grid(4, 32, short=True).stored(scales)
    assert is_short(stored)
    assert stored.equal(Grid(4, 32, short=True).stored(stored))
    within = (scales.abs() >= 2**-17) & (scales.abs() <= 60000)
    assert bool(((stored - scales.abs()).abs() <= scales.abs() / 256)[within].all())
    assert Grid(4, 32).stored(scales) is scales


@pytest.mark.parametrize("grid", SHORT, ids=str)
@pytest.mark.parametrize("method", [round_to_nearest, half_quadratic])
def test_methods_end_with_such_scales_and_the_codes_nearest_for_them(grid: Grid, method: Method) -> None:
    weights = outliers(8, 256)
    blocks = method(weights.clone(), grid)
    assert is_short(blocks.scales)
    assert int(blocks.codes.min()) >= grid.bottom
    steps = weights.view(8, blocks.scales.shape[1], -1) / blocks.scales.unsqueeze(2)
    nearest = (steps.round() + grid.middle).clamp(grid.bottom, grid.top).view(weights.shape)
    apart = (nearest - blocks.codes).abs()
    assert float((apart > 0).float().mean()) < 1e-3  # ties
    free = method(weights.clone(), Grid(grid.bits, grid.group))
    lost = [(made.dequantized() - weights).square().sum() for made in (blocks, free)]
    assert lost[0] < 1.1 * lost[1]


@given(held=arrays(np.float32, (2, 64), elements=NUMBERS))
def test_any_matrix_has_finite_codes(held: Array) -> None:
    weights = torch.from_numpy(held)
    blocks = round_to_nearest(weights.clone(), SHORT[0])
    assert is_short(blocks.scales)
    largest = weights.view(2, 2, 32).abs().amax(2)
    apart = (blocks.dequantized() - weights).view(2, 2, 32).abs().amax(2)
    assert bool((apart <= largest * 0.51 + 1e-6).all())


def test_codes_that_a_checkpoint_holds_are_kept() -> None:
    codes = torch.arange(16, dtype=torch.uint8).repeat(2, 4)
    scales = torch.tensor([[0.1, -0.2], [0.3, 0.4]])
    rows = Blocks(codes, scales, torch.full((2, 2), 8, dtype=torch.uint8))
    weight = BlockwiseWeight(
        "w", (2, 64), Grid(4, 32), lambda span: Blocks(codes[span], scales[span], rows.zeros[span])
    )
    made, true = weight.shortened(), array(weight.dequantized())
    blocks = made.rows(slice(0, 2))
    assert is_short(blocks.scales)
    assert blocks.codes[1].equal(codes[1])
    np.testing.assert_allclose(array(made.dequantized())[1], true[1], rtol=2**-8)
    turned = array(made.dequantized())[0, 32:]
    np.testing.assert_allclose(turned[true[0, 32:] < 1.5], true[0, 32:][true[0, 32:] < 1.5], rtol=2**-8)
    assert turned.max() == pytest.approx(1.4, rel=2**-8)  # -8 has no counterpart
