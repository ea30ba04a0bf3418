import numpy as np
import pytest
import torch
from torch import Tensor

from m4c.grid import Grid
from m4c.rounding import hqq
from m4c.rounding.hqq import NORM, half_quadratic
from m4c.rounding.rtn import round_to_nearest
from tests.rounding.matrices import GRIDS, outliers, plain, values

FOUR = [Grid(4, group, symmetric) for group in (32, 64, 128) for symmetric in (True, False)]


def size(weights: Tensor, made: Tensor, grid: Grid) -> Tensor:
    """Return Σ |error|^p of each group."""
    wrong = (made.double() - weights.double()).abs() ** NORM
    return wrong.view(-1, grid.size(weights.shape[1])).sum(1)


@pytest.mark.parametrize("grid", FOUR, ids=str)
def test_its_own_error_is_below_that_of_rounding_to_nearest(grid: Grid) -> None:
    weights = outliers()
    found = size(weights, half_quadratic(weights.clone(), grid).dequantized(), grid)
    nearest = size(weights, round_to_nearest(weights.clone(), grid).dequantized(), grid)
    assert bool((found <= nearest * 1.01).all())
    assert float(found.sum() / nearest.sum()) < 0.99
    assert float(found.sum() / size(weights, plain(weights, grid), grid).sum()) < 0.96


@pytest.mark.parametrize("group", [32, 64])
def test_its_squared_error_is_below_that_of_plain_rounding(group: int) -> None:
    weights, grid = outliers(), Grid(4, group, False)
    made = half_quadratic(weights.clone(), grid).dequantized()
    assert float((made - weights).square().sum()) < float((plain(weights, grid) - weights).square().sum())


def test_the_zero_point_moves() -> None:
    weights, grid = outliers(), Grid(4, 32, False)
    moved = half_quadratic(weights.clone(), grid).zeros != round_to_nearest(weights.clone(), grid).zeros
    assert 0.05 < float(moved.float().mean()) < 0.95


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_codes_scales_and_zeros_stand_for_the_values(grid: Grid) -> None:
    blocks = half_quadratic(outliers(4, 128), grid)
    np.testing.assert_array_equal(blocks.dequantized().numpy(), values(blocks))
    assert int(blocks.codes.max()) <= grid.top
    if grid.symmetric:
        assert bool((blocks.zeros == grid.middle).all())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("constant", [0.0, 2.0, -5.0, 1e37])
def test_groups_of_one_value_are_exact(grid: Grid, constant: float) -> None:
    made = half_quadratic(torch.full((2, 64), constant), grid).dequantized()
    torch.testing.assert_close(made, torch.full((2, 64), constant), rtol=1e-5, atol=1e-30)


def test_each_row_is_rounded_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, grid = outliers(6, 128), Grid(4, 32, False)
    whole = half_quadratic(weights.clone(), grid).dequantized()
    monkeypatch.setattr(hqq, "PIECE", 160)
    for row in range(6):
        alone = half_quadratic(weights[row : row + 1].clone(), grid).dequantized()
        torch.testing.assert_close(alone[0], whole[row])
