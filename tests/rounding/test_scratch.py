from pathlib import Path

import pytest
import torch

from m4c.grid import Grid
from m4c.rounding.rtn import round_to_nearest
from m4c.rounding.scratch import keep
from tests.rounding.matrices import GRIDS, outliers


@pytest.mark.parametrize("grid", [*GRIDS, Grid(4, 16, False)], ids=str)
@pytest.mark.parametrize("inputs", [32, 96])
def test_rows_are_read_as_they_were_kept(grid: Grid, inputs: int, tmp_path: Path) -> None:
    blocks = round_to_nearest(outliers(9, inputs), grid)
    weight = keep("model.layer.weight", blocks, grid, tmp_path)
    assert (weight.name, weight.shape, weight.grid, weight.order) == (
        "model.layer.weight",
        (9, inputs),
        grid,
        None,
    )
    for rows in (slice(0, 9), slice(2, 5), slice(8, 9)):
        found = weight.rows(rows)
        for part in ("codes", "scales", "zeros"):
            torch.testing.assert_close(getattr(found, part), getattr(blocks, part)[rows], rtol=0, atol=0)


def test_an_odd_number_of_inputs(tmp_path: Path) -> None:
    blocks = round_to_nearest(outliers(3, 33), Grid(4, None))
    found = keep("w", blocks, Grid(4, None), tmp_path).rows(slice(0, 3))
    torch.testing.assert_close(found.codes, blocks.codes, rtol=0, atol=0)


def test_four_bits_take_half_a_byte(tmp_path: Path) -> None:
    keep("w", round_to_nearest(outliers(64, 1024), Grid(4, 128)), Grid(4, 128), tmp_path)
    assert (tmp_path / "w.codes.npy").stat().st_size - 64 * 512 < 200
