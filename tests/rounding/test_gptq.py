import numpy as np
import pytest
import torch
from torch import Tensor

from m4c.blockwise import Blocks
from m4c.errors import NumbersError
from m4c.grid import Grid
from m4c.rounding.gptq import feedback, gptq
from m4c.rounding.rtn import round_to_nearest
from m4c.weights import Array
from tests.rounding.matrices import correlated

FOUR = [Grid(4, group, symmetric) for group in (16, 64, None) for symmetric in (True, False)]


def hessian_of(samples: Tensor) -> Tensor:
    return 2 * samples.T @ samples / len(samples)


def weights_of(outputs: int, inputs: int) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1))


def extremes(rows: Tensor, grid: Grid) -> Blocks:
    """Take scales from the extremes of each row: unlike those of a search, no rounding error makes them jump."""
    high, low = rows.amax(1, keepdim=True).clamp(min=0), rows.amin(1, keepdim=True).clamp(max=0)
    if grid.symmetric:
        scales, zeros = torch.maximum(high, -low) / (grid.middle - 1), torch.full_like(high, grid.middle)
    else:
        scales = (high - low) / grid.top
        zeros = (-low / scales).round()
    codes = (rows / scales + zeros).round().clamp(0, grid.top)
    return Blocks(codes.to(torch.uint8), scales, zeros.to(torch.uint8))


def naive(weight: Array, hessian: Array, grid: Grid, order: Array | None, damping: float = 0.01) -> Array:
    """Quantize column by column in float64, inverting the Hessian of what is left anew for each."""
    left, size = weight.astype(np.float64).copy(), grid.size(weight.shape[1])
    damped = hessian.astype(np.float64) + np.eye(len(hessian)) * damping * np.mean(np.diag(hessian))
    made = np.zeros_like(left)
    scales: dict[int, tuple[Array, Array]] = {}

    def search(group: int) -> None:
        rows = left[:, group * size : (group + 1) * size].astype(np.float32)
        found = extremes(torch.from_numpy(rows.copy()), Grid(grid.bits, None, grid.symmetric))
        scales[group] = found.scales[:, 0].numpy().astype(np.float64), found.zeros[:, 0].numpy().astype(float)

    if order is not None:
        for group in range(weight.shape[1] // size):
            search(group)
    places = np.arange(weight.shape[1]) if order is None else order
    for index, column in enumerate(places):
        if order is None and column % size == 0:
            search(column // size)
        scale, zero = scales[column // size]
        codes = np.clip(np.round(left[:, column] / scale + zero), 0, grid.top)
        made[:, column] = (codes - zero) * scale
        rest = places[index:]
        inverse = np.linalg.inv(damped[np.ix_(rest, rest)])
        wrong = (left[:, column] - made[:, column]) / inverse[0, 0]
        left[:, rest] -= np.outer(wrong, inverse[0])
    return made


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(
    ("inputs", "grid"),
    [
        (48, Grid(4, 16)),
        (48, Grid(4, 16, False)),
        (80, Grid(4, None)),
        (128, Grid(4, 64, False)),
        (96, Grid(8, 32)),
    ],
    ids=str,
)
def test_it_is_the_naive_algorithm(
    inputs: int, grid: Grid, act_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m4c.rounding.gptq.BLOCK", 32)  # so that a few columns are several blocks
    monkeypatch.setattr("m4c.rounding.gptq.round_to_nearest", extremes)
    weight, hessian = weights_of(3, inputs), hessian_of(correlated(400, inputs))
    order = np.argsort(-hessian.diagonal().numpy(), kind="stable") if act_order else None
    blocks = gptq(weight, hessian, grid, act_order=act_order)
    expected = naive(weight.numpy(), hessian.numpy(), grid, order)
    np.testing.assert_allclose(blocks.dequantized().numpy(), expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("grid", [*FOUR, Grid(4, 32), Grid(8, 32)], ids=str)
def test_outputs_are_nearer_than_rounded_to_nearest(grid: Grid, act_order: bool) -> None:
    weight = weights_of(64, 256)
    hessian = hessian_of(correlated(1000, 256))
    made = gptq(weight, hessian, grid, act_order=act_order).dequantized()
    nearest = round_to_nearest(weight.clone(), grid).dequantized()
    for seed in (0, 1):  # the samples it was made for, and others
        samples = correlated(1000, 256, seed)
        wrong = [float((samples @ (w - weight).T).square().sum()) for w in (made, nearest)]
        assert wrong[0] < 0.6 * wrong[1]


def test_what_it_is_given_is_left_alone() -> None:
    for outputs in (1, 5):
        weight, hessian = weights_of(outputs, 64), hessian_of(correlated(100, 64))
        before = weight.clone(), hessian.clone()
        gptq(weight, hessian, Grid(4, 32))
        gptq(weight, hessian, Grid(4, 32), act_order=True)
        torch.testing.assert_close((weight, hessian), before, rtol=0, atol=0)


def test_without_correlations_it_rounds_to_nearest() -> None:
    weight, grid = weights_of(8, 64), Grid(4, 32)
    found, nearest = gptq(weight, torch.eye(64), grid), round_to_nearest(weight.clone(), grid)
    torch.testing.assert_close(found.codes, nearest.codes, rtol=0, atol=0)
    torch.testing.assert_close(found.scales, nearest.scales)


@pytest.mark.parametrize("act_order", [False, True])
def test_weights_of_dead_inputs_become_zero(act_order: bool) -> None:
    samples, weight = correlated(300, 64), weights_of(4, 64)
    samples[:, [3, 40]] = 0
    blocks = gptq(weight, hessian_of(samples), Grid(4, 32), act_order=act_order)
    made = blocks.dequantized()
    assert not made[:, [3, 40]].any()
    alive = made[:, torch.arange(64) % 37 != 3]
    assert float((alive == 0).float().mean()) < 0.2
    assert float((samples @ (made - weight).T).square().sum()) < 0.05 * float(
        (samples @ weight.T).square().sum()
    )


def test_inputs_that_are_all_dead_make_zeros() -> None:
    assert not gptq(weights_of(2, 32), torch.zeros(32, 32), Grid(4, 32)).dequantized().any()


def test_few_samples_are_enough() -> None:
    made = gptq(weights_of(2, 64), hessian_of(correlated(3, 64)), Grid(4, 32)).dequantized()
    assert bool(made.isfinite().all())


def test_more_damping_is_tried_before_it_gives_up() -> None:
    hessian = torch.eye(32)
    hessian[0, 1] = hessian[1, 0] = 1.05  # an eigenvalue of −0.05: more than 1 % of damping is needed
    expected = torch.linalg.inv((hessian + 0.1 * torch.eye(32)).double())
    factor = feedback(hessian).factor.double()
    torch.testing.assert_close(factor.T @ factor, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [-100.0, float("nan"), float("inf")])
def test_a_hessian_that_is_none_is_refused(bad: float) -> None:
    hessian = torch.eye(32)
    hessian[5, 5] = bad
    with pytest.raises(
        NumbersError, match=r"not positive definite with a damping of 1\n  fix: calibrate with"
    ):
        gptq(weights_of(2, 32), hessian, Grid(4, 32))
