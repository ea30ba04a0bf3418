from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m4c.blockwise import Blocks
from m4c.errors import UsageError
from m4c.grid import Grid
from m4c.rounding.budget import Sensitivity, sensitivity, spend
from m4c.rounding.rtn import round_to_nearest
from m4c.weights import Array, lazy
from tests.rounding.matrices import outliers, plain

LADDER = (Grid(4, None), Grid(4, 64), Grid(4, 32), Grid(8, None), Grid(8, 32))


def tensor(name: str, values: Array) -> ir.TensorProtocol:
    """Return a weight that can only be read in parts."""

    def read() -> Array:
        raise AssertionError(f"{name} was read whole")

    return lazy(name, ir.DataType.FLOAT, values.shape, read, lambda rows: values[rows], step=5)


def bounded(rows: torch.Tensor, grid: Grid) -> Blocks:
    """Round to nearest, rows that are few."""
    assert len(rows) <= 5
    return round_to_nearest(rows, grid)


def test_errors_are_those_of_the_whole_matrix_worst_first() -> None:
    rough, fine = outliers(13, 64), outliers(4, 128).clamp(-2, 2)
    weights = {"fine": tensor("fine", fine.numpy()), "rough": tensor("rough", rough.numpy())}
    found = sensitivity(weights, LADDER, None, bounded)
    assert [s.error for s in found] == sorted((s.error for s in found), reverse=True)
    assert len(found) == 10
    for one in found:
        held = {"rough": rough, "fine": fine}[one.name]
        made = round_to_nearest(held.clone(), one.grid).dequantized()
        expected = float((made - held).double().square().sum() / held.double().square().sum())
        assert one.error == pytest.approx(expected, rel=1e-4)
        assert one.weights == held.numel()
        assert one.bits == one.grid.bits_per_weight(held.shape[1])
    assert found[0].name == "rough"


def test_columns_count_as_much_as_their_inputs() -> None:
    held = outliers(6, 64)
    importance = np.zeros(64, np.float32)
    importance[10] = 3
    (found,) = sensitivity({"w": tensor("w", held.numpy())}, [Grid(4, 32)], {"w": importance}, bounded)
    made = round_to_nearest(held.clone(), Grid(4, 32)).dequantized()[:, 10]
    expected = (made - held[:, 10]).square().sum() / held[:, 10].square().sum()
    assert found.error == pytest.approx(float(expected), rel=1e-4)
    assert not np.isclose(found.error, float((plain(held, Grid(4, 32)) - held).square().mean()))


def test_grids_that_do_not_fit_a_matrix_are_left_out() -> None:
    weights = {"w": tensor("w", outliers(2, 48).numpy())}
    found = sensitivity(weights, [Grid(4, 32), Grid(4, 16)], None, bounded)
    assert [s.grid for s in found] == [Grid(4, 16)]
    with pytest.raises(UsageError, match="none of the group sizes divides the 48 inputs of w"):
        sensitivity(weights, [Grid(4, 32)], None, bounded)


def test_a_matrix_of_zeros_has_no_error() -> None:
    (found,) = sensitivity({"w": tensor("w", np.zeros((2, 32), np.float32))}, [Grid(4, 32)], None, bounded)
    assert found.error == 0


def several(errors: Sequence[Sequence[float]], sizes: Sequence[int]) -> list[Sensitivity]:
    return [
        Sensitivity(f"w{i}", grid, error, grid.bits_per_weight(64), size)
        for i, (row, size) in enumerate(zip(errors, sizes, strict=True))
        for grid, error in zip(LADDER, row, strict=True)
    ]


MATRICES = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=n, max_size=n),
        st.lists(st.integers(1, 1000), min_size=n, max_size=n),
    )
)


def taken(made: list[Sensitivity], chosen: dict[str, Grid]) -> tuple[float, float]:
    """Return average bits and summed error of a choice."""
    picked = [s for s in made if chosen[s.name] == s.grid]
    assert len(picked) == len(chosen)
    return sum(s.cost for s in picked) / sum(s.weights for s in picked), sum(s.error for s in picked)


@given(matrices=MATRICES, budgets=st.tuples(st.floats(4.5, 10), st.floats(4.5, 10)))
@settings(deadline=None, max_examples=200)
def test_the_budget_is_kept_and_more_bits_are_never_worse(
    matrices: tuple[list[list[float]], list[int]], budgets: tuple[float, float]
) -> None:
    made = several(*matrices)
    few, many = (taken(made, spend(made, budget)) for budget in sorted(budgets))
    assert few[0] <= min(budgets) + 1e-9
    assert many[0] <= max(budgets) + 1e-9
    assert many[1] <= few[1] + 1e-9


@given(matrices=MATRICES)
@settings(deadline=None, max_examples=50)
def test_with_bits_to_spare_every_error_is_the_smallest(
    matrices: tuple[list[list[float]], list[int]],
) -> None:
    made = several(*matrices)
    assert taken(made, spend(made, 100))[1] == pytest.approx(sum(min(row) for row in matrices[0]))


def test_bits_go_where_they_remove_most_error() -> None:
    cheap, dear = LADDER[0], LADDER[4]
    made = [
        Sensitivity(name, grid, error, grid.bits_per_weight(64), size)
        for name, size, errors in (("small", 10, (0.3, 0.1)), ("large", 1000, (0.4, 0.1)), ("fine", 10, (0.1, 0.0)))
        for grid, error in zip((cheap, dear), errors, strict=True)
    ]  # fmt: skip
    low = cheap.bits_per_weight(64)
    assert spend(made, low) == {"small": cheap, "large": cheap, "fine": cheap}
    assert spend(made, low + 0.05) == {"small": dear, "large": cheap, "fine": cheap}
    assert spend(made, low + 0.1) == {"small": dear, "large": cheap, "fine": dear}
    assert spend(made, 9) == {"small": dear, "large": dear, "fine": dear}


def test_too_few_bits_are_refused_with_the_fewest_that_do() -> None:
    made = several([[0.5, 0.4, 0.3, 0.2, 0.1]], [100])
    with pytest.raises(
        UsageError, match=r"4 bits a weight are not enough: the cheapest grids take 4\.5"
    ) as caught:
        spend(made, 4)
    assert caught.value.fix
