import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from m4c.grid import Grid
from m4c.rounding import rtn
from m4c.rounding.rtn import round_to_nearest
from m4c.weights import Array
from tests.rounding.matrices import GRIDS, outliers, plain, squared, values

NUMBERS = st.floats(-1000, 1000, width=32).map(lambda x: x if abs(x) > 1e-6 else 0.0)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@given(held=arrays(np.float32, (2, 64), elements=NUMBERS))
@settings(deadline=None, max_examples=25)
def test_no_group_is_worse_than_rounded_between_its_extremes(grid: Grid, held: Array) -> None:
    weights = torch.from_numpy(held)
    blocks = round_to_nearest(weights.clone(), grid)
    assert int(blocks.codes.max()) <= grid.top
    assert int(blocks.zeros.max()) <= grid.top
    found = squared(weights, blocks.dequantized(), grid)
    bound = squared(weights, plain(weights, grid), grid)
    energy = weights.double().square().view(len(found), -1).sum(1)
    assert bool((found <= bound * 1.001 + energy * 1e-11).all())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_codes_scales_and_zeros_stand_for_the_values(grid: Grid) -> None:
    blocks = round_to_nearest(outliers(4, 128), grid)
    np.testing.assert_array_equal(blocks.dequantized().numpy(), values(blocks))
    assert blocks.codes.dtype == blocks.zeros.dtype == torch.uint8
    assert blocks.scales.dtype == torch.float32
    if grid.symmetric:
        assert bool((blocks.zeros == grid.middle).all())


@pytest.mark.parametrize(
    ("grid", "share"),
    [
        (Grid(4, 32), 0.96),
        (Grid(4, 128), 0.94),
        (Grid(4, 32, False), 0.96),
        (Grid(8, 32), 0.97),
        (Grid(8, 32, False), 0.94),
    ],
    ids=str,
)
def test_the_search_takes_off_a_share_of_the_error(grid: Grid, share: float) -> None:
    weights = outliers()
    made = round_to_nearest(weights.clone(), grid).dequantized()
    found, bound = (squared(weights, w, grid).sum() for w in (made, plain(weights, grid)))
    assert float(found / bound) < share


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_each_row_is_rounded_for_itself(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtn, "LANES", 5)  # the last of which stay empty
    weights = outliers(7, 128)
    whole = round_to_nearest(weights.clone(), grid)
    for row in range(7):
        alone = round_to_nearest(weights[row : row + 1].clone(), grid)
        torch.testing.assert_close(alone.codes[0], whole.codes[row], rtol=0, atol=0)
        torch.testing.assert_close(alone.zeros[0], whole.zeros[row], rtol=0, atol=0)
        torch.testing.assert_close(alone.scales[0], whole.scales[row], rtol=0, atol=0)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("constant", [0.0, 1.0, -3.0, 1e-35, 1e37, -3e38])
def test_groups_of_one_value_are_exact(grid: Grid, constant: float) -> None:
    blocks = round_to_nearest(torch.full((2, 64), constant), grid)
    made = blocks.dequantized()
    assert bool(blocks.scales.isfinite().all())
    assert bool((blocks.scales != 0).all())
    torch.testing.assert_close(made, torch.full((2, 64), constant), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_largest_and_smallest_floats_stay_finite(grid: Grid) -> None:
    weights = torch.linspace(-1, 1, 64)[None] * 3e38
    made = round_to_nearest(weights.clone(), grid).dequantized()
    assert bool(made.isfinite().all())
    assert float((made.double() - weights.double()).abs().max()) < 6e38 / grid.top
    tiny = torch.full((1, 64), 1e-44)
    assert bool((round_to_nearest(tiny, grid).dequantized().abs() < 1e-30).all())


@pytest.mark.parametrize("bits", [4, 8])
def test_what_was_on_a_grid_without_the_lowest_code_is_found_again(bits: int) -> None:
    high = (1 << (bits - 1)) - 1
    codes = torch.randint(-high, high + 1, (16, 64), generator=torch.Generator().manual_seed(0)).float()
    codes[:, 0], codes[:, 1], codes[:, 32], codes[:, 33] = high, -high, -high, high
    weights = codes * 0.037
    made = round_to_nearest(weights.clone(), Grid(bits, 32)).dequantized()
    torch.testing.assert_close(made, weights, rtol=1e-5, atol=1e-7)
